"""Mixtures: several folders of shards as one stream, each with a weight."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from seedtok.core.errors import DataError
from seedtok.data.held_out import NothingLeft, Part
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits

CYCLE = 1000  # samples in which the proportions of the sources are exact, up to rounding


class MixedSamples:
    """An endless sequence of samples of several sources, in proportion to their weights, whatever their sizes.

    In every `CYCLE` samples the proportions are exact and the order is random. Each source has its own epochs, in each
    of which every sample occurs once. With a `part`, only samples on that side of the split occur; a source of which
    none is held out is left out of the held-out side.

    Raises DataError for no sources, a weight that is not positive or too small to be drawn, and as `ShardSamples` does.
    """

    def __init__(
        self,
        sources: Mapping[str, float],
        *,
        seed: int = 0,
        shuffle: bool = True,
        part: Part | None = None,
        limits: SkipLimits | None = None,
    ) -> None:
        if not sources or not all(weight > 0 for weight in sources.values()):
            raise DataError(f"sources {dict(sources)}; expected one or more with weights above 0")
        self.sources: list[ShardSamples] = []
        weights, empty = [], None
        for source, weight in sources.items():
            try:
                self.sources.append(ShardSamples(source, seed=seed, shuffle=shuffle, part=part, limits=limits))
                weights.append(weight)
            except NothingLeft as error:
                empty = error
        if empty and not (part and part.held_out and self.sources):
            raise empty
        self.epoch_size = sum(source.epoch_size for source in self.sources)
        exact = np.array(weights) / sum(weights) * CYCLE
        self.counts = np.floor(exact).astype(int)  # samples of each source in a cycle
        for source in np.argsort(self.counts - exact)[: CYCLE - self.counts.sum()]:
            self.counts[source] += 1
        if not self.counts.all():
            raise DataError(f"sources {dict(sources)}; expected weights of at least {1 / CYCLE} of their sum")
        self.seed = seed

    def at(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples at the given indices, which ascend, of the endless sequence; it is the same on all ranks."""
        queues: list[deque[int]] = [deque() for _ in self.sources]  # indices into each source
        streams = [s.at(iter(queue.popleft, None)) for s, queue in zip(self.sources, queues, strict=True)]
        cycle = -1
        for index in indices:
            if index // CYCLE != cycle:
                cycle = index // CYCLE
                order = self._order(cycle)
            place = index % CYCLE
            source = int(order[place])
            queues[source].append(cycle * int(self.counts[source]) + int((order[:place] == source).sum()))
            yield next(streams[source])

    def once(self) -> Iterator[int]:
        """The indices at which each sample occurs for the first time, in ascending order."""
        left = np.array([source.epoch_size for source in self.sources])
        for cycle in itertools.count():
            for place, source in enumerate(self._order(cycle)):
                if left[source]:
                    left[source] -= 1
                    yield cycle * CYCLE + place
            if not left.any():
                return

    def _order(self, cycle: int) -> np.ndarray:
        order = np.repeat(np.arange(len(self.sources)), self.counts)
        return np.random.default_rng([17, self.seed, cycle]).permutation(order)
