"""The validation split: which images are held out of training, as a function of the identity of the image alone."""

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
from seedtok.data.retries import retried
from seedtok.data.shard_index import Entry, in_random_order
from seedtok.data.tars import index_samples, slice_of

CHUNK = 16384  # samples hashed at a time
IMAGE_FIELDS = ("sha256", "image", "url", "scene")  # the first in the JSON of a sample identifies its image


class NothingLeft(DataError):
    """A source has no samples on one side of the split."""


@dataclass(frozen=True)
class Part:
    """One side of a split: the fraction `share` (0 to 1) of the images of a source that is held out, or the rest.

    An image is held out by the hash of its identity. So shards, the codes made from them, and several sources with the
    same image are split in the same way, on any machine and in any order; and an image that is held out for one
    fraction is held out for every larger one.
    """

    share: float
    held_out: bool

    def of(self, hashes: np.ndarray) -> np.ndarray:
        """Indices (n,) int64, ascending, of the samples on this side, from the hashes (N,) uint64 of all."""
        return np.flatnonzero(self._are_inside(hashes))

    def of_samples(self, samples: Iterable[Mapping[str, Any]], count: int) -> np.ndarray:
        """As `of`, from the metadata of `count` samples; the hashes are not kept in memory."""
        inside, iterator = np.empty(count, dtype=bool), iter(samples)
        for start in range(0, count, CHUNK):
            inside[start : start + CHUNK] = self._are_inside(image_hashes(islice(iterator, CHUNK)))
        return np.flatnonzero(inside)

    def _are_inside(self, hashes: np.ndarray) -> np.ndarray:
        return (hashes < np.uint64(self.share * 2**64)) == self.held_out

    def nothing_left(self, source: str | Path, count: int) -> NothingLeft:
        """The error for a source of `count` samples of which none is on this side."""
        side = "to validate on" if self.held_out else "to train on"
        return NothingLeft(
            f"{source}: holding out {self.share:g} of its {count} samples leaves none {side}: set data.validation to "
            "another fraction, or to a folder of other shards or codes"
        )


def image_identity(metadata: Mapping[str, Any]) -> str:
    """The identity of the image of a sample: the first of `IMAGE_FIELDS` that its metadata has, or else its key.

    `sha256` and `url` are written by img2dataset, where one image may have several keys; `image` is the file that
    `seedtok data pack` read, which a table may list once for each caption; `scene` describes a rendered scene.
    """
    for field in IMAGE_FIELDS:
        value = metadata.get(field)
        if value:
            return f"{field}:{value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
    return f"key:{metadata.get('key')}"


def image_hash(metadata: Mapping[str, Any]) -> int:
    """A 64-bit hash of `image_identity`, the same on every machine."""
    identity = image_identity(metadata).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "big")


def image_hashes(samples: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """The hashes (N,) uint64 of the images of samples, from their metadata."""
    return np.fromiter((image_hash(metadata) for metadata in samples), np.uint64)


def samples_inside(
    paths: Sequence[Path], counts: Sequence[int], part: Part | None
) -> Sequence[Sequence[int] | np.ndarray]:
    """For each shard, the indices of its samples that are on one side of the split; of all where `part` is None.

    Raises DataError where there are no samples, and as `shard_hashes` does.
    """
    if not sum(counts):
        raise DataError(f"{paths[0].parent}: its shards have no samples")
    if part is None:
        return [range(count) for count in counts]
    inside = in_random_order(lambda path: part.of(shard_hashes(path)), paths)
    if not sum(map(len, inside)):
        raise part.nothing_left(paths[0].parent, sum(counts))
    return inside


def shard_hashes(path: Path) -> np.ndarray:
    """The hashes (N,) uint64 of the images of a shard, in its order, from its index or else from its samples.

    Raises DataError as `index_samples` does.
    """
    try:
        found = retried(path.stat)
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from None
    return _shard_hashes(path, found.st_size, found.st_mtime_ns)


@cache
def _shard_hashes(path: Path, size: int, changed: int) -> np.ndarray:
    hashes = index_samples(path, _hashes).hashes
    assert hashes is not None
    return hashes


def _hashes(path: Path, entries: Sequence[Entry]) -> np.ndarray:
    """As `shard_hashes`, from the JSON of each sample."""
    with path.open("rb") as file:
        return image_hashes({"key": entry.key} | _record(file, entry) for entry in entries)


def _record(file: BinaryIO, entry: Entry) -> dict[str, Any]:
    """The JSON object of a sample; empty where it is missing or cannot be read."""
    try:
        record = json.loads(slice_of(file, entry.metadata) or "{}")
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
