"""This process among others: its identity, whether another one still runs, and requests to stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from any other one, also from a later one of the same number.

    `host` is the machine's name, with the number of the process namespace, so that containers that share a folder
    and a host name are different hosts. `started` is in clock ticks since the machine started; 0 where the system
    does not say.
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
        """Whether the process has ended, as far as this machine can tell; False for one of another host."""
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
    """Whether this process is the only one of its run, or the first of several ranks, as launchers number them."""
    return os.environ.get("RANK", "0") == "0"


# ---------------------------------------------------------------- requests to stop


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a command in the same orderly way as Ctrl-C."""


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """The exit code of a command that was interrupted: 143 by SIGTERM, 130 by Ctrl-C, as shells have them."""
    return 128 + (signal.SIGTERM if isinstance(interrupt, Terminated) else signal.SIGINT)


def terminate_like_interrupt() -> None:
    """Has SIGTERM raise `Terminated`, so that temporary files are removed. For programs to call, not for libraries."""
    owner = os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        _end_forked_child(owner, number)
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handle)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back until the block has ended; for a few quick steps that belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    with _handling(lambda number, _: caught.append(number)):
        yield
    if caught:
        signal.raise_signal(caught[0])


class StopRequest:
    """What `stop_requests` yields: whether someone has asked this process to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def error(self) -> KeyboardInterrupt:
        """What to raise once the work has been saved."""
        return Terminated() if self.signal == signal.SIGTERM else KeyboardInterrupt()


@contextmanager
def stop_requests(message: str) -> Iterator[StopRequest]:
    """Notes Ctrl-C or SIGTERM in place of stopping, and prints `message` to stderr; a second one stops at once.

    Outside the main thread, where Python delivers no signals, nothing is ever noted.
    """
    request, owner = StopRequest(), os.getpid()

    def handle(number: int, _: FrameType | None) -> None:
        _end_forked_child(owner, number)
        second = bool(request)
        request.signal = number
        if second:
            raise request.error()
        if message:
            with suppress(OSError):
                os.write(2, f"\n{message}\n".encode())  # print is not safe in a handler

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with _handling(handle):
        yield request


@contextmanager
def _handling(handler: Any) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number in SIGNALS:
            signal.signal(number, handler)
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _end_forked_child(owner: int, number: int) -> None:
    """Ends a forked child, such as a data loader's worker, by the signal itself: the handlers are its parent's."""
    if os.getpid() != owner:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
