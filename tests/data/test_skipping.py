"""Samples that cannot be read: left out, counted, named, and the same wherever a run goes on."""

import json
import tarfile
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from seedtok.core.errors import DataError, SeedTokWarning
from seedtok.data import skipping
from seedtok.data.mixtures import MixedSamples
from seedtok.data.shard_batches import open_shards, shard_batches
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits, Skipped
from seedtok.data.transforms import Transform
from seedtok.mini.world.shards import write_scene_shards

quietly = pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
BAD = {"000001", "000030", "000041", "000110"}


def damage(path: Path, name: str) -> None:
    """Overwrites a member of a tar file with what is neither a picture nor text."""
    with tarfile.open(path) as tar:
        member = tar.getmember(name)
    data = bytearray(path.read_bytes())
    data[member.offset_data : member.offset_data + member.size] = b"\xff" * member.size
    path.write_bytes(data)


def remove(path: Path, name: str) -> None:
    """Writes a tar file again without one of its members."""
    with tarfile.open(path) as tar:
        kept = [(m, tar.extractfile(m).read()) for m in tar.getmembers() if m.name != name]
    with tarfile.open(path, "w") as tar:
        for member, data in kept:
            tar.addfile(member, BytesIO(data))


def keys(samples, count: int) -> list[str]:
    return [sample.metadata["key"] for sample in islice(samples, count)]


@pytest.fixture
def shards(tmp_path) -> Path:
    """24 samples in 12 shards, 4 of them bad: two pictures, a caption that is no text, and one that is not there."""
    out = tmp_path / "shards"
    write_scene_shards(out, "train", 24, size=64, shard_size=2)
    damage(out / "00000.tar", "000001.png")
    damage(out / "00003.tar", "000030.txt")
    remove(out / "00004.tar", "000041.txt")
    remove(out / "00004.tar", "000041.json")
    damage(out / "00011.tar", "000110.png")
    return out


@quietly
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_place_of_a_bad_sample_goes_to_a_good_one(shards, shuffle):
    samples = ShardSamples(shards, seed=5, shuffle=shuffle)
    alone = keys(samples, 72)
    for start in (0, 24, 48):
        epoch = alone[start : start + 24]
        assert len(set(epoch)) == 24 - 4  # every good one comes
        assert not BAD & set(epoch)
    assert {key for _, key, _ in samples.skipped.reasons} == BAD
    assert samples.skipped.count == 4  # not once an epoch
    for world in (2, 3):
        ranks = [ShardSamples(shards, seed=5, shuffle=shuffle, rank=r, world_size=world) for r in range(world)]
        together = [key for step in zip(*(keys(rank, 24) for rank in ranks), strict=True) for key in step]
        assert together[:48] == alone[:48]
    for start in (1, 7, 23, 24, 50):
        later = ShardSamples(shards, seed=5, shuffle=shuffle).skip(start)
        assert keys(later, 10) == alone[start : start + 10]


@quietly
def test_what_stands_in_is_not_in_the_same_batch(shards):
    """In a contrastive batch, two of the same picture would be each other's negatives."""
    for batch in islice(shard_batches(open_shards(shards, seed=3), 4, Transform(16)), 18):
        assert len(np.unique(batch.pixels.flatten(1).numpy(), axis=0)) == 4


@quietly
def test_a_mixture_skips_as_well(shards):
    samples = MixedSamples({str(shards): 1.0})
    assert not BAD & {s.metadata["key"] for s in samples.at(range(48))}
    assert samples.sources[0].skipped.count == 4


def test_they_are_named_and_listed(shards, tmp_path):
    log = tmp_path / "run" / "skipped.jsonl"
    with pytest.warns(SeedTokWarning) as caught:
        list(islice(ShardSamples(shards, limits=SkipLimits(log=log)), 48))
    messages = [str(warning.message) for warning in caught if warning.category is SeedTokWarning]
    assert len(messages) == 4
    assert all(message.startswith(f"skipped: {shards}/000") for message in messages)
    found = {(Path(r["shard"]).name, r["key"]): r["reason"] for r in map(json.loads, log.read_text().splitlines())}
    assert found.keys() == {
        ("00000.tar", "000001"), ("00003.tar", "000030"), ("00004.tar", "000041"), ("00011.tar", "000110"),
    }  # fmt: skip
    assert "not an image" in found["00000.tar", "000001"]
    assert "no caption: there is no .txt" in found["00004.tar", "000041"]
    before = log.read_text()
    with pytest.warns(SeedTokWarning):  # a run that goes on
        list(islice(ShardSamples(shards, limits=SkipLimits(log=log)), 48))
    assert log.read_text() == before


@quietly
def test_too_many_stop_with_a_line(shards):
    with pytest.raises(DataError, match=r"1 of 24 samples cannot be read; at most 0 of all may be bad; the last: "):
        list(islice(ShardSamples(shards, limits=SkipLimits(share=0)), 48))
    with pytest.raises(DataError, match="4 of 24 samples"):
        list(islice(ShardSamples(shards, limits=SkipLimits(share=0.1, at_least=3)), 48))
    assert len(keys(ShardSamples(shards, limits=SkipLimits(share=0.2, at_least=1)), 48)) == 48


def skipped_by(reader: int, readers: int, bad_every: int, asked: int) -> Skipped:
    """What one of several readers notes of 100,000 samples, of which it comes to so many."""
    skipped = Skipped(SkipLimits(0.01), 100_000)
    for number in range(asked):
        place = reader + number * readers
        skipped.came_to(place)
        if number % bad_every == bad_every - 1:
            skipped.add(Path("0.tar"), str(place), "broken")
    return skipped


