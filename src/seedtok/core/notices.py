"""Notices of other packages, such as loading bars and deprecations, kept off the terminal while a model loads."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

PASSING = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)  # for whoever calls the other packages: us
OTHERS = r"(accelerate|diffusers|huggingface_hub|peft|torch|transformers)(\.|$)"


@contextmanager
def quietly(*libraries: str) -> Iterator[None]:
    """Within, "transformers" and "diffusers" show errors alone and no loading bars; downloads keep their bars.

    Afterwards every setting is as it was: it is the user's. Our own warnings stay.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for category in PASSING:
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("ignore", module=OTHERS)
        for library in libraries:
            stack.enter_context(_quiet(import_module(f"{library}.utils.logging")))
        yield


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    level, bars, downloads = logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()
    logging.set_verbosity(max(level, logging.ERROR))
    logging.disable_progress_bar()
    # the libraries' own switch takes the bars of downloads along
    (disable_progress_bars if downloads else enable_progress_bars)()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
        (disable_progress_bars if downloads else enable_progress_bars)()
