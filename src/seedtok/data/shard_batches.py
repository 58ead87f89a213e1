"""Batches of WebDataset shards, each a function of (seed, place in the stream) alone, so that runs resume exactly."""

import itertools
import pickle
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from seedtok.core.errors import SeedTokError
from seedtok.data.batches import ALL_SAMPLES, Batch, Stride, even_batches, worded
from seedtok.data.held_out import Part
from seedtok.data.mixtures import MixedSamples
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits
from seedtok.data.transforms import Transform

Samples = ShardSamples | MixedSamples


def open_shards(
    shards: Path | Mapping[str, float],
    *,
    seed: int = 0,
    shuffle: bool = True,
    part: Part | None = None,
    limits: SkipLimits | None = None,
) -> Samples:
    """The samples of a folder of shards, or of several folders with their weights; of a `part`, those alone.

    Raises DataError as `ShardSamples` and `MixedSamples` do.
    """
    if isinstance(shards, Mapping):
        return MixedSamples(shards, seed=seed, shuffle=shuffle, part=part, limits=limits)
    return ShardSamples(shards, seed=seed, shuffle=shuffle, part=part, limits=limits)


def shard_batches(
    samples: Samples, batch_size: int, transform: Transform, stride: Stride = ALL_SAMPLES, workers: int = 0
) -> Iterator[Batch]:
    """Endless batches of the samples of a stride.

    With `workers`, so many processes read ahead: the same batches in the same order. Raises DataError as `samples` do.
    """
    reader = _Reader(samples, batch_size, transform, stride)
    return _read_ahead(reader, workers) if workers else reader.batches()


def shard_batches_once(
    samples: Samples, batch_size: int, count: int, transform: Transform, stride: Stride = ALL_SAMPLES
) -> Iterator[Batch]:
    """At most `count` batches, in which no sample comes twice, from the first sample on.

    Every rank has as many, of the same size: see `even_batches`. Raises DataError as it and `shard_batches` do.
    """
    world_size = stride.world_size
    count, batch_size = even_batches(samples.epoch_size, batch_size, count, world_size)
    places = list(islice(samples.once(), count * batch_size * world_size))[stride.rank :: world_size]
    return islice(_Reader(samples, batch_size, transform, stride).batches_at(places), count)


@dataclass(frozen=True)
class _Reader:
    """Reads batches of samples at given places of their endless stream."""

    samples: Samples
    batch_size: int
    transform: Transform
    stride: Stride

    def batches(self, first: int = 0, step: int = 1) -> Iterator[Batch]:
        """Every step-th batch of the stride, from batch number `first` on."""
        numbers = itertools.count(first, step)
        size, world_size = self.batch_size, self.stride.world_size
        return self.batches_at(self.stride.first + (n * size + i) * world_size for n in numbers for i in range(size))

    def batches_at(self, places: Iterable[int]) -> Iterator[Batch]:
        """Endless batches of the samples at these places."""
        here, there = itertools.tee(places)
        samples = map(self._transformed, here, self.samples.at(there))  # one full-sized image at a time
        while True:
            yield _batch(list(islice(samples, self.batch_size)))

    def _transformed(self, place: int, sample: Sample) -> Sample:
        """A sample with its image transformed; random transforms are a function of its place."""
        rng = np.random.default_rng([13, self.samples.seed, place]) if self.transform.is_random else None
        return sample._replace(image=self.transform(sample.image, rng))


def _batch(samples: list[Sample]) -> Batch:
    pixels = torch.from_numpy(np.stack([np.asarray(sample.image) for sample in samples])).permute(0, 3, 1, 2)
    return worded(pixels, [sample.caption for sample in samples], [sample.metadata for sample in samples])


def _read_ahead(reader: _Reader, workers: int) -> Iterator[Batch]:
    loader = DataLoader(_Batches(reader), batch_size=None, num_workers=workers, worker_init_fn=_ignore_signals)
    for pickled in loader:
        batch = pickle.loads(pickled)
        if isinstance(batch, SeedTokError):
            raise batch
        yield batch


def _ignore_signals(_: int) -> None:
    """Ctrl-C and SIGTERM reach a whole group of processes; a worker ends with its parent, which stops in order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Batches(IterableDataset[bytes]):
    """What each of the loader's n workers reads: every n-th batch, or a SeedTokError; the loader takes them in turn.

    They are pickled, and so go through a pipe: tensors would go through /dev/shm, which containers give 64 MB, and a
    worker that finds it full loses the batch, so that the loader waits for ever.
    """

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader

    def __iter__(self) -> Iterator[bytes]:
        worker = get_worker_info()
        assert worker is not None
        try:
            yield from map(pickle.dumps, self.reader.batches(worker.id, worker.num_workers))
        except SeedTokError as error:  # as it is: the loader would raise one with a traceback in its message
            yield pickle.dumps(error)
