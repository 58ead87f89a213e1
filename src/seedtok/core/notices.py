"""Warnings of this package; messages of other libraries, such as progress bars, suppressed while a model loads."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

from seedtok.core.errors import SeedTokWarning
from seedtok.core.shared import SharedContext

DEPRECATIONS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
LIBRARIES = r"(accelerate|diffusers|huggingface_hub|peft|torch|transformers)(\.|$)"
OF_CALLS = ("seedtok", "torch", "contextlib", "jaxtyping", "beartype")  # whose frames a warning is not attributed to


def warn(message: str) -> None:
    """Emits a SeedTokWarning at the line that called this package: Python shows a message once for each such line."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in OF_CALLS:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, SeedTokWarning, stacklevel=level)


@SharedContext
@contextmanager
def pillow_quietly() -> Iterator[None]:
    """Within the block, Pillow's warnings are ignored."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
        yield


@contextmanager
def quietly(*libraries: str) -> Iterator[None]:
    """Within the block, the `libraries`, "transformers" or "diffusers", log errors only and show no loading bars.

    Downloads keep their progress bars, and warnings of this package are shown. All settings are restored at the end.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for category in DEPRECATIONS:
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", module=LIBRARIES)
        optional = logging.getLogger("bitsandbytes")  # which peft and diffusers import where it is installed
        stack.callback(optional.setLevel, optional.level)
        optional.setLevel(logging.ERROR)
        for library in libraries:
            stack.enter_context(_quiet(import_module(f"{library}.utils.logging")))
        yield


@contextmanager
def _quiet(switches: Any) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level, bars, downloads = switches.get_verbosity(), switches.is_progress_bar_enabled(), are_progress_bars_disabled()
    switches.set_verbosity(max(level, logging.ERROR))
    switches.disable_progress_bar()
    # which the libraries' own switch has turned off, too
    (disable_progress_bars if downloads else enable_progress_bars)()
    try:
        yield
    finally:
        switches.set_verbosity(level)
        if bars:
            switches.enable_progress_bar()
        (disable_progress_bars if downloads else enable_progress_bars)()
