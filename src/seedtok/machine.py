"""What a program of ours asks of the machine it runs on."""

import ctypes
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
