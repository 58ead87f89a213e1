"""A run on shards of which some samples cannot be read: it goes on, lists them, and resumes exactly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from seedtok.core.errors import DataError, SeedTokWarning
from seedtok.data.tars import index_samples
from seedtok.mini.world.shards import write_scene_shards
from seedtok.training.checkpoints import list_checkpoints
from seedtok.training.loop import train
from tiny_runs import tiny


@pytest.fixture
def shards(tmp_path) -> Path:
    out = tmp_path / "shards"
    write_scene_shards(out, "train", 9, size=64, shard_size=3)
    for path in sorted(out.glob("*.tar"))[:2]:
        start, size = index_samples(path)[1].image
        data = bytearray(path.read_bytes())
        data[start : start + size] = bytes(size)
        path.write_bytes(data)
    return out


def test_a_run_skips_them_and_resumes_exactly(shards, tmp_path):
    config = tiny("autoencoder", tmp_path, f"data.shards={shards}", "data.validation=scenes", "precision=no")
    with pytest.warns(SeedTokWarning, match=r"skipped: .*0000[01]\.tar, sample 0000[01]1: "):
        final = train(config, tmp_path / "run")
    listed = {json.loads(line)["key"] for line in (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()}
    assert listed == {"000001", "000011"}
    shutil.copytree(tmp_path / "run", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "final")
    shutil.rmtree(list_checkpoints(tmp_path / "resumed")[-1])
    with pytest.warns(SeedTokWarning, match="skipped: "):
        resumed = train(config, tmp_path / "resumed", resume=True)
    (weights,), (again,) = (list(folder.glob("*.safetensors")) for folder in (final, resumed))
    for name, tensor in load_file(weights).items():
        assert torch.equal(tensor, load_file(again)[name])


@pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
def test_a_run_stops_where_more_are_bad_than_may_be(shards, tmp_path):
    with pytest.raises(DataError, match="1 of 9 samples cannot be read; at most 0 of all may be bad"):
        train(
            tiny("autoencoder", tmp_path, f"data.shards={shards}", "data.validation=scenes", "data.bad_share=0"),
            tmp_path / "run",
        )
