"""Locks of folders: one writer at a time. The lock file names the process that holds it."""

from __future__ import annotations

import errno
import json
import os
import stat
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
_held: set[int] = set()  # file descriptors of the kernel locks that this process holds


def _close_in_child() -> None:
    """Closes the locks that a forked child inherits: it would otherwise hold them until it ends."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is created if it does not exist.

    The lock is a hidden file in the folder that names its holder, and is removed at the end, as is a new folder that is
    still empty. The lock of a killed process is ignored. Raises BusyError, naming the holder, when another process
    holds the lock; OSError when the folder cannot be written to, or a link has the lock's name.
    """
    created: list[Path] = []
    try:
        release = _acquire(folder, created)
        try:
            yield
        finally:
            release()
    finally:
        for new in reversed(created):
            with suppress(OSError):  # it is not empty
                new.rmdir()


def holder_of(folder: Path) -> str | None:
    """A line on the process that holds the lock of a folder; None where none does. Several may ask at a time."""
    path = folder / NAME
    try:
        descriptor = _open_existing(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if fcntl:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None
    except BlockingIOError:
        return str(_busy(folder))
    except OSError:  # the file system has no such locks
        pass
    finally:
        os.close(descriptor)
    holder = _holder(path)
    return None if holder and holder[0].is_gone() else str(_busy(folder))


def _acquire(folder: Path, created: list[Path]) -> Callable[[], None]:
    """Takes the lock, and adds the folders that it created to `created`; returns the function that releases it."""
    for _ in range(100):  # the previous holder may remove the file, or a new folder, at any moment
        created += _create(folder)
        with suppress(FileNotFoundError):
            release = _kernel_lock(folder) if fcntl else _file_lock(folder)
            if release:
                return release
        time.sleep(0.01)
    raise BusyError(f"cannot lock {folder}: other processes keep locking it; try again")


def _create(folder: Path) -> list[Path]:
    """Creates a folder and its parents; returns the new ones, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def _open_existing(path: Path, flags: int) -> int:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EEXIST, "a link or a special file stands where the lock would", str(path)) from None
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _kernel_lock(folder: Path) -> Callable[[], None] | None:
    """A lock of the kernel (flock), which is released when the process ends; None to try again."""
    assert fcntl is not None
    path = folder / NAME
    try:
        descriptor, is_new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        descriptor, is_new = _open_existing(path, os.O_RDWR), False
    try:
        is_taken = _take(descriptor)
    except OSError:  # the file system has no such locks
        if is_new:
            return _own_file(path, descriptor)
        os.close(descriptor)
        return _file_lock(folder)
    if not is_taken:
        os.close(descriptor)
        raise _busy(folder)
    try:
        is_same = os.fstat(descriptor).st_ino == path.lstat().st_ino  # otherwise its last holder has just removed it
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


def _take(descriptor: int) -> bool:
    """Takes the kernel's lock of an open file; False where another process has it for longer than `holder_of` does."""
    assert fcntl is not None
    for _ in range(4):
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def _file_lock(folder: Path) -> Callable[[], None] | None:
    """A lock that the process holds which created the file, unless that process has ended; None to try again."""
    path = folder / NAME
    try:
        return _own_file(path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        holder = _holder(path)
        if holder and holder[0].is_gone():
            path.unlink(missing_ok=True)
            return None
        may_be_gone = os.name == "nt" or (holder is not None and holder[0].host != ProcessId.current().host)
        raise _busy(folder, may_be_gone) from None


def _own_file(path: Path, descriptor: int) -> Callable[[], None]:
    """Writes this process's record into a lock file that it has just created; returns the function that removes it."""
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
    """The process that a lock names, and its description; None for a lock that is being written."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        process = ProcessId(str(record["host"]), int(record["pid"]), int(record["started"]))
        host = process.host.rpartition("-")[0]
        return process, f"process {process.pid} on {host} (`{record['command']}`, since {record['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _busy(folder: Path, elsewhere: bool = False) -> BusyError:
    """`elsewhere`: the holder was on another host and may have been killed, which nothing tells us."""
    holder = _holder(folder / NAME)
    who = holder[1] if holder else f"another process (if there is none, remove {folder / NAME})"
    remedy = f", or if it was killed there, remove {folder / NAME}" if elsewhere else ""
    return BusyError(f"{folder} is being written by {who}: wait until it has ended, or choose another folder{remedy}")
