"""Shards as tar files: written atomically, and indexed for random access to samples."""

import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from seedtok.core.atomic import hidden_folder, move_into, remove_leftovers
from seedtok.core.errors import DataError
from seedtok.core.locks import locked
from seedtok.core.records import json_value

IMAGES = ("png", "jpg", "jpeg", "webp")  # suffixes of a sample's image; the first that it has is used
SMALLEST_SAMPLE = 2 * 512  # bytes in a tar: one header for an image and one for a caption


@dataclass(frozen=True)
class ShardReport:
    """The number of samples written, the names and reasons of the skipped ones, and the shards."""

    written: int
    skipped: tuple[tuple[str, str], ...]
    shards: tuple[Path, ...]


class ShardWriter:
    """Writes samples into tar files of `shard_size` samples each, with a file of counts beside each."""

    def __init__(self, folder: Path, shard_size: int) -> None:
        self.folder, self.shard_size = folder, shard_size
        self.written = 0
        self.skipped: list[tuple[str, str]] = []
        self.names: list[str] = []
        self._tar: tarfile.TarFile | None = None
        self._status: Counter[str] = Counter()

    def add(self, image: bytes, suffix: str, text: str, record: dict[str, Any]) -> None:
        index = self.written % self.shard_size
        if index == 0:
            self.finish()
            self.names.append(f"{len(self.names):05d}")
            path = self.folder / f"{self.names[-1]}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        assert self._tar is not None
        key = f"{self.names[-1]}{index:0{len(str(self.shard_size - 1))}d}"
        metadata = json.dumps({"key": key, "caption": text} | record)
        for ending, data in (
            (suffix, image),
            ("txt", text.encode(errors="replace")),
            ("json", metadata.encode()),
        ):
            entry = tarfile.TarInfo(f"{key}.{ending}")  # by default with time, user and group 0
            entry.size = len(data)
            self._tar.addfile(entry, BytesIO(data))
        self.written += 1
        self._status["success"] += 1

    def skip(self, name: str, reason: str, status: str) -> None:
        self.skipped.append((name, reason))
        self._status[status] += 1

    def finish(self) -> None:
        if self._tar is None:
            return
        self.close()
        counts = {"count": self._status.total(), "successes": self._status["success"]}
        failures = {status: self._status[status] for status in ("failed_to_download", "failed_to_resize")}
        stats = counts | failures | {"status_dict": dict(self._status)}
        (self.folder / f"{self.names[-1]}_stats.json").write_text(json.dumps(stats, indent=4))
        self._status.clear()

    def close(self) -> None:
        tar, self._tar = self._tar, None
        if tar is not None:
            tar.close()

    def report(self, out: Path) -> ShardReport:
        return ShardReport(self.written, tuple(self.skipped), tuple(out / f"{name}.tar" for name in self.names))


def holds_shards(folder: Path) -> bool:
    """Whether a folder has shards, or their files of counts."""
    return next(folder.glob("*.tar"), None) is not None or next(folder.glob("*_stats.json"), None) is not None


@contextmanager
def writing(out: Path, shard_size: int) -> Iterator[ShardWriter]:
    """Yields a writer whose shards appear in the folder `out` when the block succeeds; `out` is locked meanwhile.

    Raises DataError where `out` has shards already or cannot be written to; BusyError where another process holds its
    lock.
    """
    if shard_size < 1:
        raise DataError(f"a shard size of {shard_size} samples; expected 1 or more")
    try:
        with locked(out):
            remove_leftovers(out)
            if holds_shards(out):
                raise DataError(f"{out} already has shards: choose another folder, or remove them")
            with hidden_folder(out) as hidden:
                writer = ShardWriter(hidden, shard_size)
                try:
                    yield writer
                    writer.finish()
                finally:
                    with suppress(OSError):
                        writer.close()
                names = [path.name for path in hidden.iterdir()]
                try:
                    move_into(hidden, out)
                except OSError:
                    for name in names:  # none of which existed before
                        (out / name).unlink(missing_ok=True)
                    raise
    except OSError as error:
        raise DataError(f"cannot write shards to {out}: {error.strerror or error}") from error


class Entry(NamedTuple):
    """A sample of a shard: its key and the (offset, size) of its files in the tar, (0, 0) for a missing .json.

    `problem` is the reason why it cannot be read, if the headers of the tar show one.
    """

    key: str
    image: tuple[int, int]
    text: tuple[int, int]
    metadata: tuple[int, int]
    problem: str | None = None


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

    A truncated shard is counted by its headers. Raises DataError for a file that is not a tar.
    """
    if is_truncated(path):
        return len(index_samples(path))
    counted = _counted(path)
    if counted is not None and counted <= path.stat().st_size // SMALLEST_SAMPLE:
        return counted
    return len(index_samples(path))


def _counted(path: Path) -> int | None:
    """The number of samples in the file of counts of a shard; None where there is no valid one."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        counted = json_value(stats_path(path).read_bytes())["successes"]
        if type(counted) is int and counted >= 0:
            return counted
    return None


