"""Shards as tar files, indexed for random access to samples."""

import errno
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from seedtok.core.errors import DataError
from seedtok.core.records import json_value
from seedtok.data.headers import BLOCK, LINK, Contents, is_cut, read_headers
from seedtok.data.retries import retried
from seedtok.data.shard_index import MISSING, Entry, Index, read_index, state_of, write_index

IMAGES = ("png", "jpg", "jpeg", "webp")  # suffixes of a sample's image; the first that it has is used
READ = (*IMAGES, "txt", "json")  # suffixes of the files of a sample that are read
SMALLEST_SAMPLE = 2 * 512  # bytes in a tar: a header and a block of an image
DOTTED = "a dot before the suffix: the key of a sample ends at the first dot of a name, so rename it"
Part = tuple[int, int]  # offset and size in the tar


def slice_of(file: BinaryIO, part: tuple[int, int]) -> bytes:
    """The bytes at (offset, size) of a file; raises ValueError where it is shorter."""
    file.seek(part[0])
    data = file.read(part[1])
    if len(data) != part[1]:
        raise ValueError("the file has become shorter since it was opened")
    return data


def stats_path(path: Path) -> Path:
    """The file of counts of a shard."""
    return path.with_name(f"{path.stem}_stats.json")


def count_samples(path: Path) -> int:
    """The number of samples in a shard, from its file of counts or else from its headers.

    A truncated shard is counted by its headers, and one of less than a header has none. Raises DataError for a file
    that is not a tar.
    """
    if is_truncated(path):
        return len(index_samples(path))
    counted = _counted(path)
    with suppress(OSError):  # which the headers then say
        if counted is not None and counted <= retried(path.stat).st_size // SMALLEST_SAMPLE:
            return counted
    return len(index_samples(path))


def _counted(path: Path) -> int | None:
    """The number of samples in the file of counts of a shard; None where there is no valid one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        counted = json_value(retried(stats_path(path).read_bytes))["successes"]
        if type(counted) is int and counted >= 0:
            return counted
    return None


def lost_samples(path: Path, count: int) -> int:
    """The number of samples that a truncated shard with `count` samples lacks, at least 1; 0 for a complete shard."""
    if not is_truncated(path):
        return 0
    return max(1, (_counted(path) or 0) - count)


def ends_early(count: int) -> str:
    """What is wrong with a truncated shard of so many samples."""
    return f"the shard ends early, after {count} samples"


def is_truncated(path: Path) -> bool:
    """Whether a tar file is truncated, as one of less than a header is; raises DataError where it is not a tar."""
    try:
        return retried(partial(_lacks_end, path))
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None


def _lacks_end(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(BLOCK)
    if len(head) == BLOCK and head[257:262] != b"ustar" and head.strip(b"\0"):
        raise DataError(f"{path} is not a tar file")
    return len(head) < BLOCK or is_cut(path)


def index_samples(path: Path, hashes: Callable[[Path, Sequence[Entry]], np.ndarray] | None = None) -> Index:
    """The samples of a shard, as `walk_samples` gives them, from its stored index if that is of the shard as it is.

    Else from its headers, and the index is stored for the next time (see `shard_index`). With `hashes`, which computes
    those (N,) uint64 of the images from a shard and its entries, the index has them. Raises DataError for a file that
    is not a tar or cannot be read.
    """
    try:
        state = retried(partial(state_of, path))
        found = read_index(path, state)
        if found is not None and (hashes is None or found.hashes is not None):
            return found
        entries = retried(partial(walk_samples, path)) if found is None else found
        index = Index.of(entries, retried(partial(hashes, path, entries)) if hashes else None)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None
    write_index(path, state, index)
    return index


def walk_samples(path: Path) -> list[Entry]:
    """The samples of a shard, from its headers; raises DataError for a file that is not a tar, and OSError.

    After the samples come those that no count of the shard takes for one of its own, all of which cannot be read: a
    place where it is damaged, if no sample beside it lacks an image or a caption, and further pictures with a dot in
    their name.
    """
    try:
        size = path.stat().st_size
        contents = read_headers(path) if size >= BLOCK else Contents([], [])
    except Exception as error:  # on broken headers, tarfile can raise almost any exception
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # EINVAL: of an offset in a header
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is truncated or not a tar file ({reason}); copy or write it again") from None
    samples: dict[str, dict[str, Part]] = {}
    twice, keys = set[str](), list[str]()
    for name, offset, length in contents.members:
        key, suffix = _key_and_suffix(name)
        keys.append(key)
        if suffix is not None and (suffix in READ or offset != LINK):
            parts = samples.setdefault(key, {})
            if suffix in parts and suffix in READ:
                twice.add(key)
            parts[suffix] = offset, length
    entries, more = list[Entry](), list[Entry]()
    for key, parts in samples.items():
        if key in twice:
            entries.append(_bad(key, "its key occurs twice: pack the shard again"))
        else:
            first, *others = _entries(key, parts, size)
            entries.append(first)
            more += others
    problems = {entry.key for entry in entries if entry.problem or entry.text == entry.metadata == MISSING}
    for start, index in contents.breaks:
        if not problems & set(keys[max(0, index - 1) : index + 1]):
            more.append(_bad(f"at byte {start}", "more data without a header: the shard is damaged"))
    return entries + more


def _key_and_suffix(name: str) -> tuple[str, str | None]:
    """The key of a member's sample, and its suffix; None for a file that is none of a sample."""
    folder, _, base = name.rpartition("/")
    key, _, suffix = base.partition(".")
    return f"{folder}/{key}".lstrip("/"), None if base.startswith(".") else suffix.lower()  # "._": of macOS


def _bad(key: str, problem: str) -> Entry:
    return Entry(key, MISSING, MISSING, MISSING, problem)


def _entries(key: str, parts: dict[str, Part], size: int) -> list[Entry]:
    """What the files of one key are in a shard of `size` bytes: a sample, and further pictures with a dot before."""
    image = next((parts[suffix] for suffix in IMAGES if suffix in parts), None)
    dotted = [
        suffix for suffix in parts
        if (stem := suffix.rpartition("."))[1] and stem[2] in IMAGES and (image is None or f"{stem[0]}.txt" in parts)
    ]  # fmt: skip
    others = [_bad(f"{key}.{suffix}", DOTTED) for suffix in dotted]
    if any(offset + length > size for offset, length in parts.values()):
        return [_bad(key, "it is incomplete: the shard is truncated")]
    if image is None and others:
        return others
    if links := [suffix for suffix in READ if parts.get(suffix, (0, 0))[0] == LINK]:
        return [_bad(key, f"{', '.join(links)}: a link to a file that is not before it in the shard"), *others]
    if image is None:
        return [_bad(key, f"no image (.png, .jpg or .webp); it has {', '.join(sorted(parts))}"), *others]
    return [Entry(key, image, parts.get("txt", MISSING), parts.get("json", MISSING)), *others]


def shard_paths(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The shards of a folder, sorted by name, or the given ones; raises DataError where there are none."""
    given = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    paths: list[Path] = []
    for path in given:
        found = (shard for shard in path.glob("*.tar") if not shard.name.startswith("."))  # "._": of macOS
        inside = sorted(found) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"no shards in {path}: expected .tar files")
        paths += inside
    if not paths:
        raise DataError("no shards given")
    return paths
