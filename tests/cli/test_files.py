"""What the commands write among other people's files: nothing is lost, and what would be is refused before any work."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seedtok import SeedTokenizer
from seedtok.cli.support import png_paths
from seedtok.core.files import write_tensors
from seedtok.core.locks import locked

CODES = " ".join(map(str, range(32)))


def check_refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, and one line that has these words."""
    code, out, error = result
    assert (code, out) == (2, "")
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (("reconstruct", "in/dog.jpg", "--out", "."), ["dog.png"]),
        (("decode", "--codes", CODES, "--out", "."), ["codes.png"]),
        (("imagine", "a fox", "--out", "fox.png"), ["fox.png"]),
        (("draw", "a fox", "--out", "fox.png", "--count", 3), ["fox-2.png", "fox-3.png"]),
        (("demo", "--out", "."), ["drawings.png"]),
    ],
)
def test_pictures_that_exist_are_refused_before_any_work(cli, tmp_path, monkeypatch, command, written):
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Image.new("RGB", (9, 9), "red").save("in/dog.jpg")
    for name in written:
        Path(name).write_text("mine")
    before = content(tmp_path)
    more = "and 1 more of 3 exist already" if len(written) > 1 else "exists already"
    check_refused(cli(*command, "--model", "no/such/model"), written[0], more, "--overwrite")
    assert content(tmp_path) == before


def test_an_empty_path_is_not_the_working_directory(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9), "red").save("a.png")
    check_refused(cli("encode", ""), "an empty argument")
    check_refused(cli("encode", "a.png", "", "--json"), "an empty argument")
    check_refused(cli("encode", "--json", ""), "an empty argument")  # a flag takes no value


def test_a_file_is_no_folder_of_pictures(cli, tmp_path):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "new.png"):
        check_refused(cli("decode", "--codes", CODES, "--out", tmp_path / name, "--model", "no/such/model"), "folder")
    assert content(tmp_path) == {"file": b"mine"}


def test_overwrite_replaces_pictures_but_never_an_original(cli, tmp_path, tiny_tokenizer):
    original = tmp_path / "a.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(original)
    options = ("--model", tiny_tokenizer, "--steps", 1)
    (tmp_path / "codes.png").write_text("older")
    assert cli("decode", "--codes", CODES, "--out", tmp_path, "--overwrite", *options)[0] == 0
    assert Image.open(tmp_path / "codes.png").size == (128, 128)
    check_refused(cli("reconstruct", original, "--out", tmp_path, "--overwrite", *options), "original")


@pytest.mark.parametrize(
    ("command", "what"),
    [
        (("convert", "seed.pth", "--out"), "checkpoint"),
        (("train", "mini.autoencoder", "--out"), "run"),
        (("data", "scenes", "--split", "test", "--count", 1, "--out"), "shards"),
        (("data", "pack", "in", "--out"), "shards"),
    ],
)
def test_a_strangers_folder_is_refused(cli, tmp_path, command, what):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "thesis.txt").write_text("years")
    before = content(tmp_path)
    check_refused(cli(*command, tmp_path), str(tmp_path), f"is not empty and holds no {what}")
    check_refused(cli(*command, tmp_path / "thesis.txt"), "is a file")
    assert content(tmp_path) == before


def test_a_checkpoint_is_not_converted_over_another_without_overwrite(cli, tmp_path, tiny_tokenizer):
    shutil.copytree(tiny_tokenizer, tmp_path / "mine")
    before = content(tmp_path / "mine")
    check_refused(cli("convert", "seed.pth", "--out", tmp_path / "mine"), "exists already", "--overwrite")
    assert content(tmp_path / "mine") == before
    backwards = ("convert", tiny_tokenizer, "--out", tmp_path / "seed.pth", "--heads", "2,2,2")
    check_refused(cli(*backwards), "--heads is of published weights that are read")


def test_weights_are_readable_by_all_whom_new_files_are_readable_by(tmp_path):
    (tmp_path / "other").touch()
    write_tensors(tmp_path / "a.safetensors", {"a": torch.zeros(2)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_many_pictures_of_one_name_are_numbered_in_no_time(tmp_path):
    paths = png_paths([f"{i}/image.jpg" for i in range(20_000)] + ["image-2.jpg"], tmp_path)
    assert [path.name for path in paths[:3]] == ["image.png", "image-2.png", "image-3.png"]
    assert paths[-1].name == "image-2-2.png"
    assert len(set(paths)) == 20_001


def test_a_folder_in_use_is_refused(cli, tmp_path):
    tar = tmp_path / "in" / "00000.tar"
    assert cli("data", "scenes", "--split", "test", "--count", 1, "--size", 64, "--out", tar.parent)[0] == 0
    with locked(tmp_path / "out"):
        for command in (
            ("data", "scenes", "--split", "test", "--count", 1),
            ("train", "mini.autoencoder"),
            ("tokenize", tar.parent),
            ("convert", tar),
        ):
            check_refused(cli(*command, "--out", tmp_path / "out"), f"is being written by process {os.getpid()} on")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_saved_among_other_files_and_over_another_one(tmp_path, tiny_tokenizer):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    (tmp_path / "thesis.txt").write_text("years")
    model.save_pretrained(tmp_path)
    (tmp_path / "text_tokenizer" / "notes.md").write_text("mine")
    model.embedder._text_tokenizer = None
    model.save_pretrained(tmp_path)
    mine = {"thesis.txt": b"years", "text_tokenizer/notes.md": b"mine"}
    assert mine.items() <= content(tmp_path).items()
    assert content(tmp_path).keys() == {"config.json", "model.safetensors", *mine}
    again = SeedTokenizer.from_pretrained(tmp_path)
    assert again.embedder.text_tokenizer is None
    assert again.codebook_id == model.codebook_id
