"""Several folders of shards as one stream, each with a weight."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from seedtok.core.errors import DataError
from seedtok.data.held_out import NothingLeft, Part
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits

CYCLE = 1000  # samples within which every source has its share exactly, up to rounding


class MixedSamples:
    """Endless samples of several sources in proportion to their weights, whatever their sizes.

    Within every `CYCLE` samples the shares are exact and the order is random; each source goes through its own epochs
    in its own order, and neither repeats nor misses a sample within one. Of a `part`, every source has its samples of
    that alone; a source too small for any to be held out is left out of what is held out.

    Raises DataError for no sources, a weight that is not positive, one too small to be drawn, and as `ShardSamples`.
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
            raise DataError(f"expected sources with weights above 0, not {dict(sources)}")
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
        self.shares = np.floor(exact).astype(int)  # samples of each source in a cycle
        for source in np.argsort(self.shares - exact)[: CYCLE - self.shares.sum()]:
            self.shares[source] += 1
        if not self.shares.all():
            raise DataError(f"a weight of less than {1 / CYCLE} of all is never drawn: {dict(sources)}")
        self.seed = seed

    def at(self, turns: Iterable[int]) -> Iterator[Sample]:
        """The samples at these places, which ascend, of the endless line that all ranks share."""
        own: list[deque[int]] = [deque() for _ in self.sources]
        streams = [s.at(iter(turn.popleft, None)) for s, turn in zip(self.sources, own, strict=True)]
        cycle = -1
        for index in turns:
            if index // CYCLE != cycle:
                cycle = index // CYCLE
                order = self._order(cycle)
            place = index % CYCLE
            source = int(order[place])
            own[source].append(cycle * int(self.shares[source]) + int((order[:place] == source).sum()))
            yield next(streams[source])

    def once(self) -> Iterator[int]:
        """The places at which every sample comes for the first time, ascending."""
        left = np.array([source.epoch_size for source in self.sources])
        for cycle in itertools.count():
            for place, source in enumerate(self._order(cycle)):
                if left[source]:
                    left[source] -= 1
                    yield cycle * CYCLE + place
            if not left.any():
                return

    def _order(self, cycle: int) -> np.ndarray:
        order = np.repeat(np.arange(len(self.sources)), self.shares)
        return np.random.default_rng([17, self.seed, cycle]).permutation(order)
