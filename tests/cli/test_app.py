"""Every command on tiny checkpoints, and everything that a user can get wrong."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from seedtok import SeedTokenizer, __version__
from seedtok.cli import data, support
from seedtok.core.errors import ImageError
from seedtok.core.progress import progress
from seedtok.mini.world.export import FORMATS
from seedtok.mini.world.sets import SET_NAMES

CODES = " ".join(map(str, range(32)))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with three different pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in (("a.png", (40, 50, 3)), ("b.jpg", (64, 64, 3)), ("c.png", (33, 20, 4))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def checkpoint(tiny_tokenizer: Path, tmp_path: Path) -> Path:
    """A copy of the tiny tokenizer, to be broken."""
    return Path(shutil.copytree(tiny_tokenizer, tmp_path / "checkpoint"))


def check_refused(result: tuple[int, str, str], *words: str) -> None:
    """Exit code 2, and one line that has these words."""
    code, out, error = result
    assert code == 2
    assert not out
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


def records(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


# ---------------------------------------------------------------- encode


def test_encode_prints_json_lines(cli, pictures: Path, tiny_tokenizer: Path):
    code, out, error = cli("encode", pictures, "--json", "--model", tiny_tokenizer, "--batch-size", 2)
    assert (code, error) == (0, "")
    found = records(out)
    assert [Path(r["image"]).name for r in found] == ["a.png", "b.jpg", "c.png"]
    assert [list(r) for r in found] == [["image", "codes", "codebook", "encoder"]] * 3
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    assert {r["codebook"] for r in found} == {tokenizer.codebook_id}
    assert {r["encoder"] for r in found} == {tokenizer.encoder_fingerprint}
    expected = tokenizer.encode([r["image"] for r in found])
    assert [r["codes"] for r in found] == expected.tolist()
    assert len({tuple(r["codes"]) for r in found}) == 3


def test_encode_prints_plain_lines_in_bfloat16(cli, pictures: Path, tiny_tokenizer: Path):
    path = pictures / "a.png"
    code, out, _ = cli("encode", path, path, "--model", tiny_tokenizer, "--dtype", "bfloat16")
    assert code == 0
    name, codes = out.rstrip("\n").split("\t")
    assert name == str(path)
    assert len(codes.split()) == 32


def test_a_name_with_control_characters_is_one_field_of_one_line(
    cli, pictures: Path, tmp_path: Path, tiny_tokenizer: Path
):
    path = tmp_path / "a\tb\nc.png"
    path.write_bytes((pictures / "a.png").read_bytes())
    code, out, _ = cli("encode", path, "--model", tiny_tokenizer)
    assert (code, out.count("\n"), out.count("\t")) == (0, 1, 1)
    assert out.split("\t")[0] == f"{tmp_path}/a\\tb\\nc.png"


def test_encode_takes_odd_sizes(cli, tmp_path: Path, tiny_tokenizer: Path):
    Image.new("L", (1, 1)).save(tmp_path / "dot.png")
    Image.new("RGB", (20_000, 3), "red").save(tmp_path / "wide.png")
    code, out, _ = cli("encode", tmp_path / "dot.png", tmp_path / "wide.png", "--json", "--model", tiny_tokenizer)
    assert code == 0
    assert [len(r["codes"]) for r in records(out)] == [32, 32]


def test_one_bad_file_does_not_stop_the_others(cli, pictures: Path, tiny_tokenizer: Path):
    (pictures / "b.jpg").write_bytes(b"no picture")
    missing = pictures / "missing.png"
    code, out, error = cli("encode", missing, pictures, "--json", "--model", tiny_tokenizer)
    assert code == 1
    assert [Path(r["image"]).name for r in records(out)] == ["a.png", "c.png"]
    first, second, last = error.splitlines()
    assert "no such file" in first
    assert "b.jpg: not an image" in second
    assert last == "error: 2 skipped; the others are done"


def test_bad_pictures_are_refused(cli, pictures: Path, tiny_tokenizer: Path, tmp_path: Path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes((pictures / "a.png").read_bytes()[:300])
    (tmp_path / "empty").mkdir()
    model = ("--model", tiny_tokenizer)
    check_refused(cli("encode", tmp_path / "text.png", *model), "text.png", "not an image")
    check_refused(cli("encode", tmp_path / "cut.png", *model), "cut.png", "truncated")
    check_refused(cli("encode", tmp_path / "empty", *model), "no images in")
    check_refused(cli("encode", tmp_path / "none.png", *model), "no such file or folder")
    check_refused(cli("encode", tmp_path / "text.png", tmp_path / "cut.png", *model), "none of 2", "text.png")
    check_refused(cli("reconstruct", tmp_path / "cut.png", "--out", tmp_path / "out", *model), "truncated")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_picture_in_a_folder_is_skipped_with_its_reason(cli, pictures: Path, tiny_tokenizer: Path):
    os.mkfifo(pictures / "pipe.png")
    (pictures / "loop.png").symlink_to(pictures / "loop.png")
    (pictures / "linked").symlink_to(pictures)
    (pictures / "photo.heic").touch()
    with (pictures / "large.png").open("wb") as file:
        file.truncate(30 * 10**9)  # a sparse file
    Image.new("1", (1, 200_000)).save(pictures / "thin.png")
    code, out, error = cli("encode", pictures, "--json", "--model", tiny_tokenizer)
    assert code == 1
    assert [Path(r["image"]).name for r in records(out)] == ["a.png", "b.jpg", "c.png"]
    reasons = {
        "pipe.png": "a pipe", "loop.png": "symbolic links", "linked": "not followed",
        "photo.heic": ".heic images cannot be read", "large.png": "30,000,000,000 bytes",
        "thin.png": "1 x 200000 pixels is too large",
    }  # fmt: skip
    skipped = error.splitlines()
    for name, reason in reasons.items():
        assert any(f"/{name}" in line and reason in line for line in skipped)
    assert skipped[-1] == f"error: {len(reasons)} skipped; the others are done"


def test_a_picture_that_memory_does_not_hold_is_the_only_one_lost(
    cli, pictures: Path, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch
):
    resize = Image.Image.resize

    def limited(self: Image.Image, *arguments: Any) -> Image.Image:
        if self.size == (64, 64):
            raise MemoryError
        return resize(self, *arguments)

    monkeypatch.setattr(Image.Image, "resize", limited)
    code, out, error = cli("encode", pictures, "--json", "--model", tiny_tokenizer)
    assert (code, len(records(out))) == (1, 2)
    assert "b.jpg: not enough memory" in error


def test_nan_pixels_are_refused(tiny_tokenizer: Path):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    with pytest.raises(ImageError, match="NaN"):
        tokenizer.encode(np.full((8, 8, 3), np.nan, np.float32))
    with pytest.raises(ImageError, match="NaN"):
        tokenizer.encode(torch.full((3, 8, 8), torch.nan))


# ---------------------------------------------------------------- decode


def test_decode_draws_what_encode_printed(cli, pictures: Path, tiny_tokenizer: Path, tmp_path: Path):
    _, lines, _ = cli("encode", pictures, "--json", "--model", tiny_tokenizer)
    file = tmp_path / "codes.jsonl"
    file.write_text(lines)
    options = ("--model", tiny_tokenizer, "--steps", 2, "--guidance-scale", 1.5, "--seed", 3)
    code, out, error = cli("decode", file, "--out", tmp_path / "one", *options, "--batch-size", 2)
    assert (code, error) == (0, "")
    assert str(tmp_path / "one") in out
    assert sorted(os.listdir(tmp_path / "one")) == ["a.png", "b.png", "c.png"]
    assert Image.open(tmp_path / "one" / "a.png").size == (128, 128)
    assert cli("decode", "-", "--out", tmp_path / "two", *options, stdin=lines.splitlines()[1])[0] == 0
    assert os.listdir(tmp_path / "two") == ["b.png"]
    alone, among = (np.asarray(Image.open(tmp_path / d / "b.png")).astype(int) for d in ("two", "one"))
    assert abs(alone - among).max() <= 2  # the noise does not depend on the batch


def test_decode_refuses_codes_of_another_codebook(cli, tiny_tokenizer: Path, tmp_path: Path):
    own = SeedTokenizer.from_pretrained(tiny_tokenizer).codebook_id
    lines = [json.dumps({"image": "a.png", "codes": list(range(32)), "codebook": c}) for c in (own, "0123456789abcdef")]
    out = ("--out", tmp_path / "out", "--model", tiny_tokenizer, "--steps", 1)
    check_refused(cli("decode", *out, stdin="\n".join(lines)), "stdin, line 2", "0123456789abcdef", own)
    check_refused(cli("decode", *out, stdin=lines[0].replace(f'"{own}"', "3")), "stdin, line 1", "codebook")
    assert not (tmp_path / "out").exists()
    assert cli("decode", *out, stdin=lines[0])[0] == 0


def test_decode_numbers_pictures_of_one_name(cli, tiny_tokenizer: Path, tmp_path: Path):
    line = json.dumps({"image": "x/a.png", "codes": list(range(32))})
    assert cli("decode", "--out", tmp_path, "--model", tiny_tokenizer, stdin=f"{line}\n{line}\n")[0] == 0
    assert sorted(os.listdir(tmp_path)) == ["a-2.png", "a.png"]


def test_decode_takes_typed_codes(cli, tiny_tokenizer: Path, tmp_path: Path):
    code, out, _ = cli("decode", "--codes", CODES, "--out", tmp_path / "out", "--model", tiny_tokenizer)
    assert code == 0
    assert os.listdir(tmp_path / "out") == ["codes.png"]
    assert out.strip().endswith(str(tmp_path / "out" / "codes.png"))


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ("1 2 3", "32 codes"),
        (CODES + " 1", "32 codes"),
        (CODES.replace("31", "8192"), "8191"),
        (CODES.replace("31", "-1"), "8191"),
        (CODES.replace("31", str(10**30)), ""),
        (CODES.replace("31", "1.5"), "integers"),
        ("a b", "integers"),
        ("", "codes"),
    ],
)
def test_bad_codes_are_refused(cli, tiny_tokenizer: Path, tmp_path: Path, codes: str, words: str):
    check_refused(cli("decode", "--codes", codes, "--out", tmp_path / "out", "--model", tiny_tokenizer), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no json",
        "[1, 2]",
        '{"image": "a.png"}',
        '{"image": 3, "codes": [1]}',
        '{"image": "a.png", "codes": [true]}',
        '{"image": "a.png", "codes": [[1]]}',
        json.dumps({"image": "a.png", "codes": [*range(31), 8192]}),
    ],
)
def test_bad_lines_are_refused_before_any_is_drawn(cli, tiny_tokenizer: Path, tmp_path: Path, line: str):
    good = json.dumps({"image": "good.png", "codes": list(range(32))}) + "\n" if line else ""
    result = cli("decode", "-", "--out", tmp_path / "out", "--model", tiny_tokenizer, stdin=good + line)
    check_refused(result, "stdin, line 2" if line else "empty")
    assert not (tmp_path / "out").exists()


def test_decode_refuses_bad_files(cli, tiny_tokenizer: Path, tmp_path: Path):
    model = ("--model", tiny_tokenizer)
    check_refused(cli("decode", tmp_path / "none.jsonl", "--out", tmp_path, *model), "none.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x80")
    check_refused(cli("decode", tmp_path / "bytes", "--out", tmp_path, *model), "not UTF-8")
    check_refused(cli("decode", tmp_path / "bytes", "--codes", CODES, "--out", tmp_path, *model), "expected codes")
    check_refused(cli("decode", "--codes", CODES, "--out", tmp_path / "bytes", *model), "bytes")
    (tmp_path / "codes.png").mkdir()  # a full disk and its like: nothing half-written stays behind
    check_refused(cli("decode", "--codes", CODES, "--out", tmp_path, *model))
    assert sorted(os.listdir(tmp_path)) == ["bytes", "codes.png"]


# ---------------------------------------------------------------- reconstruct, imagine, demo


def test_reconstruct_writes_pairs(cli, pictures: Path, tiny_tokenizer: Path, tmp_path: Path):
    (pictures / "b.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    code, said, error = cli("reconstruct", pictures, "--out", out, "--model", tiny_tokenizer, "--steps", 1)
    assert code == 1
    assert "b.jpg" in error
    assert "2 reconstructed" in said
    assert sorted(os.listdir(out)) == ["a.png", "c.png"]
    width, height = Image.open(out / "a.png").size
    assert width > 2 * 128 > height > 128
    original = Image.open(pictures / "a.png").resize((128, 128), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(Image.open(out / "a.png"))[4:132, 4:132], np.asarray(original))


def test_reconstruct_keeps_originals(cli, pictures: Path, tiny_tokenizer: Path):
    before = (pictures / "a.png").read_bytes()
    check_refused(cli("reconstruct", pictures, "--out", pictures, "--model", tiny_tokenizer), "overwrite")
    assert (pictures / "a.png").read_bytes() == before


def test_imagine_draws_a_caption(cli, tiny_tokenizer: Path, tmp_path: Path):
    out = tmp_path / "new" / "fox.jpg"
    model = ("--model", tiny_tokenizer)
    assert cli("imagine", "a fox on a blue background", "--out", out, "--steps", 2, *model)[0] == 0
    assert Image.open(out).format == "JPEG"
    assert os.listdir(out.parent) == ["fox.jpg"]
    check_refused(cli("imagine", "a fox", "--out", tmp_path / "fox.txt", *model), "fox.txt", ".png")
    check_refused(cli("imagine", " ", "--out", tmp_path / "fox.png", *model), "empty caption")
    assert not (tmp_path / "fox.png").exists()


def test_demo_says_and_draws(cli, tiny_tokenizer: Path, tmp_path: Path):
    code, out, _ = cli("demo", "--out", tmp_path / "demo", "--count", 2, "--model", tiny_tokenizer)
    assert code == 0
    assert sorted(os.listdir(tmp_path / "demo")) == ["drawings.png", "reconstructions.png"]
    assert sum(len(line.split()) == 32 for line in out.splitlines()) == 2
    assert out.count("background") == 6
    assert str(tmp_path / "demo" / "drawings.png") in out


# ---------------------------------------------------------------- train


@pytest.mark.slow
def test_train_runs_and_resumes(cli, tmp_path: Path):
    settings = [
        "stage.width=64", "stage.layers=1", "stage.latent_channels=4", "optimization.batch_size=2",
        "optimization.warmup_steps=1", "validate_batches=1", "precision=no",
    ]  # fmt: skip
    run = ("train", "mini.autoencoder", "--out", tmp_path / "run")
    code, out, _ = cli(*run, "optimization.steps=1", *settings)
    assert code == 0
    assert str(tmp_path / "run" / "final") in out
    assert (tmp_path / "run" / "final" / "config.json").is_file()
    check_refused(cli(*run, *settings), "--resume")
    assert cli(*run, "--resume", "optimization.steps=2", *settings)[0] == 0
    for steps in (1, 2):  # begins, and goes on
        assert cli(*run[:-1], tmp_path / "job", "--auto-resume", f"optimization.steps={steps}", *settings)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "job" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [0, 1]
    kept = (tmp_path / "run" / "config.json").read_text()
    check_refused(cli("train", "mini.text", "--out", tmp_path / "run", "--resume"), "is a run of mini.autoencoder")
    check_refused(
        cli("train", "--out", tmp_path / "run", "--resume", "optimization.lr=0.5", "data.size=64", "seed=5"),
        "data.size was 128 and is 64 now; seed was 0 and is 5 now",
    )
    assert (tmp_path / "run" / "config.json").read_text() == kept
    code, _, err = cli("train", "--out", tmp_path / "run", "--resume", "optimization.steps=3")
    assert code == 0
    assert "optimization.steps was 2 and is 3 now" in err
    (tmp_path / "run" / "config.json").write_text("{}")
    check_refused(cli("train", "--out", tmp_path / "run", "--resume"), "is not the configuration of a run")
    check_refused(cli("train", "mini.autoencoder", "--resume", "--out", tmp_path / "no", *settings), "resume")


def test_train_lists_recipes(cli):
    code, out, _ = cli("train", "--list")
    assert code == 0
    listed = [line.split()[0] for line in out.splitlines()]
    assert {"mini.text", "mini.stage1", "mini.stage2"} <= set(listed)
    assert "mini.shipped" not in listed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--list"]),
        (["mini.stage3"], ["unknown recipe 'mini.stage3'", "mini.stage"]),
        (["nonsense"], ["unknown recipe", "mini.text"]),
        (["mini.autoencoder", "optimization.stepz=3"], ["optimization.stepz", "steps"]),
        (["mini.autoencoder", "stage.width"], ["key=value"]),
        (["mini.autoencoder", "optimization.steps=0"], ["optimization.steps"]),
        (["mini.autoencoder", "optimization.steps.x=0"], ["single value"]),
    ],
)
def test_unknown_recipes_and_keys_are_refused(cli, tmp_path: Path, arguments: list[str], words: list[str]):
    check_refused(cli("train", *arguments, "--out", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- evaluate


def test_evaluate_codebook(cli, tiny_tokenizer: Path):
    arguments = ("evaluate", "codebook", "--model", tiny_tokenizer, "--count", 6, "--batch-size", 4)
    code, out, error = cli(*arguments, "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert found["size"] == 8192
    assert found["images"] == found["count"] == 6
    assert {"used", "perplexity", "model", "seed", "seconds"} <= set(found)
    code, out, _ = cli(*arguments)
    assert code == 0
    assert "perplexity: " in out


@pytest.mark.parametrize(("name", "column"), [("retrieval", "r_mean"), ("generation", "caption")])
def test_evaluate_prints_tables_or_json(
    cli, tiny_tokenizer: Path, monkeypatch: pytest.MonkeyPatch, name: str, column: str
):
    monkeypatch.setattr(support.out, "_width", 150)  # a process of the tests may have no COLUMNS of its own
    arguments = ("evaluate", name, "--model", tiny_tokenizer, "--count", 5, "--seed", 2, "--batch-size", 3)
    code, out, error = cli(*arguments, "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert (found["model"], found["count"], found["seed"]) == (str(tiny_tokenizer), 5, 2)
    code, out, _ = cli(*arguments)
    assert code == 0
    shown = {row: value for row, value in found.items() if isinstance(value, dict) and column in value}
    assert shown
    assert out.count(column) == len({tuple(values) for values in shown.values()})  # rows of equal columns share a table
    for row, values in shown.items():
        (line,) = (line for line in out.splitlines() if row in line.split())
        assert f"{values[column]:.2f}" in line
    assert "count: 5" in out


# ---------------------------------------------------------------- data


def test_data_scenes(cli, tmp_path: Path):
    arguments = ("data", "scenes", "--split", "test", "--count", 5, "--size", 64, "--shard-size", 3)
    code, out, error = cli(*arguments, "--out", tmp_path / "a")
    assert (code, error) == (0, "")
    assert "5 written to 2 shards" in out
    assert cli(*arguments, "--out", tmp_path / "b")[0] == 0
    names = sorted(os.listdir(tmp_path / "a"))
    assert names == ["00000.tar", "00000_stats.json", "00001.tar", "00001_stats.json"]
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)
    check_refused(cli(*arguments, "--out", tmp_path / "a"), "already has shards")
    wrong = ("data", "scenes", "--split", "test", "--count", 5, "--size", 65, "--out", tmp_path / "c")
    check_refused(cli(*wrong), "64 or 128")
    assert not (tmp_path / "c").exists()


@pytest.mark.slow
def test_data_scenes_of_publishers_are_prepared(cli, tmp_path: Path):
    arguments = ("data", "scenes", "--count", 6, "--size", 64, "--split", "test-unseen-hands", "--format")
    for form, what in (("coco", "30 captions"), ("vqav2", "18 questions")):
        code, out, error = cli(*arguments, form, "--out", tmp_path / form)
        assert (code, error) == (0, "")
        first, *rest = out.splitlines()
        assert first == f"6 pictures with {what} written to {tmp_path / form}"
        assert [line.partition(":")[0] for line in rest[:-1]] == ["answered right without the picture"] * (
            form == "vqav2"
        )
        command = shlex.split(rest[-1])
        assert command[:4] == ["seedtok", "data", "prepare", form]
        assert command[-2:] == ["--out", "DIR"]
        code, out, error = cli(*command[1:-1], tmp_path / "prepared" / form)
        assert (code, error) == (0, "")
        assert "0 pictures missing" in out
    check_refused(cli(*arguments, "coco", "--out", tmp_path / "coco"), "is not empty")
    check_refused(cli(*arguments, "gqa", "--out", tmp_path / "gqa", "--world", "classic"), "of varied ones")


def test_names_of_sets_and_formats_are_those_of_the_world():
    assert tuple(data.SetName) == SET_NAMES
    assert tuple(data.Format) == ("shards", *FORMATS)


def test_data_pack(cli, pictures: Path, tmp_path: Path):
    table = tmp_path / "captions.csv"
    table.write_text("image,caption\na.png,noise\nb.jpg,more noise\nc.png,noise again\n")
    code, out, error = cli("data", "pack", table, "--images", pictures, "--out", tmp_path / "all", "--size", 16)
    assert (code, error) == (0, "")
    assert "3 written" in out
    (pictures / "b.jpg").write_bytes(b"no picture")
    code, out, error = cli("data", "pack", pictures, "--captions", table, "--out", tmp_path / "some")
    assert code == 1
    assert "2 written" in out
    assert "skipped: b.jpg" in error
    table.write_text("image,caption\nb.jpg,noise\n")
    result = cli("data", "pack", table, "--images", pictures, "--out", tmp_path / "none")
    check_refused(result, "b.jpg")
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- info, checkpoints


def test_info_counts(cli, tiny_tokenizer: Path):
    code, out, error = cli("info", tiny_tokenizer, "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert found["codebook_size"] == 8192
    assert {"embedder.vision", "embedder.qformer", "codebook", "image_decoder.unet"} <= set(found["parts"])
    assert found["bytes"] == sum(part["bytes"] for part in found["parts"].values())
    code, out, _ = cli("info", tiny_tokenizer)
    assert code == 0
    assert "reverse_qformer" in out


def change_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | {k.replace("__", "."): v for k, v in changes.items()}
    save_file({k: v for k, v in tensors.items() if v is not None}, folder / "model.safetensors")


def change_config(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(record))


def truncate(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: change_tensors(f, encode_head__0__bias=None), ["lacks tensor", "encode_head.0.bias"]),
        (lambda f: change_tensors(f, extra=torch.zeros(1)), ["extra tensor", "'extra'"]),
        (lambda f: change_tensors(f, encode_head__0__bias=torch.zeros(3)), ["encode_head.0.bias", "(3,)"]),
        (lambda f: change_config(f, version=99), ["version 99", "version 1"]),
        (lambda f: change_config(f, format="other"), ["not a SEED tokenizer"]),
        (lambda f: change_config(f, surprise=1), ["surprise"]),
        (lambda f: (f / "config.json").write_text("{"), ["config.json"]),
        (lambda f: (f / "config.json").unlink(), ["config.json"]),
        (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors"]),
        (truncate, ["model.safetensors"]),
    ],
)
def test_broken_checkpoints_are_refused(cli, checkpoint: Path, pictures: Path, damage, words: list[str]):
    damage(checkpoint)
    check_refused(cli("encode", pictures, "--model", checkpoint), *words)


def test_missing_checkpoints_are_refused(cli, checkpoint: Path, tmp_path: Path):
    check_refused(cli("info", tmp_path / "none"), "no such checkpoint")
    change_config(checkpoint, image_decoder=str(tmp_path / "none"))
    result = cli("decode", "--codes", CODES, "--out", tmp_path / "out", "--model", checkpoint)
    check_refused(result, "image_decoder")
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- the program


def test_an_interrupted_command_exits_with_130(cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("seedtok.mini.world.shards.write_scene_shards", interrupt)
    arguments = ("data", "scenes", "--split", "test", "--count", 5, "--out", tmp_path / "out")
    assert cli(*arguments) == (130, "", "")


def test_debug_shows_the_error(cli, tmp_path: Path):
    with pytest.raises(ImageError):
        cli("--debug", "encode", tmp_path / "none.png")


def test_progress_shows_rate_and_time_left_on_a_terminal():
    terminal = Console(file=StringIO(), force_terminal=True, width=100)
    with progress("encode", 8, console=terminal) as done:
        done(1)
        done(4)
    shown = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "4/8" in shown
    assert "images/s" in shown
    assert "0:0" in shown


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seedtok", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_starts_fast_and_says_its_version():
    found = program("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"seedtok {__version__}\n", "")
    loaded = "import sys, seedtok.cli.app; print(sorted({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    lean = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert lean.stdout == "[]\n"
    wrong = program("encode", "none.png", "--debug")  # --debug may stand anywhere
    assert wrong.returncode == 1
    assert "Traceback" in wrong.stderr


@pytest.mark.slow
def test_the_program_keeps_libraries_quiet(tiny_tokenizer: Path, tmp_path: Path):
    found = program("decode", "--codes", CODES, "--out", tmp_path, "--model", tiny_tokenizer)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == f"1 drawn: {tmp_path / 'codes.png'}\n"
