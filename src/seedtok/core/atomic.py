"""Atomic writes: a file or a folder appears complete or not at all.

Everything is written to a hidden temporary name first, and is on the disk before it gets its own name, so that it is
whole after a power cut too. The hidden name identifies the writing process, so that when the process is killed, the
next one that writes to the same folder can remove its temporary files.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from safetensors import SafetensorError

from seedtok.core.errors import CheckpointError
from seedtok.core.processes import ProcessId, uninterrupted

HIDDEN = ".seedtok."  # prefix of the names of temporary files and of locks
TEMPORARY = re.compile(r"\.seedtok\.([A-Za-z0-9-]+)\.(\d+)\.(\d+)\.\d+\.(tmp|done)(\..*)?", re.DOTALL)
LAST = ("config.json", "model_index.json")  # moved last: they make a folder a checkpoint
_numbers = count()
_cleaned: set[tuple[int, Path]] = set()


# ---------------------------------------------------------------- temporary names


def temporary_path(folder: Path, suffix: str = "") -> Path:
    """A hidden name in a folder that no other process and no other call uses; `suffix` is such as ".png"."""
    me = ProcessId.current()
    return folder / f"{HIDDEN}{me.host}.{me.pid}.{me.started}.{next(_numbers)}.tmp{suffix}"


def is_empty(folder: Path) -> bool:
    """Whether a folder is missing, or contains only temporary files and a lock of this package."""
    return not folder.is_dir() or all(path.name.startswith(HIDDEN) for path in folder.iterdir())


def remove_leftovers(folder: Path, alone: bool = False) -> None:
    """Removes the temporary files of killed processes from a folder, and finishes moves that they had begun.

    Files of a process that still runs, or that ran on another host, stay, and so do links and another user's files.
    With `alone` those of other hosts are removed too: where the caller's lock says that nobody else writes there.
    """
    here = ProcessId.current().host
    with suppress(OSError):
        for path in list(folder.iterdir()):
            found = TEMPORARY.fullmatch(path.name)
            if not found or not _is_own(path):
                continue
            writer = ProcessId(found[1], int(found[2]), int(found[3]))
            if writer.is_gone() or (alone and writer.host != here):
                with suppress(OSError):
                    if found[4] == "done":
                        _check_targets(path, folder)
                        _move(path, folder)
                remove(path)


def _is_own(path: Path) -> bool:
    """Whether a path is no link, and this user's or that of its folder's owner (some file systems change users)."""
    try:
        owners = {os.geteuid(), path.parent.stat().st_uid} if os.name != "nt" else {path.lstat().st_uid}
        return not path.is_symlink() and path.lstat().st_uid in owners
    except FileNotFoundError:
        return False


def remove(path: Path) -> None:
    """Removes a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# ---------------------------------------------------------------- one file, one folder


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the suffix of `path`, which replaces `path` when the block succeeds.

    When the block raises, the temporary file is removed and `path` does not change.
    """
    key = (os.getpid(), path.parent.absolute())
    if key not in _cleaned:  # once a process: many files may be written to one folder
        _cleaned.add(key)
        remove_leftovers(path.parent)
    temporary = temporary_path(path.parent, path.suffix)
    try:
        yield temporary
        to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, which replaces `folder` with all its contents when the block succeeds.

    For folders that belong to this package alone, such as the checkpoints of a run; `core.checkpoint.checkpoint_folder`
    keeps other files. Raises CheckpointError when the folder cannot be written, such as on a full disk.
    """
    remove_leftovers(folder.parent)
    temporary = temporary_path(folder.parent)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        to_disk(*_files(temporary))
        replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None
    finally:
        remove(temporary)


def replace_folder(new: Path, folder: Path) -> None:
    """Replaces a folder by another one with the same parent, and removes the old one."""
    old = temporary_path(folder.parent)
    with uninterrupted():
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    remove(old)


def remove_folder(folder: Path) -> None:
    """Removes a folder under a hidden name, so that a half-removed one is never taken for a complete one."""
    old = temporary_path(folder.parent)
    folder.rename(old)
    remove(old)


# ---------------------------------------------------------------- several files of one folder


@contextmanager
def hidden_folder(folder: Path) -> Iterator[Path]:
    """Yields a new hidden folder inside another one, which is removed at the end; `move_into` moves its files out."""
    remove_leftovers(folder)
    temporary = temporary_path(folder)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        remove(temporary)
        remove(_complete(temporary))


def move_into(hidden: Path, folder: Path, outdated: list[Path] | None = None) -> None:
    """Moves the files of a `hidden_folder` into `folder`, and removes the `outdated` files.

    When the process is killed in between, the next `remove_leftovers` finishes the move. Raises OSError, before
    anything is moved, where a folder stands in the way of a file or the other way round, and on a full disk.
    """
    _check_targets(hidden, folder)
    files = _files(hidden)
    readable_as_new(*files)
    to_disk(*files)
    with uninterrupted():
        complete = hidden.rename(_complete(hidden))
        for path in outdated or []:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()  # the folder of a part, if it is empty now
        _move(complete, folder)


def readable_as_new(*paths: Path) -> None:
    """Gives files that their owner alone can read, as safetensors makes them, the mode of any new file.

    Where the file system does not know modes they stay as they are.
    """
    mode = None
    for path in paths:
        with suppress(OSError):
            if path.is_symlink() or stat.S_IMODE(path.stat().st_mode) != 0o600:
                continue
            if mode is None:
                with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as probe:
                    new = Path(probe, "new")
                    new.touch()
                    mode = stat.S_IMODE(new.stat().st_mode)
            path.chmod(mode)


def to_disk(*paths: Path) -> None:
    """Waits until files are on the disk; only then do some file systems tell of a full one, by an OSError."""
    for path in paths:
        if path.is_file() and not path.is_symlink():
            with path.open("r+b") as file:
                os.fsync(file.fileno())


def _complete(hidden: Path) -> Path:
    return hidden.with_name(hidden.name.removesuffix(".tmp") + ".done")


def _files(folder: Path) -> list[Path]:
    """All files below a folder, with those that make it a checkpoint at the end."""
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(found, key=lambda path: path.parent == folder and path.name in LAST)


def _check_targets(source: Path, folder: Path) -> None:
    """Raises OSError where something in `folder` is in the way of what `_move` would move there."""
    for path in _files(source):
        target = folder / path.relative_to(source)
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder, and a file of that name is to be written")
        for parent in target.parents[: len(path.relative_to(source).parents) - 1]:
            if parent.is_symlink():
                raise NotADirectoryError(f"{parent} is a link to a folder, and files are not written through links")
            if parent.exists() and not parent.is_dir():
                raise NotADirectoryError(f"{parent} is a file, and a folder of that name is to be written")


def _move(source: Path, folder: Path) -> None:
    """Moves each file below `source` to the same relative path below `folder`."""
    for path in _files(source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