def lost_samples(path: Path, count: int) -> int:
    """The number of samples that a truncated shard with `count` samples lacks, at least 1; 0 for a complete shard."""
    if not is_truncated(path):
        return 0
    return max(1, (_counted(path) or 0) - count)


def is_truncated(path: Path) -> bool:
    """Whether a tar file is truncated; raises DataError for a file that is not a tar."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
            file.seek(-min(512, len(head)), os.SEEK_END)
            tail = file.read()
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None
    if len(head) < 512 or (head[257:262] != b"ustar" and head.strip(b"\0")):
        raise DataError(f"{path} is not a tar file")
    return bool(tail.strip(b"\0"))


def index_samples(path: Path) -> list[Entry]:
    """The samples of a shard, from its headers; raises DataError for a file that is not a tar.

    Where something that is no header follows the last sample, one more that cannot be read stands for it.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        size = path.stat().st_size
        members, end = _usual_members(path) or _members(path)
    except Exception as error:  # on broken headers, tarfile can raise almost any exception
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is truncated or not a tar file ({reason}); copy or write it again") from None
    for full_name, offset, length in members:
        folder, _, name = full_name.rpartition("/")
        if not name.startswith("."):  # "._": of macOS
            key, _, suffix = name.partition(".")
            samples.setdefault(f"{folder}/{key}".lstrip("/"), {})[suffix.lower()] = offset, length
    entries, more = list[Entry](), list[Entry]()
    for key, parts in samples.items():
        if any(offset + length > size for offset, length in parts.values()):
            entries.append(Entry(key, (0, 0), (0, 0), (0, 0), "it is incomplete: the shard is truncated"))
            continue
        image = next((parts[suffix] for suffix in IMAGES if suffix in parts), None)
        dotted = [suffix for suffix in parts if suffix.rpartition(".")[2] in IMAGES] if image is None else []
        if dotted:
            problem = "a dot before the suffix: the key of a sample ends at the first dot of a name, so rename it"
            first, *others = (Entry(f"{key}.{suffix}", (0, 0), (0, 0), (0, 0), problem) for suffix in dotted)
            entries.append(first)
            more += others  # last, since counts of the shard take them for one
            continue
        if image is None or "txt" not in parts:
            lacks = "image (.png, .jpg or .webp)" if image is None else "caption (.txt)"
            problem = f"no {lacks}; it has {', '.join(sorted(parts))}"
            entries.append(Entry(key, (0, 0), (0, 0), (0, 0), problem))
            continue
        entries.append(Entry(key, image, parts["txt"], parts.get("json", (0, 0))))
    if end < size and not is_truncated(path) and _has_more(path, end):
        problem = "more data without a header: the shard is damaged, or several were joined"
        more.append(Entry(f"at byte {end}", (0, 0), (0, 0), (0, 0), problem))
    return entries + more


Members = tuple[list[tuple[str, int, int]], int]  # name, offset and size of each file; where the headers end


def _members(path: Path) -> Members:
    """The files in a tar of any kind, as far as it can be read."""
    found = []
    with tarfile.open(path, "r:") as tar:
        with suppress(tarfile.ReadError):  # of a truncated member
            for member in tar:
                if member.isfile():
                    found.append((member.name, member.offset_data, member.size))
        return found, tar.offset


def _usual_members(path: Path) -> Members | None:
    """As `_members`, in a fifth of the time, of a tar with plain files and folders alone; None for any other."""
    found: list[tuple[str, int, int]] = []
    at = 0
    with path.open("rb") as file:
        while True:
            file.seek(at)
            head = file.read(512)
            if head == bytes(512):
                return (found, at) if at else None
            if len(head) < 512 or head[257:262] != b"ustar" or head[156] not in b"05":
                return None
            name, size, checksum = head[:100].split(b"\0", 1)[0], head[124:136], head[148:156]
            if b"-" in size:  # tarfile would read the same header for ever
                raise ValueError("a negative size")
            try:
                length = int(size.strip(b"\0 "), 8)
                if int(checksum.strip(b"\0 "), 8) != sum(head) - sum(checksum) + 8 * 32:
                    return None
                if head[257:263] == b"ustar\0" and (prefix := head[345:500].split(b"\0", 1)[0]):
                    name = prefix + b"/" + name
                decoded = name.decode()
            except ValueError:  # a number in base 256, or a name that is no UTF-8
                return None
            if head[156] == ord("0"):
                found.append((decoded, at + 512, length))
                at += -(-length // 512) * 512
            at += 512


def _has_more(path: Path, start: int) -> bool:
    """Whether a file has anything but zeros from a byte on."""
    with path.open("rb") as file:
        file.seek(start)
        return any(part.strip(b"\0") for part in iter(lambda: file.read(1 << 20), b""))


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
