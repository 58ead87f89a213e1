"""One shard as a tar file: written whole or not at all, and indexed, so that any sample is one seek away."""

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

from seedtok.core.errors import DataError
from seedtok.core.locks import locked
from seedtok.core.records import json_value
from seedtok.core.writing import hidden_folder, move_into, sweep

SMALLEST_SAMPLE = 2 * 512  # bytes in a tar: a header each for an image and a caption


@dataclass(frozen=True)
class ShardReport:
    written: int
    skipped: tuple[tuple[str, str], ...]  # (name, reason)
    shards: tuple[Path, ...]


class ShardWriter:
    """Fills one tar after another in a folder; a shard's counts include what was skipped on the way."""

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
        known = json.dumps({"key": key, "caption": text} | record)
        for ending, data in (
            (suffix, image),
            ("txt", text.encode(errors="replace")),
            ("json", known.encode()),
        ):
            entry = tarfile.TarInfo(f"{key}.{ending}")  # its defaults: time, user and group 0
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
    """Whether a folder has shards in it, or their counts."""
    return next(folder.glob("*.tar"), None) is not None or next(folder.glob("*_stats.json"), None) is not None


@contextmanager
def writing(out: Path, shard_size: int) -> Iterator[ShardWriter]:
    """A writer into a hidden folder inside `out`, whose files move into place at the end, or never.

    Holds the lock of `out` meanwhile. Raises DataError where there are shards already, or nothing can be written;
    BusyError where another process writes.
    """
    if shard_size < 1:
        raise DataError(f"a shard holds at least 1 sample, not {shard_size}")
    try:
        with locked(out):
            sweep(out)
            if holds_shards(out):
                raise DataError(f"{out} already holds shards: choose another folder, or remove them first")
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
                    for name in names:  # none of which was there before
                        (out / name).unlink(missing_ok=True)
                    raise
    except OSError as error:
        raise DataError(f"cannot write shards to {out}: {error.strerror or error}") from error


class Entry(NamedTuple):
    key: str
    image: tuple[int, int]  # (offset, size) in the tar
    text: tuple[int, int]
    known: tuple[int, int]  # (0, 0) without a .json
    problem: str | None = None  # why the sample cannot be read, where the tar's headers show it


def slice_of(file: BinaryIO, part: tuple[int, int]) -> bytes:
    file.seek(part[0])
    data = file.read(part[1])
    if len(data) != part[1]:
        raise ValueError("the file has become shorter since it was opened")
    return data


def stats_path(path: Path) -> Path:
    """Where a shard's counts are."""
    return path.with_name(f"{path.stem}_stats.json")


def count_samples(path: Path) -> int:
    """The samples of a shard: as its counts say, which is quick, else by reading its headers.

    Of a shard that ends early, only those that are there. Raises DataError for what is no tar file.
    """
    if ends_early(path):
        return len(index_samples(path))
    counted = _counted(path)
    if counted is not None and counted <= path.stat().st_size // SMALLEST_SAMPLE:
        return counted
    return len(index_samples(path))


def _counted(path: Path) -> int | None:
    """How many samples the counts beside a shard say that it has; None where they say nothing of use."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        counted = json_value(stats_path(path).read_bytes())["successes"]
        if type(counted) is int and counted >= 0:
            return counted
    return None


def lost_samples(path: Path, count: int) -> int:
    """How many samples a shard that ends early lacks, at least 1; 0 for a shard that is whole. `count` are there."""
    if not ends_early(path):
        return 0
    return max(1, (_counted(path) or 0) - count)


def ends_early(path: Path) -> bool:
    """Whether a tar file lacks its end; raises DataError for what is no tar file."""
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
    """The samples of a shard by its headers, up to where they end or break; raises DataError for what is no tar."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as tar, suppress(tarfile.ReadError):  # of a member that is cut off
            for member in tar:
                if member.isfile():
                    folder, _, name = member.name.rpartition("/")
                    key, _, suffix = name.partition(".")
                    samples.setdefault(f"{folder}/{key}".lstrip("/"), {})[suffix.lower()] = (
                        member.offset_data,
                        member.size,
                    )
    except Exception as error:  # of broken headers: tarfile can raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is truncated or not a tar file ({reason}); copy or write it again") from None
    entries: list[Entry] = []
    for key, parts in samples.items():
        if any(offset + length > size for offset, length in parts.values()):
            entries.append(Entry(key, (0, 0), (0, 0), (0, 0), "it is cut off: the shard ends early"))
            continue
        image = next((parts[suffix] for suffix in ("png", "jpg", "jpeg", "webp") if suffix in parts), None)
        if image is None or "txt" not in parts:
            lacks = "image (.png, .jpg or .webp)" if image is None else "caption (.txt)"
            problem = f"no {lacks}; it has {', '.join(sorted(parts))}"
            entries.append(Entry(key, (0, 0), (0, 0), (0, 0), problem))
            continue
        entries.append(Entry(key, image, parts["txt"], parts.get("json", (0, 0))))
    return entries


def shard_paths(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """The shards of a folder, in the order of their names, one shard or several; raises DataError for none."""
    given = [Path(source)] if isinstance(source, str | Path) else [Path(path) for path in source]
    paths: list[Path] = []
    for path in given:
        inside = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not inside:
            raise DataError(f"no shards in {path}: expected .tar files")
        paths += inside
    if not paths:
        raise DataError("no shards given")
    return paths
