"""Codes as Parquet: round trip, resumption, and what is refused."""

from itertools import islice

import numpy as np
import pytest

from seedtok.data.batches import code_batches
from seedtok.data.codes import read_codes, tokenize_shards
from seedtok.data.shards import ShardSamples, write_scene_shards
from seedtok.errors import DataError


def encode(images) -> np.ndarray:
    """Codes that tell pictures apart: some of their pixels."""
    return np.stack(
        [np.asarray(image).reshape(-1)[:: 64 * 64 * 3 // 32][:32].astype(np.int64) * 30 for image in images]
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_scene_shards(folder, "train", 25, size=64, shard_size=10)
    return folder


def test_round_trip(shards, tmp_path):
    done: list[int] = []
    report = tokenize_shards(shards, tmp_path / "codes", encode, "mini", batch_size=4, progress=done.append)
    assert [p.name for p in report.written] == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert (report.images, report.kept, done[-1]) == (25, (), 25)
    assert done == sorted(done)
    codes = read_codes(tmp_path / "codes", "mini")
    samples = ShardSamples(shards, shuffle=False)
    assert codes.codes.dtype == np.uint16
    assert codes.codes.shape == (25, 32)
    for i, sample in enumerate(islice(samples, 25)):
        assert codes.captions[i] == sample.caption
        assert codes.keys[i] == sample.metadata["key"]
        assert codes.metadata[i]["scene"] == sample.metadata["scene"]
        assert np.array_equal(codes.codes[i], encode([sample.image])[0])


def test_what_is_finished_is_not_done_again(shards, tmp_path):
    tokenize_shards(shards, tmp_path, encode, "mini")
    (tmp_path / "00001.parquet").unlink()
    before = (tmp_path / "00000.parquet").stat().st_mtime_ns

    def broken(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_shards(shards, tmp_path, broken, "mini")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000.parquet", "00002.parquet"]
    report = tokenize_shards(shards, tmp_path, encode, "mini")
    assert [p.name for p in report.written] == ["00001.parquet"]
    assert len(report.kept) == 2
    assert (tmp_path / "00000.parquet").stat().st_mtime_ns == before
    assert len(read_codes(tmp_path)) == 25


def test_batches_of_stored_codes_go_through_all_once_an_epoch_wherever_they_start(shards, tmp_path):
    tokenize_shards(shards, tmp_path, encode, "mini")
    stored = read_codes(tmp_path)
    whole = list(islice(code_batches(tmp_path, 5, seed=1), 10))
    assert sorted(tuple(row) for b in whole[:5] for row in b.codes.tolist()) == sorted(
        map(tuple, stored.codes.tolist())
    )
    assert [b.captions for b in whole[:5]] != [b.captions for b in whole[5:]]
    assert whole[0].codes_of == "mini"
    for batch in whole:
        for row, scene in zip(batch.codes.numpy(), batch.scenes, strict=True):
            at = np.flatnonzero((stored.codes == row).all(1))
            assert any(stored.metadata[i]["scene"] == scene.to_json() for i in at)
    later = list(islice(code_batches(tmp_path, 5, seed=1, start=20), 3))
    assert [b.captions for b in later] == [b.captions for b in whole[4:7]]
    halves = [list(islice(code_batches(tmp_path, 5, seed=1, rank=r, world_size=2), 2)) for r in (0, 1)]
    mixed = [c for pair in zip(*([x for b in h for x in b.captions] for h in halves), strict=True) for c in pair]
    assert mixed == [c for b in whole[:4] for c in b.captions]


def test_bad_input_is_refused(shards, tmp_path):
    with pytest.raises(DataError, match="no codes in"):
        read_codes(tmp_path)
    tokenize_shards(shards / "00000.tar", tmp_path, encode, "mini")
    with pytest.raises(DataError, match="codes of another tokenizer"):
        tokenize_shards(shards, tmp_path, encode, "other")
    with pytest.raises(DataError, match="codes of another tokenizer"):
        read_codes(tmp_path, "other")
    (tmp_path / "00000.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(DataError, match="not a file of codes"):
        read_codes(tmp_path)
    with pytest.raises(DataError, match="no shards in"):
        tokenize_shards(tmp_path, tmp_path / "out", encode, "mini")
