"""Suppresses the messages of other libraries, such as progress bars and deprecations, while a model loads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

DEPRECATIONS = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
LIBRARIES = r"(accelerate|diffusers|huggingface_hub|peft|torch|transformers)(\.|$)"


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
        for library in libraries:
            stack.enter_context(_quiet(import_module(f"{library}.utils.logging")))
        yield


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level, bars, downloads = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity(max(level, logging.ERROR))
    logging.disable_progress_bar()
    # which the libraries' own switch has turned off, too
    (disable_progress_bars if downloads else enable_progress_bars)()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        (disable_progress_bars if downloads else enable_progress_bars)()
