"""Shards as tar files, written atomically."""

import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from seedtok.core.atomic import hidden_folder, move_into, remove_leftovers
from seedtok.core.errors import DataError
from seedtok.core.locks import locked


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

    def add(self, image: bytes, suffix: str, text: str | None, record: dict[str, Any]) -> None:
        """Writes a sample; one without a text has no file for it, and no caption in its JSON."""
        index = self.written % self.shard_size
        if index == 0:
            self.finish()
            self.names.append(f"{len(self.names):05d}")
            path = self.folder / f"{self.names[-1]}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        assert self._tar is not None
        key = f"{self.names[-1]}{index:0{len(str(self.shard_size - 1))}d}"
        files, known = {suffix: image}, {"key": key}
        if text is not None:
            files["txt"], known["caption"] = text.encode(errors="replace"), text
        files["json"] = json.dumps(known | record).encode()
        for ending, data in files.items():
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
