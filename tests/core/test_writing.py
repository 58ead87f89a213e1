"""Files among other people's files: replaced one by one, never lost, and nothing left behind by the killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seedtok.core.errors import CheckpointError
from seedtok.core.processes import ProcessId
from seedtok.core.writing import (
    files_into,
    hidden_folder,
    holds_checkpoint,
    is_empty,
    move_into,
    replace_folder,
    sweep,
    temporary_path,
    whole_file,
    whole_folder,
)

OURS = {"config.json": '{"format": "seedtok.lm"}', "visual.safetensors": "v"}


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


# ---------------------------------------------------------------- files among others


def test_other_files_stay_and_ours_are_replaced(tmp_path):
    mine = {"thesis.txt": "years", "adapter/notes.md": "n", "data/rows.csv": "1", ".env": "x", "other.safetensors": "o"}
    put(tmp_path, mine | {"visual.safetensors": "old"})
    with files_into(tmp_path) as new:
        put(new, OURS | {"adapter/adapter_config.json": "{}"})
        assert found(tmp_path)["visual.safetensors"] == "old"  # until all is written
    assert found(tmp_path) == mine | OURS | {"adapter/adapter_config.json": "{}"}


def test_the_configuration_comes_last(tmp_path, monkeypatch):
    moved = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    with files_into(tmp_path / "new") as new:
        put(new, {**OURS, "base/model.safetensors": "", "base/config.json": "", "z.json": ""})
    assert moved[-1] == "config.json"
    assert len(moved) == 5


def test_what_an_older_save_left_does_not_mislead(tmp_path):
    older = {"adapter/adapter_config.json": "{}", "adapter/adapter_model.safetensors": "a", "adapter/mine.txt": "m"}
    older |= {"base/model.safetensors": "one file", "text_tokenizer/vocab.txt": "v", "mine.safetensors": "m"}
    put(tmp_path, OURS | older)
    parts = {"base/model-00001-of-00002.safetensors": "1", "base/model-00002-of-00002.safetensors": "2"}
    with files_into(tmp_path) as new:
        put(new, OURS | parts)
    assert found(tmp_path) == OURS | parts | {"adapter/mine.txt": "m", "mine.safetensors": "m"}
    assert not (tmp_path / "text_tokenizer").exists()


def test_what_the_new_configuration_names_stays(tmp_path):
    put(tmp_path, OURS | {"base/model.safetensors": "b", "adapter/vocab.txt": "a"})
    with files_into(tmp_path) as new:
        put(new, {"config.json": '{"format": "seedtok.lm", "base": "base", "texts": "./adapter"}'})
    assert {"base/model.safetensors", "adapter/vocab.txt"} <= found(tmp_path).keys()


def test_files_of_a_strangers_checkpoint_stay(tmp_path):
    theirs = {"config.json": '{"model_type": "llama"}', "tokenizer.json": "t", "adapter/adapter_config.json": "a"}
    put(tmp_path, theirs)
    with files_into(tmp_path) as new:
        put(new, OURS)
    assert found(tmp_path) == theirs | OURS


def test_a_failure_leaves_all_as_it_was(tmp_path):
    put(tmp_path / "old", {"config.json": "1", "mine": "m"})
    for folder in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(TypeError), files_into(folder) as new:
            put(new, OURS | {"then": None})  # type: ignore[dict-item]
    assert found(tmp_path) == {"old/config.json": "1", "old/mine": "m"}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("blocked", [{"visual.safetensors/mine": "m"}, {"adapter": "a file"}])
def test_a_folder_in_the_way_of_a_file_is_refused_before_anything_moves(tmp_path, blocked):
    before = blocked | {"config.json": "1"}
    put(tmp_path, before)
    with pytest.raises(CheckpointError, match="has to go"), files_into(tmp_path) as new:
        put(new, OURS | {"adapter/adapter_config.json": "{}"})
    assert found(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_linked_folder_and_a_linked_file(tmp_path):
    put(tmp_path, {"real/mine": "m", "blob": "shared"})
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "config.json").symlink_to(tmp_path / "blob")
    with files_into(tmp_path / "link") as new:
        put(new, OURS)
    assert (tmp_path / "blob").read_text() == "shared"
    assert found(tmp_path / "real") == OURS | {"mine": "m"}


# ---------------------------------------------------------------- whole files, whole folders


def test_a_whole_folder_takes_the_place_of_another(tmp_path):
    put(tmp_path / "step", {"old": "1"})
    with whole_folder(tmp_path / "step") as new:
        put(new, {"new": "2"})
    assert found(tmp_path) == {"step/new": "2"}
    put(tmp_path / "other", {"other": "3"})
    replace_folder(tmp_path / "other", tmp_path / "step")
    assert found(tmp_path) == {"step/other": "3"}


def test_a_long_name_and_an_odd_suffix(tmp_path):
    path = tmp_path / ("x" * 250 + ".b c")
    with whole_file(path) as temporary:
        assert temporary.suffix == ".b c"
        temporary.write_text("1")
    assert os.listdir(tmp_path) == [path.name]


# ---------------------------------------------------------------- what the killed leave


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    alive, gone = ProcessId.current(), dead()
    elsewhere = ProcessId("another-host-1", gone.pid, gone.started)
    reborn = ProcessId(alive.host, alive.pid, alive.started - 1)  # its number was given to us
    kept = {left_by(alive, tmp_path), left_by(elsewhere, tmp_path), tmp_path / ".mine.tmp", tmp_path / ".seedtok.x"}
    for path in (*kept, left_by(gone, tmp_path), left_by(reborn, tmp_path)):
        path.touch()
    put(left_by(gone, tmp_path, "tmp.png"), {"a/b": "1"})
    sweep(tmp_path)
    assert set(tmp_path.iterdir()) == kept


def test_every_writer_sweeps_where_it_writes(tmp_path):
    gone = dead()
    for name in ("file", "parent", "into", "hidden"):
        (tmp_path / name).mkdir()
        left_by(gone, tmp_path / name).touch()
    with whole_file(tmp_path / "file" / "a.txt") as temporary:
        temporary.touch()
    with whole_folder(tmp_path / "parent" / "step"):
        pass
    with files_into(tmp_path / "into"), hidden_folder(tmp_path / "hidden"):
        pass
    assert all(is_empty(tmp_path / name) for name in ("into", "hidden"))
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "file", "file/a.txt", "hidden", "into", "parent", "parent/step",
    ]  # fmt: skip


def test_a_move_that_was_cut_off_is_finished(tmp_path):
    put(left_by(dead(), tmp_path, "done"), {"00001.tar": "1", "sub/2": "2", "config.json": "new"})
    put(tmp_path, {"00000.tar": "0", "config.json": "old"})
    sweep(tmp_path)
    assert found(tmp_path) == {"00000.tar": "0", "00001.tar": "1", "sub/2": "2", "config.json": "new"}
    assert not list(tmp_path.glob(".seedtok*"))


def test_names_are_never_used_twice(tmp_path):
    assert len({temporary_path(tmp_path) for _ in range(10)}) == 10


KILLED = """
import os, signal, sys, time
from pathlib import Path
from seedtok.core.writing import files_into, whole_file, whole_folder
writer = {"files_into": files_into, "whole_file": whole_file, "whole_folder": whole_folder}[sys.argv[1]]
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
    if writer is whole_file:
        new.write_text("half")
    else:
        for number in range(5):
            (new / f"{number}.txt").write_text("new")
        (new / "config.json").write_text("new")
    if sys.argv[3] == "writing":
        print("writing", flush=True)
        time.sleep(60)
