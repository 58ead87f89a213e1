"""The paths of the page: files that are the same for everyone, and need no key. Nothing else of gradio's is reached."""

from __future__ import annotations

import re

FOLDER = "/page"
GRADIO = ("/", "/config", "/theme.css", "/favicon.ico", "/assets/{file:path}", "/static/{file:path}")
FILE = r"[\w@-][\w.@-]*"  # a name that does not begin with a dot
_PAGE = re.compile(rf"/(?:config|theme\.css|favicon\.ico|(?:assets|static)(?:/{FILE})+|page/{FILE})?", re.ASCII)


def is_page(path: str) -> bool:
    """Whether a path is one of the page's."""
    return _PAGE.fullmatch(path) is not None
