"""One writer a folder: the second is told who holds it, and a dead one's lock does not count."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import seedtok.core.locks
from seedtok.core.errors import BusyError
from seedtok.core.locks import NAME, holder_of, locked
from seedtok.core.processes import ProcessId
from seedtok.mini.world.shards import write_scene_shards

HOLDER = """
import sys
from pathlib import Path
from seedtok.core.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds a folder until its stdin is closed, or it is killed."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=["flock", "file"])
def kind(request, monkeypatch):
    """By the kernel, and as where it has no such locks."""
    if request.param == "file":
        monkeypatch.setattr(seedtok.core.locks, "fcntl", None)
    elif seedtok.core.locks.fcntl is None:
        pytest.skip("no fcntl here")
    return request.param


def test_a_second_writer_is_told_who_holds_the_folder(tmp_path, kind):
    with holder(tmp_path / "out") as process:
        with (
            pytest.raises(BusyError, match=rf"being written by process {process.pid} on .*since 20"),
            locked(tmp_path / "out"),
        ):
            pass
        assert os.listdir(tmp_path / "out") == [NAME]
        process.kill()
    with locked(tmp_path / "out"):  # a dead process holds nothing
        assert json.loads((tmp_path / "out" / NAME).read_text())["pid"] == os.getpid()
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("place", [os.symlink, lambda _, path: os.mkfifo(path)])
def test_a_lock_is_no_link(tmp_path, kind, place):
    (tmp_path / "out").mkdir()
    (tmp_path / "other").write_text("text")
    place(tmp_path / "other", tmp_path / "out" / NAME)
    if kind == "flock":
        for use in (lambda: locked(tmp_path / "out").__enter__(), lambda: holder_of(tmp_path / "out")):
            with pytest.raises(OSError, match="a link or a special file stands where the lock would"):
                use()
    assert (tmp_path / "other").read_text() == "text"


def test_one_process_excludes_itself(tmp_path, kind):
    with locked(tmp_path):
        with pytest.raises(BusyError, match=f"process {os.getpid()} "), locked(tmp_path):
            pass
        with pytest.raises(BusyError):
            write_scene_shards(tmp_path, "test", 2, size=64)
    assert os.listdir(tmp_path) == []


def test_new_folders_go_unless_they_are_used(tmp_path, kind):
    with locked(tmp_path / "a" / "b"):
        pass
    assert os.listdir(tmp_path) == []
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "mine").touch()
    assert os.listdir(tmp_path) == ["a"]
    assert os.listdir(tmp_path / "a") == ["mine"]


def test_another_hosts_file_lock_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(seedtok.core.locks, "fcntl", None)
    record = {"host": "elsewhere-1", "pid": 1, "started": 1, "command": "seedtok train", "since": "2026"}
    (tmp_path / NAME).write_text(json.dumps(record))
    with (
        pytest.raises(BusyError, match=r"process 1 on elsewhere \(`seedtok train`, since 2026\)") as busy,
        locked(tmp_path),
    ):
        pass
    assert str(busy.value).endswith(f"if it was killed there, remove {tmp_path / NAME}")
    (tmp_path / NAME).write_text("half a rec")
    with pytest.raises(BusyError, match=NAME), locked(tmp_path):
        pass


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    pytest.importorskip("fcntl")

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(seedtok.core.locks.fcntl, "flock", refuse)
    with locked(tmp_path / "new"), pytest.raises(BusyError), locked(tmp_path / "new"):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_keeps_nor_ends_the_lock(tmp_path):
    with holder(tmp_path / "out") as process:
        process.kill()
    read, write = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # lives on
            os._exit(0)
        with pytest.raises(BusyError), locked(tmp_path):
            pass
    with locked(tmp_path):  # although the child lives
        pass
    os.close(write)
    os.waitpid(child, 0)


def test_who_is_gone():
    me = ProcessId.current()
    assert not me.is_gone()
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert ProcessId(me.host, process.pid, 1).is_gone()
    assert not ProcessId("another", process.pid, 1).is_gone()
    assert not ProcessId(me.host, me.pid, 0).is_gone()
    if me.started:
        assert ProcessId(me.host, me.pid, me.started + 1).is_gone()
