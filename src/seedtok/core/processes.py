"""The running process: its identity, requests to stop it, and its memory and standard streams."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal is closed; Windows has none
SIGNALS = (signal.SIGINT, signal.SIGTERM, *([] if HANGUP is None else [HANGUP]))
FORWARDED = 10.0  # seconds within which a second SIGTERM is taken for the first one
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


@dataclass(frozen=True)
class ProcessId:
    """The identity of a process, distinct from that of a later process with the same number.

    `host` is the name of the machine with the number of the process namespace, which distinguishes containers of the
    same host name. `started` is in clock ticks since the machine started, and 0 where it is unknown.
    """

    host: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> ProcessId:
        name = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()) or "host"
        try:
            namespace = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
        except OSError:
            namespace = "0"
        return cls(f"{name}-{namespace}", os.getpid(), _start_of(os.getpid()))

    def is_gone(self) -> bool:
        """Whether the process has certainly ended; False for one of another host."""
        here = ProcessId.current()
        if self.host != here.host or os.name == "nt":  # on Windows, os.kill would end the process
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (PermissionError, OverflowError):
            return False
        started = _start_of(self.pid)
        return bool(self.started and started and self.started != started)


def _start_of(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def is_main_rank() -> bool:
    """Whether this process is the only one of its run, or rank 0 of several (environment variable RANK)."""
    return os.environ.get("RANK", "0") == "0"


# ---------------------------------------------------------------- requests to stop


class Terminated(KeyboardInterrupt):
    """Raised for SIGTERM and SIGHUP, which then end a command as Ctrl-C does."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code of an interrupted command, as in shells: 143 for SIGTERM and SIGHUP, 130 for Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def terminate_like_interrupt() -> None:
    """Makes SIGTERM and SIGHUP raise `Terminated`, so that temporary files are removed.

    For programs, not for libraries. SIGHUP stays ignored where it is, as under `nohup`.
    """
    owner = os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        if _is_for_parent(owner, number):
            return
        if number == HANGUP:  # the shell sends it, and the kernel again
            signal.signal(number, signal.SIG_IGN)
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if number != signal.SIGINT and not _stays_ignored(number):
                signal.signal(number, handle)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delays Ctrl-C, SIGTERM and SIGHUP until the end of the block, which should be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    with _handling(lambda number, _: caught.append(number)):
        yield
    if caught:
        signal.raise_signal(caught[0])


class StopRequest:
    """True once Ctrl-C, SIGTERM or SIGHUP has asked this process to stop; see `stop_requests`."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0  # of `time.monotonic`

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self) -> KeyboardInterrupt:
        """The exception to raise after the work has been saved."""
        return KeyboardInterrupt() if self.signal == signal.SIGINT else Terminated()


@contextmanager
def stop_requests(message: str) -> Iterator[StopRequest]:
    """Within the block, Ctrl-C or SIGTERM sets the yielded request and prints `message` to stderr; a second one raises.

    So does SIGHUP, but for the second one, unless it is ignored. Nor does a second SIGTERM within `FORWARDED` seconds
    raise: a launcher forwards to its processes what the scheduler has sent to all of them. Outside the main thread,
    where Python delivers no signals, the request is never set.
    """
    request, owner = StopRequest(), os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        if _is_for_parent(owner, number):
            return
        if request.signal == number == signal.SIGTERM and time.monotonic() - request.since < FORWARDED:
            return
        second = bool(request) and number != HANGUP  # the shell sends that, and the kernel again
        request.signal, request.since = number, time.monotonic()
        if second:
            raise request.error()
        if message:
            with suppress(OSError):
                os.write(2, f"\n{message}\n".encode())  # print is not safe in a signal handler

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with _handling(handle):
        yield request


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS if not _stays_ignored(number)}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _stays_ignored(number: int) -> bool:
    return number == HANGUP and signal.getsignal(number) == signal.SIG_IGN


def _is_for_parent(owner: int, number: int) -> bool:
    """Whether a signal has reached a forked child, such as a data loader's worker; it then ends by the default action.

    Not so for SIGHUP, which a closed terminal sends to all its processes: a child ends with its parent, which stops in
    order, without that terminal.
    """
    is_child = os.getpid() != owner
    if is_child and number != HANGUP:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif number == HANGUP:
        _leave_closed_terminal()
    return is_child


def _leave_closed_terminal() -> None:
    """Redirects stdout and stderr to the null device where their terminal is closed: writing to it would raise."""
    import termios  # Windows has none

    for stream in (1, 2):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] in (errno.EIO, errno.ENXIO):  # other streams are no terminal
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream)
                os.close(null)


def end_with_parent() -> Callable[[], None]:
    """What a new process calls before its program, as `preexec_fn`, so that it gets SIGTERM once its parent is gone.

    Has an effect on Linux alone. The parent is the thread that starts the process.
    """
    parent = os.getpid()
    try:
        prctl = ctypes.CDLL(None).prctl if sys.platform.startswith("linux") else None
    except (OSError, AttributeError):
        prctl = None

    def ask() -> None:
        if prctl is not None:
            prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it ended meanwhile
                os.kill(os.getpid(), signal.SIGTERM)

    return ask


# ---------------------------------------------------------------- memory, streams


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for reuse instead of returning it to the kernel; no effect without glibc.

    A training step allocates and frees hundreds of megabytes; returning them each time took a third of its time. For
    programs, not for libraries: it affects the whole process.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # constants of malloc.h
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 1 << 26)


def open_missing_streams() -> None:
    """Opens the null device in place of each standard stream that is closed, as by `>&-` in a shell.

    For programs to call at their start: the next file that is opened would otherwise get the number of that stream.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def flush_output() -> OSError | None:
    """Flushes stdout; returns the error if that fails, for instance because the reader has closed the pipe.

    After an error stdout is the null device, so that Python does not flush again at exit.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return error
    return None