"""


@pytest.mark.parametrize(
    ("writer", "when"),
    [("files_into", "writing"), ("files_into", "moving"), ("whole_file", "writing"), ("whole_folder", "writing")],
)
def test_a_killed_writer_loses_nothing_and_the_next_one_cleans_up(tmp_path, writer, when):
    out = tmp_path / "out"
    if writer == "whole_file":
        out.write_text("old")
    else:
        put(out, {"config.json": "old", "mine.txt": "m"})
    command = [sys.executable, "-c", KILLED, writer, out, when]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == when
        process.kill()
    assert list(tmp_path.rglob(".seedtok*"))
    left = {"out": "old"} if writer == "whole_file" else {"out/config.json": "old", "out/mine.txt": "m"}
    assert left.items() <= found(tmp_path).items()
    if when == "moving":
        left = {"out/config.json": "new", "out/mine.txt": "m"} | {f"out/{n}.txt": "new" for n in range(5)}
    sweep(out if writer == "files_into" else tmp_path)
    assert found(tmp_path) == left
    assert not list(tmp_path.rglob(".seedtok*"))


# ---------------------------------------------------------------- what is there


def test_what_a_folder_holds(tmp_path):
    assert is_empty(tmp_path / "none")
    left_by(ProcessId.current(), tmp_path).touch()
    assert is_empty(tmp_path)
    assert not holds_checkpoint(tmp_path)
    for text in ("{", "[]", '{"format": 3}', '{"model_type": "opt"}', "[" * 100_000):
        put(tmp_path, {"config.json": text})
        assert not holds_checkpoint(tmp_path)
    put(tmp_path, {"config.json": json.dumps({"format": "seedtok.tokenizer"})})
    assert holds_checkpoint(tmp_path)
    assert not is_empty(tmp_path)


def test_move_into_takes_an_empty_folder(tmp_path):
    with hidden_folder(tmp_path) as hidden:
        move_into(hidden, tmp_path)
    assert not list(tmp_path.iterdir())
