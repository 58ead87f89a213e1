"""What a program of ours asks of the machine it runs on."""

import ctypes
import os
import sys


def keep_freed_memory() -> None:
    """Tells glibc to keep freed memory for the next step in place of giving it back to the kernel.

    A training step frees and takes hundreds of megabytes; handing them back and forth took a third of its time. For
    programs to call at their start, not for libraries: it changes the whole process. Does nothing where there is no
    glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


def spare_cores() -> int:
    """The cores that this process may use and others do not, at least 1, by the load of the last minute.

    More threads than that wait for one another, and PyTorch's wait by spinning: beside one other job, training on two
    threads of two cores ran at a tenth of the speed of one thread.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(load))


def open_missing_streams() -> None:
    """Opens the null device as each of stdin, stdout and stderr that is closed, as after `>&-` in a shell.

    For programs to call at their start. Python has None for a closed stream, and the next file that is opened would
    take its number.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def flush_output() -> OSError | None:
    """Writes out what stdout still holds; returns why it could not be, such as that its reader has gone.

    Then stdout is the null device, so that Python does not try again at exit.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
