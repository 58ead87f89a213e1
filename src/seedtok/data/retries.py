"""Reading again after an error of the disk or the network that may pass."""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PAUSES = (0.2, 1.0, 4.0)  # seconds before each further try
NAMES = (
    "EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "ENOTCONN", "ESHUTDOWN", "ECONNABORTED",
    "ECONNREFUSED", "ECONNRESET", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET", "ENETUNREACH",
)  # fmt: skip
TRANSIENT = frozenset(getattr(errno, name) for name in NAMES if hasattr(errno, name))  # not every system has all


def retried(read: Callable[[], T]) -> T:
    """What `read` returns; it is called again, after each of `PAUSES`, where it raises an OSError that may pass.

    Network file systems give such errors while a server restarts (`TRANSIENT`). Raises the last of them, and any other
    error, such as that of a missing file, at once.
    """
    for pause in PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno not in TRANSIENT:
                raise
            time.sleep(pause)
    return read()
