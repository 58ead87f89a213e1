"""What a program of ours asks of the machine it runs on."""

import ctypes
import os
import sys
import time
from pathlib import Path


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
    """The cores that this process may use and others do not, at least 1, by what runs during a fifth of a second.

    More threads than that wait for one another, and PyTorch's wait by spinning: beside one other job, training on two
    threads of two cores ran at a tenth of the speed of one thread.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = (os.cpu_count() or cores) - round(_others_running())  # what runs is counted over the whole machine
    return max(1, min(cores, free))


def _others_running(samples: int = 20, seconds: float = 0.2) -> float:
    """How many other processes and threads run, on average over some time; 0 where that cannot be told."""
    running = []
    for _ in range(samples):
        try:
            counts = Path("/proc/loadavg").read_text().split()[3]  # running/all, this one among them
            running.append(max(0, int(counts.partition("/")[0]) - 1))
        except (OSError, ValueError, IndexError):
            return 0.0
        time.sleep(seconds / samples)
    return sum(running) / samples


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
