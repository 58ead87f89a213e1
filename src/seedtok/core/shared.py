"""Settings of the whole process that several threads change at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager


class SharedContext:
    """A context that changes a setting of the process, for several threads at once.

    Were each thread to save and restore the setting, one could restore what another had set. So the first thread to
    enter changes it, and the last one to leave restores it.
    """

    def __init__(self, change: Callable[[], AbstractContextManager[None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._inside = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._changed = self._change()
                self._changed.__enter__()
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._changed.__exit__(None, None, None)
