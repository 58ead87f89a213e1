"""One writer at a time: a folder's lock, which says who holds it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from seedtok.core.errors import BusyError
from seedtok.core.processes import ProcessId

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".seedtok.lock"
_held: set[int] = set()  # file descriptors of the locks that this process holds


def _let_go_in_child() -> None:
    """A forked child would otherwise keep its parent's lock for as long as it lives."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes a folder if there is none, and holds it against other writers that ask for its lock.

    The lock is a hidden file in the folder, which names its holder and is removed at the end; so is the folder, when
    it is new and still empty. The lock of a process that was killed does not count. Raises BusyError, naming the
    holder, when the folder is held; OSError when it cannot be written to.
    """
    made: list[Path] = []
    try:
        release = _acquire(folder, made)
        try:
            yield
        finally:
            release()
    finally:
        for new in reversed(made):
            with suppress(OSError):  # it is in use by now
                new.rmdir()


def _acquire(folder: Path, made: list[Path]) -> Callable[[], None]:
    for _ in range(100):  # whoever held it may remove the file, or a new folder, at any moment
        made += _make(folder)
        with suppress(FileNotFoundError):
            release = _by_flock(folder) if fcntl else _by_file(folder)
            if release:
                return release
        time.sleep(0.01)
    raise BusyError(f"cannot lock {folder}: other processes keep taking it")


def _make(folder: Path) -> list[Path]:
    """Makes a folder and its parents; returns those that are new, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _by_flock(folder: Path) -> Callable[[], None] | None:
    """Locks by the kernel, which lets go when the process ends; None to try again."""
    assert fcntl is not None
    path = folder / NAME
    try:
        descriptor, is_new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        descriptor, is_new = os.open(path, os.O_RDWR), False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise _busy(folder) from None
    except OSError:  # a file system without such locks
        if is_new:
            return _made_by_us(path, descriptor)
        os.close(descriptor)
        return _by_file(folder)
    try:
        is_same = os.fstat(descriptor).st_ino == path.stat().st_ino  # else its last holder has just removed it
    except FileNotFoundError:
        is_same = False
    if not is_same:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, _record())
    _held.add(descriptor)

    def release() -> None:
        if descriptor in _held:  # not in a forked child
            _held.discard(descriptor)
            path.unlink(missing_ok=True)
            os.close(descriptor)

    return release


def _by_file(folder: Path) -> Callable[[], None] | None:
    """Locks by being the one who makes the file, once its last maker is gone; None to try again."""
    path = folder / NAME
    try:
        return _made_by_us(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        holder = _holder(path)
        if holder and holder[0].is_gone():
            path.unlink(missing_ok=True)
            return None
        raise _busy(folder) from None


def _made_by_us(path: Path, descriptor: int) -> Callable[[], None]:
    owner = os.getpid()
    os.write(descriptor, _record())
    os.close(descriptor)

    def release() -> None:
        if os.getpid() == owner:
            path.unlink(missing_ok=True)

    return release


def _record() -> bytes:
    command = " ".join(["seedtok", *sys.argv[1:]]) if "seedtok" in sys.argv[0] else Path(sys.argv[0]).name
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    return json.dumps(asdict(ProcessId.current()) | {"command": command[:200], "since": since}).encode()


def _holder(path: Path) -> tuple[ProcessId, str] | None:
    """The process that a lock names, and what it says of itself; None for a lock that is just being written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        process = ProcessId(str(record["host"]), int(record["pid"]), int(record["started"]))
        host = process.host.rpartition("-")[0]
        return process, f"process {process.pid} on {host} (`{record['command']}`, since {record['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _busy(folder: Path) -> BusyError:
    holder = _holder(folder / NAME)
    who = holder[1] if holder else f"another process (if there is none, remove {folder / NAME})"
    return BusyError(f"{folder} is being written by {who}: wait until it has ended, or choose another folder")
