"""The samples of WebDataset shards in img2dataset's layout, such as `pack` writes, in an order that a seed gives."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from itertools import islice
from pathlib import Path

import numpy as np

from seedtok.core.errors import DataError
from seedtok.core.images import Square
from seedtok.data.ahead import in_order
from seedtok.data.held_out import Part, samples_inside
from seedtok.data.samples import Sample, drawn_caption, read_sample
from seedtok.data.shard_index import Entry, in_random_order
from seedtok.data.skipping import BadSample, SkipLimits, Skipped
from seedtok.data.tars import (
    count_samples,
    ends_early,
    index_samples,
    lost_samples,
    shard_paths,
    stats_path,
)

WINDOW = 8  # shards whose samples are shuffled together
TRIES = 100  # samples in a row that cannot be read, after which reading stops


class ShardSamples:
    """Endless (image, caption, metadata) of shards: epochs, each in an order of (seed, epoch) alone.

    `source` is a folder of .tar files, one such file or several. An epoch visits the shards in a random order
    and mixes the samples of `WINDOW` shards at a time; with `shuffle` off, everything comes in the order it
    was written, and a picture of several captions with the first. Rank r of n takes every n-th sample, across
    the seams of epochs, so that together the ranks see each sample once an epoch; a loader's workers are
    ranks too (rank * workers + worker, of world_size * workers). Images come as `load_image` gives them,
    captions as they were stored. Of a `part`, epochs are of its samples alone.

    A sample that cannot be read, or lacks its image or caption, is noted in `skipped` (the `limits` may say that none
    needs a caption); its place goes to another of the same epoch and window of shards, half a window further on, or to
    the first after that which can be read, in other windows if need be. So every place has a sample that is a function
    of (seed, epoch) and the data alone, whatever the number of ranks and wherever a run goes on; the one that stands in
    comes twice in that epoch. Of a shard that ends early, what is there is read.

    Raises DataError for what is missing or not a tar, and where more samples are bad than `limits` allows: on
    construction where that shows at once, else when the sample is reached.
    """

    def __init__(
        self,
        source: str | Path | Iterable[str | Path],
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        part: Part | None = None,
        limits: SkipLimits | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise DataError(f"expected a rank from 0 to {world_size - 1}, not {rank}")
        if seed < 0:
            raise DataError(f"expected a seed of at least 0, not {seed}")
        self.paths = shard_paths(source)
        self.seed, self.shuffle, self.rank, self.world_size = seed, shuffle, rank, world_size
        self._counts = in_random_order(count_samples, self.paths)
        self._start = 0
        missing = [lost_samples(path, count) for path, count in zip(self.paths, self._counts, strict=True)]
        self.skipped = Skipped(limits or SkipLimits(), sum(self._counts) + sum(missing))
        self._bad: set[tuple[int, int]] = set()  # the places that `skipped` has, by shard and index
        for shard, (path, count, lost) in enumerate(zip(self.paths, self._counts, missing, strict=True)):
            if lost:
                self.skipped.add(path, "", ends_early(count), lost, is_common=True)
            elif not count:  # no place leads to what it may hold all the same
                self._index(shard)
        self._inside = samples_inside(self.paths, self._counts, part)  # of each shard, what epochs are of
        self.epoch_size = sum(map(len, self._inside))  # over all ranks

    def skip(self, count: int) -> "ShardSamples":
        """The same samples without this rank's first `count`, which are not read."""
        if count < 0:
            raise DataError(f"cannot skip {count} samples")
        later = copy(self)
        later._start += count
        return later

    def once(self) -> Iterator[int]:
        """The places at which every sample comes for the first time, ascending."""
        return iter(range(self.epoch_size))

    def __iter__(self) -> Iterator[Sample]:
        return self.at(itertools.count(self.rank + self._start * self.world_size, self.world_size))

    def at(self, turns: Iterable[int]) -> Iterator[Sample]:
        """The samples at these places, which ascend, of the endless line that all ranks share."""
        following = iter(turns)
        turn = next(following, None)
        indexes: dict[int, Sequence[Entry]] = {}
        while turn is not None:
            epoch, position = divmod(turn, self.epoch_size)
            windows, begin = self._windows(epoch), 0
            for number, window in enumerate(windows):
                end = begin + sum(len(self._inside[s]) for s in window)
                if position < end:
                    indexes = {s: indexes[s] for s in window if s in indexes}
                    mixed = self._mixed(window, epoch, number)
                while turn is not None and position < end:
                    self.skipped.came_to(turn)
                    candidates = itertools.chain(
                        _half_round(mixed, position - begin), self._others(windows, epoch, number)
                    )
                    yield self._first_good(islice(candidates, TRIES), indexes, epoch)
                    turn = next(following, None)
                    position = self.epoch_size if turn is None else turn - epoch * self.epoch_size
                begin = end

    def _windows(self, epoch: int) -> list[list[int]]:
        """The numbers of the shards, in the order of an epoch, in groups of `WINDOW`."""
        shards = self._permutation(len(self.paths), epoch).tolist()
        return [shards[start : start + WINDOW] for start in range(0, len(shards), WINDOW)]

    def _mixed(self, window: list[int], epoch: int, number: int) -> list[tuple[int, int]]:
        """The places of the samples of a window, which has this number in an epoch, in their order."""
        places = [(shard, index) for shard in window for index in self._inside[shard]]
        return [places[i] for i in self._permutation(len(places), epoch, number * WINDOW + 1)]

    def _others(self, windows: list[list[int]], epoch: int, number: int) -> Iterator[tuple[int, int]]:
        """What stands in where nothing in window `number` can be read: the windows after it, then those before it."""
        for other in (*range(number + 1, len(windows)), *range(number)):
            yield from self._mixed(windows[other], epoch, other)

    def of_shard(self, number: int, square: Square | None = None, threads: int = 1) -> Iterator[tuple[str, Sample]]:
        """The samples of one of `paths` with their keys, once each, in the order they were written, without bad ones.

        A key is that of the shard; the metadata has another one where the JSON of a sample says so. With a `square`,
        images are stretched as they are read, so that no more full-sized ones are in memory than there are `threads`,
        which read ahead.
        """

        def read(index: int) -> Sample | BadSample:
            try:
                sample = self._read(number, entries, index, 0)
            except BadSample as error:
                return error
            return sample if square is None else sample._replace(image=square(sample.image))

        entries = self._index(number)
        for index, sample in enumerate(in_order(read, range(self._counts[number]), threads)):
            if isinstance(sample, BadSample):
                self._note(number, entries, index, sample)
            else:
                yield entries[index].key, sample

    def _first_good(self, places: Iterable[tuple[int, int]], indexes: dict[int, Sequence[Entry]], epoch: int) -> Sample:
        for shard, index in places:
            with suppress(BadSample):
                return self._sample(shard, index, indexes, epoch)
        shard, key, reason = self.skipped.reasons[-1]
        raise DataError(f"none of many samples in a row can be read; the last: {shard}, sample {key}: {reason}")

    def _sample(self, shard: int, index: int, indexes: dict[int, Sequence[Entry]], epoch: int) -> Sample:
        """Raises BadSample for one that cannot be read, which is then noted."""
        if (shard, index) in self._bad:
            raise BadSample("noted before")
        if shard not in indexes:
            indexes[shard] = self._index(shard)
        try:
            return self._read(shard, indexes[shard], index, epoch)
        except BadSample as error:
            self._note(shard, indexes[shard], index, error)
            raise

    def _note(self, shard: int, entries: Sequence[Entry], index: int, error: BadSample) -> None:
        """Counts a sample that cannot be read, once."""
        if (shard, index) not in self._bad:
            self._bad.add((shard, index))
            key = entries[index].key if index < len(entries) else f"number {index}"
            self.skipped.add(self.paths[shard], key, str(error))

    def _permutation(self, length: int, epoch: int, part: int = 0) -> np.ndarray:
        if not self.shuffle:
            return np.arange(length)
        return np.random.default_rng([self.seed, epoch, part]).permutation(length)

    def _index(self, shard: int) -> Sequence[Entry]:
        path = self.paths[shard]
        entries, count = index_samples(path), self._counts[shard]
        more = entries[count:]
        if any(entry.problem is None for entry in more):
            raise DataError(f"{path} holds {len(entries)} samples, and {stats_path(path).name} says {count}")
        for index, entry in enumerate(more, count):
            if (shard, index) not in self._bad:
                self._bad.add((shard, index))
                self.skipped.add(path, entry.key, entry.problem or "", is_common=True)
        return entries

    def _read(self, shard: int, entries: Sequence[Entry], index: int, epoch: int) -> Sample:
        """Raises BadSample for one that cannot be read. Threads may call it at the same time."""
        path = self.paths[shard]
        if index >= len(entries):
            raise BadSample(f"missing: the shard holds {len(entries)}, and {stats_path(path).name} says more")
        entry = entries[index]
        sample = read_sample(path, entry, self.skipped.limits.needs_caption)
        drawn = drawn_caption(sample.metadata, [self.seed, epoch, shard, entry.image[0]]) if self.shuffle else None
        return sample if drawn is None else sample._replace(caption=drawn)


def _half_round(order: Sequence[tuple[int, int]], at: int) -> Iterator[tuple[int, int]]:
    """The entry of an order at a place, then all from half the order further on, round to where it began."""
    yield order[at]
    for step in range(len(order)):
        yield order[(at + len(order) // 2 + step) % len(order)]
