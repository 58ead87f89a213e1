"""Shards encoded on a Ray cluster whose processes are killed: each exactly once, as by one process."""

import os
import random
import signal
import tarfile
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import ray_encoders
from ray_encoders import StubEncoder, load_killing, load_missing, load_stub, load_threads
from seedtok.core.errors import CheckpointError, ConfigError, DataError
from seedtok.data.bulk import maker_of
from seedtok.data.codes import tokenize_shards
from seedtok.data.ray_engine import TRIES, RayEngine
from seedtok.data.skipping import SkipLimits
from seedtok.data.tars import index_samples
from seedtok.mini.world.shards import write_scene_shards

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's own
]
SHARDS = 50


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """A cluster of two processes, which the engine finds and leaves running."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(ray_encoders)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OMP_NUM_THREADS", "2")  # as in a container with a quota of two cores
        ray.init(
            num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            object_store_memory=100 << 20,
        )  # fmt: skip
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """50 shards of 3 pictures, one with a broken picture, one without a caption, one that ends early."""
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_scene_shards(folder, "train", 3 * SHARDS, size=64, shard_size=3)
    path = folder / "00003.tar"
    (start, size), data = index_samples(path)[1].image, bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    path = folder / "00007.tar"
    with tarfile.open(path) as old, tarfile.open(folder / "new", "w") as new:
        for member in old:
            if member.name not in ("000070.txt", "000070.json"):  # a caption may be in either
                new.addfile(member, old.extractfile(member))
    (folder / "new").rename(path)
    path = folder / "00011.tar"
    path.write_bytes(path.read_bytes()[: index_samples(path)[2].image[0] + 100])
    return folder


@pytest.fixture(scope="module")
def expected(shards, tmp_path_factory) -> Path:
    """What the local engine writes."""
    out = tmp_path_factory.mktemp("local")
    encoder = StubEncoder(out / ".processes")
    tokenize_shards(shards, out, encoder, maker_of(encoder), limits=SkipLimits(0.1))
    return out


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def kill_now_and_then(processes: Path, codes: Path, stop: threading.Event, killed: list[int]) -> None:
    """Kills one of the running processes, at any moment, about every fourth shard."""
    draw, following = random.Random(0), 0
    while not stop.wait(draw.uniform(0, 0.03)):
        alive = [int(path.name) for path in processes.iterdir() if Path("/proc", path.name).exists()]
        if alive and len(list(codes.glob("*.parquet"))) >= following:
            following += draw.randint(2, 6)
            with suppress(ProcessLookupError):
                os.kill(victim := draw.choice(alive), signal.SIGKILL)
                killed.append(victim)


def test_with_processes_killed_at_random_nothing_is_lost_or_doubled(shards, expected, tmp_path):
    processes, codes, stop, killed = tmp_path / "processes", tmp_path / "codes", threading.Event(), []
    processes.mkdir()
    killer = threading.Thread(target=kill_now_and_then, args=(processes, codes, stop, killed))
    killer.start()
    done: list[int] = []
    try:
        report = RayEngine(partial(load_stub, processes)).tokenize(
            shards, codes, 1, done.append, limits=SkipLimits(0.1)
        )
    finally:
        stop.set()
        killer.join()
    assert len(killed) >= 5
    assert files(codes) == files(expected)  # to the byte, and no other file
    assert report.images - 3 * len(killed) <= report.far <= report.images  # the stub counts all, a killed one none
    assert (len(report.written), report.kept, report.images) == (SHARDS, (), 3 * SHARDS - 3)
    assert done == sorted(done)
    assert done[-1] == report.images
    keys = [key for path in report.written for key in pq.read_table(path)["key"].to_pylist()]
    assert len(keys) == len(set(keys)) == report.images
    assert {(Path(shard).name, key) for shard, key, _ in report.skipped} == {
        ("00003.tar", "000031"), ("00007.tar", "000070"), ("00011.tar", "000112"),
        ("00011.tar", ""),
    }  # fmt: skip


def test_a_process_of_a_core_has_one_thread(shards, tmp_path):
    RayEngine(partial(load_threads, tmp_path / "processes")).tokenize(shards / "00000.tar", tmp_path / "codes")
    assert set(np.ravel(pq.read_table(tmp_path / "codes" / "00000.parquet")["codes"].to_pylist())) == {1}


def test_a_stopped_run_goes_on_with_what_is_left(shards, expected, tmp_path):
    codes, limits = tmp_path / "codes", SkipLimits(0.1)
    engine = RayEngine(partial(load_stub, tmp_path / "processes"))

    def stop(images: int) -> None:
        if images > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.tokenize(shards, codes, progress=stop, limits=limits)
    # complete ones: a worker that is killed while it writes leaves a hidden temporary file until the next run
    there = {path.name for path in codes.glob("[!.]*.parquet")}
    assert 10 <= len(there) < SHARDS
    report = engine.tokenize(shards, codes, limits=limits)
    assert {path.name for path in report.kept} >= there
    assert len(report.kept) + len(report.written) == SHARDS
    assert files(codes) == files(expected)


def test_what_stops_it_is_said_in_a_line(shards, tmp_path):
    out = tmp_path / "codes"
    with pytest.raises(DataError, match=rf"0000\d.tar: {TRIES} processes ended over it"):
        RayEngine(partial(load_killing, tmp_path / "processes")).tokenize(shards / "00000.tar", out)
    with pytest.raises(CheckpointError, match="no such checkpoint: none"):
        RayEngine(load_missing).tokenize(shards, out)
    with pytest.raises(DataError, match="at most 0 of all may be bad"):
        RayEngine(partial(load_stub, tmp_path / "processes")).tokenize(shards, out, limits=SkipLimits(0))
    with pytest.raises(ConfigError, match="the Ray cluster has no GPU"):
        RayEngine(load_missing, device="cuda").tokenize(shards, out)
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda"):
        RayEngine(load_missing, device="cuda:1")


def test_the_command_writes_what_the_local_engine_writes(cli, shards, tiny_tokenizer, tmp_path):
    (tmp_path / "shards").mkdir()
    for path in sorted(shards.glob("*.tar"))[:3]:
        (tmp_path / "shards" / path.name).write_bytes(path.read_bytes())
    for engine in ("local", "ray"):
        code, out, error = cli(
            "tokenize", tmp_path / "shards", "--out", tmp_path / engine, "--model", tiny_tokenizer, "--engine", engine
        )
        assert (code, out.partition(" in ")[0]) == (0, "9 images"), error
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    code, _, error = cli("tokenize", tmp_path / "shards", "--out", tmp_path / "x", "--address", "auto")
    assert (code, error.count("\n")) == (2, 1)
    assert "give --engine ray" in error
