"""Files and folders appear complete or not at all, and what a killed process leaves is removed."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedtok.core.atomic import (
    atomic_file,
    atomic_folder,
    hidden_folder,
    is_empty,
    move_into,
    remove_leftovers,
    replace_folder,
    temporary_path,
)
from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import CheckpointError
from seedtok.core.processes import ProcessId


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def found(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def dead() -> ProcessId:
    """A process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return ProcessId(ProcessId.current().host, process.pid, 1)


def left_by(process: ProcessId, folder: Path, ending: str = "tmp") -> Path:
    return folder / f".seedtok.{process.host}.{process.pid}.{process.started}.0.{ending}"


# ---------------------------------------------------------------- whole files, whole folders


def test_a_whole_folder_takes_the_place_of_another(tmp_path):
    put(tmp_path / "step", {"old": "1"})
    with atomic_folder(tmp_path / "step") as new:
        put(new, {"new": "2"})
    assert found(tmp_path) == {"step/new": "2"}
    put(tmp_path / "other", {"other": "3"})
    replace_folder(tmp_path / "other", tmp_path / "step")
    assert found(tmp_path) == {"step/other": "3"}


def test_a_long_name_and_an_odd_suffix(tmp_path):
    path = tmp_path / ("x" * 250 + ".b c")
    with atomic_file(path) as temporary:
        assert temporary.suffix == ".b c"
        temporary.write_text("1")
    assert os.listdir(tmp_path) == [path.name]


def test_files_are_on_the_disk_before_they_get_their_names_and_a_disk_that_is_full_then_changes_nothing(
    tmp_path, monkeypatch
):
    put(tmp_path, {"file": "old", "step/a": "old", "into/a": "old"})
    before, asked = found(tmp_path), []

    def full(descriptor: int) -> None:
        asked.append(os.fstat(descriptor).st_size)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), atomic_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
    with pytest.raises(CheckpointError, match="No space"), atomic_folder(tmp_path / "step") as new:
        put(new, {"sub/a": "new"})
    with hidden_folder(tmp_path / "into") as hidden:
        put(hidden, {"a": "new"})
        with pytest.raises(OSError, match="No space"):
            move_into(hidden, tmp_path / "into")
    assert (found(tmp_path), asked) == (before, [3, 3, 3])


# ---------------------------------------------------------------- what the killed leave


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    alive, gone = ProcessId.current(), dead()
    elsewhere = ProcessId("another-host-1", gone.pid, gone.started)
    reborn = ProcessId(alive.host, alive.pid, alive.started - 1)  # its number was given to us
    kept = {left_by(alive, tmp_path), left_by(elsewhere, tmp_path), tmp_path / ".mine.tmp", tmp_path / ".seedtok.x"}
    for path in (*kept, left_by(gone, tmp_path), left_by(reborn, tmp_path)):
        path.touch()
    put(left_by(gone, tmp_path, "tmp.png"), {"a/b": "1"})
    remove_leftovers(tmp_path)
    assert set(tmp_path.iterdir()) == kept
    remove_leftovers(tmp_path, alone=True)
    assert set(tmp_path.iterdir()) == kept - {path for path in kept if "another-host" in path.name}


def test_every_writer_sweeps_where_it_writes(tmp_path):
    gone = dead()
    for name in ("file", "parent", "into", "hidden"):
        (tmp_path / name).mkdir()
        left_by(gone, tmp_path / name).touch()
    with atomic_file(tmp_path / "file" / "a.txt") as temporary:
        temporary.touch()
    with atomic_folder(tmp_path / "parent" / "step"):
        pass
    with checkpoint_folder(tmp_path / "into"), hidden_folder(tmp_path / "hidden"):
        pass
    assert all(is_empty(tmp_path / name) for name in ("into", "hidden"))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "file", "file/a.txt", "hidden", "into", "parent", "parent/step",
    ]  # fmt: skip


def test_a_move_that_was_cut_off_is_finished(tmp_path):
    put(left_by(dead(), tmp_path, "done"), {"00001.tar": "1", "sub/2": "2", "config.json": "new"})
    put(tmp_path, {"00000.tar": "0", "config.json": "old"})
    remove_leftovers(tmp_path)
    assert found(tmp_path) == {"00000.tar": "0", "00001.tar": "1", "sub/2": "2", "config.json": "new"}
    assert not list(tmp_path.glob(".seedtok*"))


