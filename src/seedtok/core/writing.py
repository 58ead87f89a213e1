"""Files and folders that appear complete or not at all.

Everything is written under a hidden name first, which carries the process that writes. When that process is killed, the
next one that writes to the same folder removes what it left.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from itertools import count
from pathlib import Path

from safetensors import SafetensorError

from seedtok.core.errors import CheckpointError
from seedtok.core.processes import ProcessId, uninterrupted

HIDDEN = ".seedtok."  # how the names of temporary files, and of locks, begin
TEMPORARY = re.compile(r"\.seedtok\.([A-Za-z0-9-]+)\.(\d+)\.(\d+)\.\d+\.(tmp|done)(\..*)?", re.DOTALL)
LAST = ("config.json", "model_index.json")  # what makes a folder a checkpoint
SHARED_FOLDERS = ("text_tokenizer", "adapter")  # parts that not every checkpoint has, found by being there
READ_BY_NAME = (  # what the loaders of checkpoints pick up because it is there
    "model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json",
    "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model*.safetensors.index.json",
    "adapter_model.safetensors", "adapter_config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json",
    "special_tokens_map.json", "chat_template.jinja",
)  # fmt: skip
OPTIONAL = ("familiarity.safetensors", "language_projection.safetensors")  # of ours, beside config.json
_numbers = count()
_swept: set[tuple[int, Path]] = set()


# ---------------------------------------------------------------- temporary names


def temporary_path(folder: Path, suffix: str = "") -> Path:
    """A new hidden name in a folder, for this process alone, that ends in `suffix`, such as ".png"."""
    me = ProcessId.current()
    return folder / f"{HIDDEN}{me.host}.{me.pid}.{me.started}.{next(_numbers)}.tmp{suffix}"


def is_empty(folder: Path) -> bool:
    """Whether a folder is missing, or holds nothing but temporary files and a lock of ours."""
    return not folder.is_dir() or all(path.name.startswith(HIDDEN) for path in folder.iterdir())


def sweep(folder: Path) -> None:
    """Removes what processes that were killed left in a folder, and finishes what they had only to move into place.

    What belongs to a process that still runs, or that ran on another host, stays.
    """
    with suppress(OSError):
        for path in list(folder.iterdir()):
            found = TEMPORARY.fullmatch(path.name)
            if found and ProcessId(found[1], int(found[2]), int(found[3])).is_gone():
                with suppress(OSError):
                    if found[4] == "done":
                        _move(path, folder)
                remove(path)


def remove(path: Path) -> None:
    """Removes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# ---------------------------------------------------------------- one file, one folder


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name of `path`'s suffix that takes its place when the block ends well, and else goes away."""
    once = (os.getpid(), path.parent.absolute())  # a folder may get many files
    if once not in _swept:
        _swept.add(once)
        sweep(path.parent)
    temporary = temporary_path(path.parent, path.suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `folder`, with all that is in it, when the block ends well.

    For folders that are this package's own, such as a run's checkpoints; `files_into` leaves other files alone. Raises
    CheckpointError when it cannot be written, such as on a full disk.
    """
    sweep(folder.parent)
    temporary = temporary_path(folder.parent)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        replace_folder(temporary, folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None
    finally:
        remove(temporary)


def replace_folder(new: Path, folder: Path) -> None:
    """Puts a folder in the place of another one of the same parent, which is removed."""
    old = temporary_path(folder.parent)
    with uninterrupted():
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    remove(old)


def remove_folder(folder: Path) -> None:
    """Removes a folder so that, when this process is killed on the way, no half of it is taken for a whole one."""
    old = temporary_path(folder.parent)
    folder.rename(old)
    remove(old)


# ---------------------------------------------------------------- files among others


@contextmanager
def files_into(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder whose files then take the place of their namesakes in `folder`, one by one.

    Each is replaced atomically, config.json last. Files of other names stay, with one exception: where `folder` held
    a checkpoint, those of its weights and of its tokenizer that the new one does not have, and that its readers would
    mistake for parts of it, are removed. Raises CheckpointError when it cannot be written, such as on a full disk.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with hidden_folder(folder) as new:
            yield new
            move_into(new, folder, _outdated(folder, new))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None
    finally:
        if is_new:
            with suppress(OSError):  # it has its files
                folder.rmdir()


@contextmanager
def hidden_folder(folder: Path) -> Iterator[Path]:
    """Yields a new hidden folder inside another one, removed at the end; `move_into` takes its files out of it."""
    sweep(folder)
    temporary = temporary_path(folder)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        remove(temporary)
        remove(_complete(temporary))


def move_into(hidden: Path, folder: Path, outdated: list[Path] | None = None) -> None:
    """Moves what a `hidden_folder` holds into its place, and removes the `outdated` files.

    A process that is killed half-way has its move finished by the next `sweep`. Raises OSError, before anything is
    moved, where a folder stands in the way of a file or the other way round.
    """
    for path in _files(hidden):
        target = folder / path.relative_to(hidden)
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder, where a file has to go")
        for parent in target.parents[: len(path.relative_to(hidden).parents) - 1]:
            if parent.is_symlink():
                raise NotADirectoryError(f"{parent} is a link to another folder, whose files are not replaced")
            if parent.exists() and not parent.is_dir():
                raise NotADirectoryError(f"{parent} is a file, where a folder has to go")
    with uninterrupted():
        complete = hidden.rename(_complete(hidden))
        for path in outdated or []:
            path.unlink(missing_ok=True)
            with suppress(OSError):
                path.parent.rmdir()  # a part's folder that is empty now
        _move(complete, folder)


def _complete(hidden: Path) -> Path:
    return hidden.with_name(hidden.name.removesuffix(".tmp") + ".done")


def _files(folder: Path) -> list[Path]:
    """All files below a folder, those that make it a checkpoint last."""
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(found, key=lambda path: path.parent == folder and path.name in LAST)


def _move(source: Path, folder: Path) -> None:
    for path in _files(source):
        target = folder / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)


def _outdated(folder: Path, new: Path) -> list[Path]:
    """The files of the checkpoint in `folder` that the one in `new` does not have, but its readers would take for its.

    Only where both are checkpoints of one kind; what the new configuration names stays.
    """
    kind, record = _kind(new)
    if kind is None or _kind(folder)[0] != kind:
        return []
    named = {Path(value).parts[:1] for value in record.values() if isinstance(value, str)}
    parts = {path.name for path in new.iterdir() if path.is_dir()} | set(SHARED_FOLDERS)
    places = [folder / part for part in sorted(parts) if (new / part).is_dir() or (part,) not in named]
    left = [folder / name for name in OPTIONAL if kind == "seedtok" and not (new / name).exists()]
    places += [folder] if kind != "seedtok" else []  # of ours, all else beside config.json is always rewritten
    return [path for path in left if path.is_file()] + [
        path
        for place in places
        if place.is_dir() and not place.is_symlink()
        for path in place.iterdir()
        if any(fnmatch(path.name, pattern) for pattern in READ_BY_NAME)
        and not path.is_dir()
        and not (new / path.relative_to(folder)).exists()
    ]


def _kind(folder: Path) -> tuple[str | None, dict[str, object]]:
    """What a folder is a checkpoint of: "seedtok", or a type of transformers' or diffusers'; and its configuration."""
    for name in LAST:
        with suppress(OSError, ValueError, RecursionError):
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            if isinstance(record, dict):
                if str(record.get("format")).startswith("seedtok."):
                    return "seedtok", record
                kind = record.get("model_type") or record.get("_class_name")
                return (None if kind is None else str(kind)), record
    return None, {}


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in a format of this package."""
    return _kind(folder)[0] == "seedtok"
