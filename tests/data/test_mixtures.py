"""Mixtures: shares, epochs, ranks and resuming."""

from collections import Counter

import pytest

from seedtok.core.errors import DataError
from seedtok.data.mixtures import CYCLE, MixedSamples
from seedtok.data.shard_batches import open_shards, shard_batches
from seedtok.data.transforms import Transform
from seedtok.mini.world.shards import write_scene_shards


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("sources")
    for i, count in enumerate((7, 5)):
        write_scene_shards(folder / str(i), "train", count, size=64, seed=i, shard_size=3)
    return {str(folder / "0"): 3.0, str(folder / "1"): 1.0}


def names(samples, places: range) -> list[tuple[int, str]]:
    return [(s.metadata["seed"], s.metadata["key"]) for s in samples.at(places)]


def test_shares_are_exact_and_every_source_has_its_epochs(sources):
    found = names(MixedSamples(sources, seed=2), range(CYCLE))
    assert Counter(source for source, _ in found) == {0: 750, 1: 250}
    for source, size in ((0, 7), (1, 5)):
        keys = [key for s, key in found if s == source]
        epochs = [keys[i : i + size] for i in range(0, len(keys) - size + 1, size)]
        assert all(len(set(epoch)) == size for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 10  # in another order each time
    runs = "".join(str(source) for source, _ in found)
    assert "0000" in runs
    assert "11" in runs


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_one_line_and_go_on_anywhere(sources, world):
    alone = names(MixedSamples(sources, seed=2), range(400))
    for rank in range(world):
        places = range(rank + 20 * world, rank + 70 * world, world)
        assert names(MixedSamples(sources, seed=2), places) == alone[rank + 20 * world :: world][:50]


def test_batches_of_a_mixture(sources):
    batch = next(shard_batches(open_shards(sources), 8, Transform(64)))
    assert batch.pixels.shape == (8, 3, 64, 64)


def test_what_is_no_mixture(sources):
    one, other = sources
    for bad in ({}, {one: 0.0}, {one: -1.0}, {one: float("nan")}):
        with pytest.raises(DataError, match="weights above 0"):
            MixedSamples(bad)
    with pytest.raises(DataError, match=r"expected weights of at least 0\.001 of their sum"):
        MixedSamples({one: 1.0, other: 1e-5})
    with pytest.raises(DataError, match="cannot read the shard"):
        MixedSamples({one + "/nowhere": 1.0})
