"""Batches of shards: what is in them, and that a run goes on where it stopped."""

from itertools import islice
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.batches import Batch, Stride, worded
from seedtok.data.pack import pack
from seedtok.data.shard_batches import open_shards, shard_batches
from seedtok.data.transforms import Transform
from seedtok.mini.world.scenes import caption, render
from seedtok.mini.world.shards import write_scene_shards
from seedtok.mini.world.source import scene_of, scenes_of, with_scenes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    write_scene_shards(out, "train", 10, size=64, shard_size=4)
    return out


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"Photo {i}: A CAT!")
    out = tmp_path_factory.mktemp("packed")
    pack(folder, out)
    return out


def test_workers_need_no_shared_memory(scenes, monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory: No space left on device")

    monkeypatch.setitem(ForkingPickler._extra_reducers, torch.Tensor, full)  # which workers inherit
    alone, ahead = (next(shard_batches(open_shards(scenes), 4, Transform(16), workers=n)) for n in (0, 2))
    assert torch.equal(alone.pixels, ahead.pixels)
    assert ahead.captions == alone.captions


def test_scenes_come_back_with_their_canonical_captions(scenes):
    batch = next(shard_batches(open_shards(scenes, shuffle=False), 5, Transform(64)))
    assert batch.pixels.shape == (5, 3, 64, 64)
    assert batch.pixels.dtype == torch.uint8
    assert scenes_of(batch) is not None
    assert batch.canonical == batch.captions  # general data know one wording
    batch = with_scenes(batch)
    found = scenes_of(batch)
    assert found is not None
    assert batch.canonical == [caption(scene) for scene in found]
    assert batch.captions != batch.canonical  # train is worded at random
    for pixels, scene in zip(batch.pixels, found, strict=True):
        assert np.array_equal(pixels.permute(1, 2, 0), render(scene, 64))


def test_photos_are_stretched_and_their_captions_cleaned(photos):
    batch = next(shard_batches(open_shards(photos, shuffle=False), 3, Transform(16)))
    assert batch.pixels.shape == (3, 3, 16, 16)
    assert batch.captions == batch.canonical == [f"photo {i} a cat" for i in range(3)]
    assert scenes_of(batch) is None
    assert [known["image"] for known in batch.metadata or []] == ["0.png", "1.png", "2.png"]
    pixels = np.random.default_rng(1).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(batch.pixels[1].permute(1, 2, 0), np.asarray(expected))


def test_photos_and_scenes_together_have_each_what_is_theirs(scenes, photos, tmp_path):
    for i, path in enumerate([*sorted(scenes.glob("*.tar")), *photos.glob("*.tar")]):
        (tmp_path / f"{i:05d}.tar").write_bytes(path.read_bytes())
    batch = next(shard_batches(open_shards(tmp_path, shuffle=False), 13, Transform(16)))
    assert scenes_of(batch) is None
    assert batch.canonical == batch.captions
    assert batch.metadata
    mixed = with_scenes(batch)
    drawn = [scene_of(known) for known in batch.metadata]
    assert 0 < sum(scene is None for scene in drawn) < len(drawn)
    rng = np.random.default_rng(0)
    for i, scene in enumerate(drawn):
        assert mixed.canonical[i] == (batch.canonical[i] if scene is None else caption(scene))
        assert (mixed.questions(i, rng, 1) == []) == (scene is None)
    assert all(mixed.right_captions(batch.captions))
    assert not any(mixed.right_captions(["photo 9 a cat"] * len(drawn)))


def test_photos_alone_are_no_scenes(photos):
    batch = next(shard_batches(open_shards(photos, shuffle=False), 3, Transform(16)))
    assert with_scenes(batch) is batch


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_starts_anywhere_over_ranks(scenes, shuffle, world):
    """Rank r of n has every n-th sample from `start` on, over the seams of epochs."""
    samples = open_shards(scenes, seed=3, shuffle=shuffle)
    line = shard_batches(samples, 1, Transform(64))
    everything = [batch.captions[0] for batch in islice(line, 40)]
    for rank in range(world):
        data = shard_batches(samples, 4, Transform(64), Stride(6, rank, world))
        found = [c for batch in islice(data, 2) for c in batch.captions]
        assert found == everything[6 + rank :: world][:8]


def test_what_cannot_be_read(tmp_path, scenes):
    with pytest.raises(DataError, match="no shards in"):
        open_shards(tmp_path)


def test_augmentation_is_of_the_sample_alone(photos):
    """The same for every number of ranks and wherever a run goes on from."""
    samples, transform = open_shards(photos, seed=1), Transform(16, crop=0.5, flip=True)
    whole = next(shard_batches(samples, 12, transform)).pixels
    for rank in (0, 1):
        half = next(shard_batches(samples, 3, transform, Stride(6, rank, 2))).pixels
        assert torch.equal(half, whole[6 + rank :: 2])
    assert len({bytes(pixels.numpy()) for pixels in whole}) == 12  # four epochs of three, cut otherwise each time


def test_mirrored_and_not_cut(photos):
    plain = next(shard_batches(open_shards(photos, seed=1), 30, Transform(16))).pixels
    mirrored = next(shard_batches(open_shards(photos, seed=1), 30, Transform(16, flip=True))).pixels
    turned = [not torch.equal(a, b) for a, b in zip(plain, mirrored, strict=True)]
    assert 5 < sum(turned) < 25
    for a, b, t in zip(plain, mirrored, turned, strict=True):
        assert (a.flip(-1).int() - b.int()).abs().max() <= 1 if t else torch.equal(a, b)


def test_a_part_is_not_smaller_than_asked(monkeypatch):
    boxes = []
    real = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, how, box=None: boxes.append(box) or real(self, size, how, box)
    )
    image = Image.new("RGB", (60, 40))
    for i in range(200):
        assert Transform(8, crop=0.5)(image, np.random.default_rng(i)).size == (8, 8)
    for left, top, right, bottom in filter(None, boxes):
        width, height = right - left, bottom - top
        assert 0 <= left < right <= 60
        assert 0 <= top < bottom <= 40
        assert width * height >= 0.47 * 2400
        assert 0.72 <= width / height <= 1.4
    assert sum(box is not None for box in boxes) > 190


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("mixed", [False, True])
def test_workers_read_the_same_batches(scenes, photos, mixed):
    source = {str(scenes): 2.0, str(photos): 1.0} if mixed else scenes
    samples = open_shards(source, seed=1)
    alone, ahead = (
        list(islice(shard_batches(samples, 3, Transform(16, flip=True), Stride(6, 1, 2), workers), 5))
        for workers in (0, 2)
    )
    for batch, other in zip(alone, ahead, strict=True):
        assert batch.captions == other.captions
        assert torch.equal(batch.pixels, other.pixels)


