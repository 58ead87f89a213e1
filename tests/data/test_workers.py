"""Shards encoded by several processes, against one."""

import os
import signal
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from threading import Event

import pyarrow.parquet as pq
import pytest

from encoders import KilledEncoder, StubEncoder, fail
from seedtok.core.errors import CheckpointError, ConfigError, DataError, SeedTokWarning
from seedtok.data import workers
from seedtok.data.codes import tokenize_shards
from seedtok.data.skipping import SkipLimits
from seedtok.data.tars import index_samples
from seedtok.data.workers import tokenize_in_processes
from seedtok.mini.world.shards import write_scene_shards


def rows(folder: Path) -> dict[str, list]:
    return {path.name: pq.read_table(path).to_pylist() for path in sorted(folder.glob("*.parquet"))}


@pytest.mark.slow
def test_several_processes_write_what_one_does(tmp_path):
    shards = tmp_path / "shards"
    write_scene_shards(shards, "train", 25, size=64, shard_size=5)
    start, size = index_samples(shards / "00001.tar")[0].image
    with (shards / "00001.tar").open("r+b") as file:
        file.seek(start)
        file.write(bytes(size))
    with tarfile.open(shards / "00005.tar", "w"):  # without samples
        pass
    with pytest.warns(SeedTokWarning, match="sample 000010: "):
        expected = tokenize_shards(shards, tmp_path / "one", StubEncoder(), "stub")
    done: list[int] = []
    with pytest.warns(SeedTokWarning, match="sample 000010: "):
        report = tokenize_in_processes(StubEncoder, 2, shards, tmp_path / "two", 4, done.append)
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    assert [path.name for path in report.written] == [path.name for path in expected.written]
    assert (report.images, report.far, report.skipped) == (24, 24, expected.skipped)
    assert done == sorted(done)
    assert done[-1] == 24
    with pytest.warns(SeedTokWarning, match="skipped"):  # what was skipped before counts too
        again = tokenize_in_processes(StubEncoder, 2, shards, tmp_path / "two")
    assert (again.images, again.written, len(again.kept)) == (24, (), 5)
    with pytest.raises(DataError, match="1 of 25 samples cannot be read"):
        tokenize_in_processes(StubEncoder, 2, shards, tmp_path / "strict", limits=SkipLimits(share=0))


def test_a_shard_that_a_process_has_been_handed_is_left_when_all_is_stopped(tmp_path, monkeypatch):
    (stopped := Event()).set()
    monkeypatch.setattr(workers, "_stopped", stopped, raising=False)
    report = workers._tokenize(tmp_path / "0.tar", tmp_path, 1, False, True)
    assert (report.written, report.images) == ((), 0)


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_said(tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 2, size=64, shard_size=1)
    run = partial(tokenize_in_processes, source=tmp_path / "shards", out=tmp_path / "codes")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        run(fail, 2)
    with pytest.raises(DataError, match="a process that encoded shards was ended"):
        run(KilledEncoder, 2)
    with pytest.raises(ConfigError, match="0 workers: give 1 or more"):
        run(StubEncoder, 0)


@pytest.mark.slow
def test_command_warns_in_a_line(cli, tmp_path, tiny_tokenizer):
    write_scene_shards(tmp_path / "shards", "train", 2, size=64, shard_size=1)
    (tmp_path / "shards" / "00002.tar").touch()
    out = tmp_path / "codes"
    code, said, error = cli("tokenize", tmp_path / "shards", "--out", out, "--model", tiny_tokenizer, "--workers", 2)
    assert (code, error.count("\n")) == (0, 1)
    assert error.startswith("warning: skipped: ")
    assert said.startswith("2 images in 2 files")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")
def test_workers_end_when_their_parent_is_killed(tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 2, size=64, shard_size=1)
    program = (
        "from encoders import SlowEncoder\n"
        "from seedtok.data.workers import tokenize_in_processes\n"
        f"if __name__ == '__main__':\n    tokenize_in_processes(SlowEncoder, 1, {str(tmp_path / 'shards')!r}, "
        f"{str(tmp_path / 'codes')!r})\n"
    )
    (tmp_path / "program.py").write_text(program)
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py"], env=os.environ | {"PYTHONPATH": paths, "SEEDTOK_TEST": str(tmp_path)}
    ) as parent:
        try:
            worker = int(waited_for(lambda: (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""))
        finally:
            parent.send_signal(signal.SIGKILL)
    assert waited_for(lambda: not is_running(worker))


def waited_for(condition):
    for _ in range(600):
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError("waited for a minute")


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
