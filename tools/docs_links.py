"""A hook of mkdocs: links from the pages to files of the repository outside of docs/ become their names.

On a page of the repository they lead to the file; the site holds docs/ alone.
"""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:src|benchmarks|tools|tests|README|CHANGELOG|CONTRIBUTING)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for every page, before it is rendered."""
    return OUTSIDE.sub(r"\1", markdown)