@quietly
def test_one_of_many_readers_is_measured_by_its_part():
    with pytest.raises(DataError, match=r"36 of about 1,0\d\d samples, which are one reader's part of 100,000, cannot"):
        skipped_by(7, 100, bad_every=10, asked=1000)
    assert skipped_by(7, 100, bad_every=120, asked=1000).count == 8
    assert skipped_by(7, 100, bad_every=40, asked=1000).count == 25  # as of a bad shard, which few readers get
    assert skipped_by(7, 100, bad_every=1, asked=10).count == 10  # the first few end no run
    assert skipped_by(7, 100, bad_every=120, asked=20_000).count == 166  # over many epochs
    assert skipped_by(0, 1, bad_every=1, asked=1000).count == 1000  # alone: of all
    with pytest.raises(DataError, match="1001 of 100,000 samples cannot be read"):
        skipped_by(0, 1, bad_every=1, asked=1001)


@quietly
def test_what_every_reader_finds_is_of_all():
    skipped = Skipped(SkipLimits(0.01), 100_000)
    skipped.add(Path("0.tar"), "", "the shard ends early", 900, is_common=True)
    for place in range(0, 50_000, 100):
        skipped.came_to(place)
    skipped.add(Path("1.tar"), "0", "broken")
    assert skipped.count == 901


@quietly
def test_a_rank_with_more_than_its_part_stops(shards, monkeypatch):
    monkeypatch.setattr(skipping, "CHANCE", 0)
    ranks = [ShardSamples(shards, shuffle=False, rank=r, world_size=3, limits=SkipLimits(0.09, 1)) for r in range(3)]
    with pytest.raises(DataError, match="2 of about 10 samples, which are one reader's part of 24, cannot be read"):
        keys(ranks[0], 8)
    assert len(keys(ranks[2], 8)) == 8


@quietly
def test_none_that_is_good(tmp_path):
    write_scene_shards(tmp_path, "train", 3, size=64)
    for number in range(3):
        damage(tmp_path / "00000.tar", f"00000{number:03}.png")
    with pytest.raises(DataError, match=r"none of many samples in a row can be read; the last: .*not an image"):
        next(iter(ShardSamples(tmp_path)))


@pytest.mark.parametrize("counted", [True, False])
def test_a_shard_that_ends_early_is_read_up_to_there(tmp_path, counted):
    write_scene_shards(tmp_path, "train", 20, size=64, shard_size=10)
    path = tmp_path / "00001.tar"
    with tarfile.open(path) as tar:
        cut = tar.getmember("000016.png").offset_data + 100
    path.write_bytes(path.read_bytes()[:cut])
    if not counted:
        (tmp_path / "00001_stats.json").unlink()
    with pytest.warns(SeedTokWarning, match=r"00001\.tar: the shard ends early, after 7 samples"):
        samples = ShardSamples(tmp_path, shuffle=False)
    with pytest.warns(SeedTokWarning, match="sample 000016: it is incomplete"):
        found = keys(samples, samples.epoch_size)
    assert len(set(found[:16])) == 16
    assert found[16] in found[:16]  # in place of the one that is cut off
    assert samples.skipped.count == (3 + 1 if counted else 1 + 1)
    assert samples.skipped.total == (20 if counted else 18)


def test_a_shard_of_no_bytes_ends_early(tmp_path):
    write_scene_shards(tmp_path, "train", 4, size=64)
    (tmp_path / "00001.tar").write_bytes(b"")
    with pytest.warns(SeedTokWarning, match=r"00001\.tar: the shard ends early, after 0 samples"):
        samples = ShardSamples(tmp_path, shuffle=False)
    assert (samples.epoch_size, samples.skipped.count, samples.skipped.total) == (4, 1, 5)


@quietly
@pytest.mark.parametrize("seed", [0, 1])
def test_a_bad_sample_alone_in_its_window_is_stood_in_for(tmp_path, seed):
    """Nine shards: in each epoch, one of them is a window of its own."""
    write_scene_shards(tmp_path, "train", 9, size=64, shard_size=1)
    damage(tmp_path / "00008.tar", "000080.png")
    found = keys(ShardSamples(tmp_path, seed=seed), 90)
    for start in range(0, 90, 9):
        assert len(set(found[start : start + 9])) == 8
    for rank in (0, 1):
        assert keys(ShardSamples(tmp_path, seed=seed, rank=rank, world_size=2), 45) == found[rank::2]
    whole = tmp_path / "whole"
    write_scene_shards(whole, "train", 9, size=64, shard_size=1)
    undamaged = keys(ShardSamples(whole, seed=seed), 90)
    assert all(key == other for key, other in zip(found, undamaged, strict=True) if other != "000080")


@pytest.mark.filterwarnings("ignore")
def test_workers_skip_alike_and_say_so_in_one_line(shards):
    alone, ahead = (
        list(islice(shard_batches(open_shards(shards, seed=1), 4, Transform(16), workers=n), 6)) for n in (0, 2)
    )
    assert [b.captions for b in ahead] == [b.captions for b in alone]
    strict = open_shards(shards, seed=1, limits=SkipLimits(share=0))
    with pytest.raises(DataError) as caught:
        list(islice(shard_batches(strict, 4, Transform(16), workers=2), 12))
    assert "Traceback" not in str(caught.value)
    assert "cannot be read" in str(caught.value)