def test_what_is_left_is_not_moved_through_links_or_from_others(tmp_path, monkeypatch):
    folder, home = tmp_path / "folder", tmp_path / "home"
    put(left_by(gone := dead(), folder, "done"), {"sub/file": "new"})
    put(home, {"file": "old", "more/sub/file": "new"})
    (folder / "sub").symlink_to(home)
    (link := left_by(gone, folder, "done.link")).symlink_to(home / "more")
    remove_leftovers(folder)
    assert found(home) == {"file": "old", "more/sub/file": "new"}
    assert link.is_symlink()
    link.unlink()
    put(mapped := left_by(gone, folder, "done"), {"own": "mine"})
    monkeypatch.setattr(os, "geteuid", lambda: mapped.stat().st_uid + 1)  # but the folder's owner is the file's
    remove_leftovers(folder)
    assert sorted(folder.iterdir()) == sorted([folder / "sub", folder / "own"])
    put(others := left_by(gone, folder, "done"), {"file": "theirs"})
    stat, other = Path.stat, os.stat_result((0o40700, 0, 0, 1, os.getuid() + 1, 0, 0, 0, 0, 0))
    monkeypatch.setattr(Path, "stat", lambda path, **how: other if path == folder else stat(path, **how))
    monkeypatch.setattr(os, "geteuid", lambda: other.st_uid)
    remove_leftovers(folder)
    assert others.is_dir()


def test_names_are_never_used_twice(tmp_path):
    assert len({temporary_path(tmp_path) for _ in range(10)}) == 10


KILLED = """
import os, signal, sys, time
from pathlib import Path
from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.atomic import atomic_file, atomic_folder
writers = (checkpoint_folder, atomic_file, atomic_folder)
writer = next(writer for writer in writers if writer.__name__ == sys.argv[1])
out = Path(sys.argv[2])
replace, moves = os.replace, []
def slow(source, target):
    moves.append(target)
    if len(moves) == 3:
        print("moving", flush=True)
        time.sleep(60)
    replace(source, target)
os.replace = slow
with writer(out) as new:
    if writer is atomic_file:
        new.write_text("half")
    else:
        for number in range(5):
            (new / f"{number}.txt").write_text("new")
        (new / "config.json").write_text("new")
    if sys.argv[3] == "writing":
        print("writing", flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("writer", "when"),
    [
        ("checkpoint_folder", "writing"),
        ("checkpoint_folder", "moving"),
        ("atomic_file", "writing"),
        ("atomic_folder", "writing"),
    ],
)
def test_a_killed_writer_loses_nothing_and_the_next_one_cleans_up(tmp_path, writer, when):
    out = tmp_path / "out"
    if writer == "atomic_file":
        out.write_text("old")
    else:
        put(out, {"config.json": "old", "mine.txt": "m"})
    command = [sys.executable, "-c", KILLED, writer, out, when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == when
        process.kill()
    assert list(tmp_path.rglob(".seedtok*"))
    left = {"out": "old"} if writer == "atomic_file" else {"out/config.json": "old", "out/mine.txt": "m"}
    assert left.items() <= found(tmp_path).items()
    if when == "moving":
        left = {"out/config.json": "new", "out/mine.txt": "m"} | {f"out/{n}.txt": "new" for n in range(5)}
    remove_leftovers(out if writer == "checkpoint_folder" else tmp_path)
    assert found(tmp_path) == left
    assert not list(tmp_path.rglob(".seedtok*"))


# ---------------------------------------------------------------- what is there


def test_what_a_folder_holds(tmp_path):
    assert is_empty(tmp_path / "none")
    left_by(ProcessId.current(), tmp_path).touch()
    assert is_empty(tmp_path)
    put(tmp_path, {"mine.txt": "m"})
    assert not is_empty(tmp_path)


def test_what_only_the_owner_could_read_has_the_mode_of_new_files(tmp_path):
    (tmp_path / "other").touch()
    with checkpoint_folder(tmp_path / "out") as new:
        for name, mode in (("a.safetensors", 0o600), ("run.sh", 0o755)):
            (new / name).touch()
            (new / name).chmod(mode)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {"a.safetensors": (tmp_path / "other").stat().st_mode & 0o777, "run.sh": 0o755}


def test_move_into_takes_an_empty_folder(tmp_path):
    with hidden_folder(tmp_path) as hidden:
        move_into(hidden, tmp_path)
    assert not list(tmp_path.iterdir())
