"""Shards encoded part by part, by jobs side by side, are those that one job encodes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seedtok.core.errors import BusyError, ConfigError
from seedtok.core.locks import holder_of, locked
from seedtok.data.shard_parts import ShardPart, locked_part
from seedtok.data.tars import shard_paths
from seedtok.mini.world.shards import write_scene_shards


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_shard_is_in_one_part(tmp_path, count):
    for name in range(5):
        (tmp_path / f"{name}.tar").touch()
    parts = [ShardPart(number, count).shards(tmp_path) for number in range(1, count + 1)]
    assert sorted(path for part in parts for path in part) == shard_paths(tmp_path)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1 / 2", "1/2\n"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected I/N with I from 1 to N, such as 2/8"):
        ShardPart.of(text)
    assert str(ShardPart.of("2/8")) == "2/8"


def test_parts_are_written_side_by_side_and_each_by_one_process(tmp_path):
    first, second = ShardPart(1, 2), ShardPart(2, 2)
    with locked_part(tmp_path, first), locked_part(tmp_path, second):
        with pytest.raises(BusyError, match="is being written by"), locked_part(tmp_path, first):
            pass
        with pytest.raises(BusyError, match="part-1-of-2 is being written by"), locked_part(tmp_path, None):
            pass
    with locked(tmp_path), pytest.raises(BusyError, match="is being written by"), locked_part(tmp_path, first):
        pass
    assert holder_of(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_part(cli, tmp_path, tiny_tokenizer):
    write_scene_shards(tmp_path / "shards", "train", 5, size=64, shard_size=2)
    run = "tokenize", tmp_path / "shards", "--model", tiny_tokenizer
    for part, said in (("1/2", "3 images in 2 files"), ("2/2", "2 images in 1 files"), ("4/4", "has none of the 3")):
        code, out, error = cli(*run, "--out", tmp_path / "parts", "--part", part)
        assert (code, error) == (0, "")
        assert said in out
    assert cli(*run, "--out", tmp_path / "whole")[0] == 0
    found, expected = (
        {path.name: pq.read_table(path) for path in folder.iterdir()}
        for folder in map(Path, (tmp_path / "parts", tmp_path / "whole"))
    )
    assert found == expected
    assert cli(*run, "--out", tmp_path / "parts", "--part", "3/2")[0] == 2