def test_questions_come_from_the_metadata():
    pixels, asked = torch.zeros(3, 3, 4, 4), [{"question": f"How many {i}?", "answer": str(i)} for i in range(5)]
    batch = Batch(pixels, ["a"] * 3, ["a"] * 3, [{"questions": asked}, {}, {"questions": [{"question": "What?"}]}])
    found = {q for i in range(50) for q in batch.questions(0, np.random.default_rng(i), 1)}
    assert found == {(q["question"], q["answer"]) for q in asked}
    assert sorted(batch.questions(0, np.random.default_rng(0), 9)) == sorted(found)
    assert batch.questions(1, np.random.default_rng(0), 1) == []
    with pytest.raises(DataError, match="expected question and answer"):
        batch.questions(2, np.random.default_rng(0), 1)
    assert Batch(pixels, ["a"] * 3, ["a"] * 3).questions(0, np.random.default_rng(0), 1) == []


def test_canonical_wordings_come_from_the_metadata(photos):
    batch = worded(torch.zeros(2, 3, 4, 4), ["A Cat!", "A dog"], [{"canonical": "a cat on a mat"}, {}])
    assert batch.captions == ["a cat", "a dog"]
    assert batch.canonical == ["a cat on a mat", "a dog"]
    assert batch.right_captions(["a cat on a mat", "a cat"]) == [True, False]
    assert batch.right_captions(["a cat"]) == [False]
