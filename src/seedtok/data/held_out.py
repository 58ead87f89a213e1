"""Which pictures a run holds out of its training data, to be validated on: a function of the picture alone."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from seedtok.core.errors import DataError
from seedtok.data.tars import Entry, index_samples, slice_of

CHUNK = 16384  # samples that are hashed at a time
IMAGE_FIELDS = ("sha256", "image", "url", "scene")  # of a sample's JSON; the first that is there names its picture


class NothingLeft(DataError):
    """One side of a split of a source has no samples."""


@dataclass(frozen=True)
class Part:
    """One side of a split: the `share` (0 to 1) of a source's pictures that is held out, or all the others.

    A picture is held out by the hash of its identity, so shards, the codes made of them, and several sources that hold
    the same picture are split alike, on any machine and in any order. A picture that is held out by a share is held
    out by every larger one.
    """

    share: float
    held_out: bool

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """Which of a source's samples are on this side: hashes (N,) uint64 -> places (n,) int64, ascending."""
        return np.flatnonzero(self._are_inside(hashes))

    def of_samples(self, samples: Iterable[Mapping[str, Any]], count: int) -> np.ndarray:
        """As `of`, of `count` samples by what is known of each: hashes are not kept, which of millions take memory."""
        inside, known = np.empty(count, dtype=bool), iter(samples)
        for start in range(0, count, CHUNK):
            inside[start : start + CHUNK] = self._are_inside(image_hashes(islice(known, CHUNK)))
        return np.flatnonzero(inside)

    def _are_inside(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes < np.uint64(self.share * 2**64)) == self.held_out

    def nothing_left(self, source: str | Path, count: int) -> NothingLeft:
        """The error of a source of `count` samples that has none on this side."""
        side = "to validate on" if self.held_out else "to train on"
        return NothingLeft(
            f"{source}: holding out {self.share:g} of its {count} samples leaves none {side}: set data.validation to "
            "another share, or to a folder of other shards or codes"
        )


def image_identity(metadata: Mapping[str, Any]) -> str:
    """What tells a sample's picture from others: the first of `IMAGE_FIELDS` that its JSON has, else its key.

    `sha256` and `url` are img2dataset's, under which one picture may have several keys; `image` is the name that a
    picture had when `seedtok data` packed it, where a table may list it once a caption; `scene` is what was drawn.
    """
    for field in IMAGE_FIELDS:
        value = metadata.get(field)
        if value:
            return f"{field}:{value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
    return f"key:{metadata.get('key')}"


def image_hash(metadata: Mapping[str, Any]) -> int:
    """64 bits of the hash of `image_identity`: the same on every machine."""
    identity = image_identity(metadata).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "big")


def image_hashes(samples: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """The hashes of samples by what is known of each: (N,) uint64."""
    return np.fromiter((image_hash(metadata) for metadata in samples), np.uint64)


def samples_inside(
    paths: Sequence[Path], counts: Sequence[int], part: Part | None
) -> Sequence[Sequence[int] | np.ndarray]:
    """The places of each shard's samples that are of a part, of all that it holds where there is none.

    Raises DataError where there is no sample, and as `shard_hashes` does.
    """
    if not sum(counts):
        raise DataError(f"{paths[0].parent}: its shards hold no samples")
    if part is None:
        return [range(count) for count in counts]
    inside = [part.of(shard_hashes(path)) for path in paths]
    if not sum(map(len, inside)):
        raise part.nothing_left(paths[0].parent, sum(counts))
    return inside


def shard_hashes(path: Path) -> np.ndarray:
    """The hashes of a shard's samples, in its order: (N,) uint64. Reads the JSON of each once a process.

    Raises DataError as `index_samples` does.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None
    return _shard_hashes(path, found.st_size, found.st_mtime_ns)


@cache
def _shard_hashes(path: Path, size: int, changed: int) -> np.ndarray:
    entries = index_samples(path)
    with path.open("rb") as file:
        return image_hashes({"key": entry.key} | _record(file, entry) for entry in entries)


def _record(file: BinaryIO, entry: Entry) -> dict[str, Any]:
    """A sample's JSON; nothing where it has none, or none that can be read."""
    try:
        record = json.loads(slice_of(file, entry.known) or "{}")
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
