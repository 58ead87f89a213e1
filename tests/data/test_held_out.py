"""Pictures held out of training: the same ones of shards and of codes, on any number of ranks, and never trained on."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.batches import Stride, even_batches
from seedtok.data.code_batches import code_batches, code_batches_once
from seedtok.data.codes import tokenize_shards
from seedtok.data.held_out import Part, image_hash, image_identity
from seedtok.data.mixtures import MixedSamples
from seedtok.data.pack import pack
from seedtok.data.shard_batches import open_shards, shard_batches, shard_batches_once
from seedtok.data.shards import ShardSamples
from seedtok.data.transforms import Transform

PICTURES, CAPTIONS = 30, 3
TRAIN, HELD_OUT = Part(0.3, held_out=False), Part(0.3, held_out=True)
TINY = Transform(8)


def held_out_of(shards):
    return open_shards(shards, shuffle=False, part=HELD_OUT)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """A table lists every picture three times, once a caption: nine keys in ten share their picture with others."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for i in range(PICTURES):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        rows += [{"image": f"{i}.png", "caption": f"picture {i} wording {n}"} for n in range(CAPTIONS)]
    order = np.random.default_rng(0).permutation(len(rows))
    (folder / "list.jsonl").write_text("".join(json.dumps(rows[i]) + "\n" for i in order))
    out = tmp_path_factory.mktemp("shards")
    pack(folder / "list.jsonl", out, shard_size=7)
    return out


@pytest.fixture(scope="module")
def codes(tmp_path_factory, shards) -> Path:
    out = tmp_path_factory.mktemp("codes")
    tokenize_shards(shards, out, lambda images: np.zeros((len(images), 32)), "tests")
    return out


def pictures(captions: list[str]) -> set[str]:
    return {" ".join(caption.split()[:2]) for caption in captions}


def epoch(batches, count: int) -> list[str]:
    return [batch.captions[0] for batch in islice(batches, count)]


def all_once(batches) -> list[str]:
    return [caption for batch in batches for caption in batch.captions]


def test_no_picture_is_on_both_sides_of_shards_or_of_their_codes(shards, codes):
    held_out = all_once(shard_batches_once(held_out_of(shards), 1, 1000, TINY))
    count = len(held_out)
    trained = epoch(shard_batches(open_shards(shards, part=TRAIN), 1, TINY), PICTURES * CAPTIONS - count)
    assert len(set(trained)) + len(set(held_out)) == PICTURES * CAPTIONS  # every sample once
    assert not pictures(trained) & pictures(held_out)
    assert 3 <= len(pictures(held_out)) <= 15
    assert count == CAPTIONS * len(pictures(held_out))
    assert all_once(code_batches_once(codes, 1, 1000, part=HELD_OUT)) == held_out
    assert set(epoch(code_batches(codes, 1, part=TRAIN), len(trained))) == set(trained)


def test_epochs_and_resuming_are_exact_without_what_is_held_out(shards, codes):
    size = ShardSamples(shards, part=TRAIN).epoch_size
    for make in (
        lambda n, **at: shard_batches(open_shards(shards, seed=3, part=TRAIN), n, TINY, Stride(**at)),
        lambda n, **at: code_batches(codes, n, Stride(**at), seed=3, part=TRAIN),
    ):
        line = epoch(make(1), 3 * size)
        epochs = [line[i * size : (i + 1) * size] for i in range(3)]
        assert len({tuple(each) for each in epochs}) == 3
        assert all(set(each) == set(epochs[0]) and len(set(each)) == size for each in epochs)
        for rank in range(3):
            later = make(4, start=30, rank=rank, world_size=3)
            assert all_once(islice(later, 5)) == line[30 + rank :: 3][:20]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_workers_skip_what_is_held_out(shards):
    alone, ahead = (shard_batches(open_shards(shards, part=TRAIN), 4, TINY, workers=n) for n in (0, 2))
    assert all_once(islice(ahead, 6)) == all_once(islice(alone, 6))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_validate_on_what_one_process_does(shards, codes, world):
    for once in (
        lambda n, **at: shard_batches_once(held_out_of(shards), n, 3, TINY, Stride(**at)),
        lambda n, **at: code_batches_once(codes, n, 3, Stride(**at), part=HELD_OUT),
    ):
        alone = [batch.captions for batch in once(2 * world)]
        ranks = [[batch.captions for batch in once(2, rank=rank, world_size=world)] for rank in range(world)]
        assert alone == [
            [text for pair in zip(*each, strict=True) for text in pair] for each in zip(*ranks, strict=True)
        ]


def test_mixtures_hold_out_of_every_source(shards, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "single.png")
    (tmp_path / "single.txt").write_text("the only one")
    pack(tmp_path, tmp_path / "one")
    sources = {str(shards): 3.0, str(tmp_path / "one"): 1.0}
    assert Part(0.3, True).of(np.array([image_hash({"image": "single.png"})], np.uint64)).size == 0
    held_out = all_once(shard_batches_once(held_out_of(sources), 1, 1000, TINY))  # the small source has none
    assert sorted(held_out) == sorted(all_once(shard_batches_once(held_out_of(shards), 1, 1000, TINY)))
    trained = epoch(shard_batches(open_shards(sources, part=TRAIN), 1, TINY), 400)
    assert not pictures(trained) & pictures(held_out)
    assert "the only one" in trained
    whole = MixedSamples(sources, shuffle=False)  # every sample comes once, however long the small source is done
    assert len({s.caption for s in whole.at(whole.once())}) == PICTURES * CAPTIONS + 1 == whole.epoch_size
    with pytest.raises(DataError, match="leaves none to train on"):
        MixedSamples(sources, part=Part(1 - 1e-9, held_out=False))
    with pytest.raises(DataError, match="leaves none to validate on"):
        MixedSamples(sources, part=Part(1e-9, held_out=True))


def test_a_larger_share_holds_out_more_and_the_hash_is_the_same_everywhere():
    hashes = np.array([image_hash({"key": f"{i:09}"}) for i in range(20_000)], np.uint64)
    tenth, half = (set(Part(share, held_out=True).of(hashes).tolist()) for share in (0.1, 0.5))
    assert tenth < half
    assert len(tenth) == pytest.approx(2000, abs=150)
    assert set(Part(0.1, held_out=False).of(hashes).tolist()) == set(range(20_000)) - tenth
    assert image_hash({"key": "000000001"}) == 11723632234344697960


def test_what_names_a_picture():
    known = {"key": "1", "url": "http://a/b", "sha256": "c0de", "image": "a.png", "scene": {"b": 1, "a": 2}}
    expected = ["sha256:c0de", "image:a.png", "url:http://a/b", 'scene:{"a": 2, "b": 1}', "key:1"]
    for identity in expected:
        assert image_identity(known) == identity
        del known[identity.partition(":")[0]]
    assert image_identity({"key": "1", "sha256": None, "image": ""}) == "key:1"


def test_batches_are_as_many_and_as_large_on_every_rank():
    assert even_batches(100, 8, 4, 2) == (4, 8)
    assert even_batches(50, 8, 4, 2) == (3, 8)
    assert even_batches(13, 8, 4, 2) == (1, 6)
    with pytest.raises(DataError, match="too few for 3 ranks"):
        even_batches(2, 8, 4, 3)
