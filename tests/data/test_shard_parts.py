"""Shards encoded part by part, by jobs side by side, are those that one job encodes."""

import threading
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seedtok.core.errors import BusyError, ConfigError, DataError
from seedtok.core.locks import NAME, holder_of, locked
from seedtok.data.shard_parts import PART, ShardPart, locked_part
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


def test_parts_of_another_count_and_all_of_it_are_not_written_meanwhile(tmp_path):
    with locked_part(tmp_path, ShardPart(1, 2)):
        for other in (ShardPart(1, 4), ShardPart(1, 1), None):
            with pytest.raises(BusyError, match="part-1-of-2 is being written by"), locked_part(tmp_path, other):
                pass
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_in_nobodys_way(tmp_path):
    """The lock of a whole run, and those of two parts, which many that start together look at."""
    for folder in (tmp_path, *(tmp_path / f"{PART}{number}-of-8" for number in (1, 2))):
        folder.mkdir(exist_ok=True)
        (folder / NAME).write_text("{}")
    begin, failed = threading.Barrier(8), list[Exception]()

    def write(number: int) -> None:
        begin.wait()
        try:
            with locked_part(tmp_path, ShardPart(number, 8)):
                time.sleep(0.05)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with locked_part(tmp_path, None):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_of_every_part(tmp_path):
    for number in (1, 2):
        with pytest.raises(DataError, match="no such file or folder"):
            ShardPart(number, 2).shards(tmp_path / "typo")


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
