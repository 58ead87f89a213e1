"""Commands typed wrongly: a line on stderr and exit code 2, never a traceback; a bug shows its own."""

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from seedtok.cli.app import app

CODES = " ".join(map(str, range(32)))
WRONG = [
    ("encode", "loop"),
    ("encode", "a\nb"),
    ("encode", "\udcff.png"),
    ("encode", "folder", "--model", "a.png"),
    ("encode", "a.png", "--model", "folder"),
    ("decode", "--codes", CODES, "--out", "loop"),
    ("decode", "--codes", CODES, "--out", "a.png"),
    ("decode", "--codes", CODES, "--out", "out", "--steps", 10**30),
    ("decode", "--codes", CODES, "--out", "out", "--guidance-scale", "inf"),
    ("decode", "--codes", 10**30, "--out", "out"),
    ("decode", "deep.json", "--out", "out"),
    ("imagine", "fox", "--out", "a.png/b.png"),
    ("data", "pack", "deep.json", "--out", "out"),
    ("data", "pack", "a.png", "--out", "out"),
    ("data", "prepare", "coco", "--annotations", "deep.json", "--images", ".", "--split", "test", "--out", "o.jsonl"),
    ("data", "prepare", "unsplash", "--annotations", "deep.json", "--split", "train", "--out", "out"),
    ("train", "mini.stage1", "--out", "out", "stage={}"),
    ("train", "mini.stage1", "--out", "out", "seed=-1"),
    ("train", "mini.stage1", "--out", "out", f"optimization.batch_size={10**30}"),
    ("train", "mini.stage1", "--out", "out", "optimization.betas=[1,2]"),
    ("plan", "mini.stage1", f"data.size={10**30}"),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    "arguments", WRONG, ids=lambda arguments: " ".join(map(str, arguments))[:60].encode("unicode_escape")
)
def test_what_is_typed_wrongly_is_told_in_a_line(folder: Path, tiny_tokenizer: Path, arguments: tuple[object, ...]):
    takes_model = arguments[0] in ("encode", "decode", "imagine") and "--model" not in arguments
    model = ["--model", str(tiny_tokenizer)] if takes_model else []
    result = CliRunner().invoke(app, [*map(str, arguments), *model])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert not (folder / "out").exists()


def test_names_that_are_no_text_are_written_and_printed(folder: Path, tiny_tokenizer: Path):
    lines = [{"image": name, "codes": list(range(32))} for name in ("\ud800", "a\0b", "/", "..", "")]
    (folder / "codes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    result = CliRunner().invoke(app, ["decode", "codes.jsonl", "--out", "\udcff", "--model", str(tiny_tokenizer)])
    assert result.exit_code == 0, result.output
    assert "5 drawn" in result.stdout
    assert len(list((folder / "\udcff").iterdir())) == 5


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def wrong(*_: object) -> None:
        raise ValueError("of a library")

    monkeypatch.setattr("seedtok.mini.world.shards.write_scene_shards", wrong)
    result = CliRunner().invoke(
        app, ["data", "scenes", "--split", "test", "--count", "1", "--out", str(tmp_path / "x")]
    )
    assert result.exit_code == 1
    assert type(result.exception) is ValueError


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_captions_are_not_made_without_what_scores_them(monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]):
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)  # as where it is not installed
    found = CliRunner().invoke(app, ["evaluate", "captioning", "--model", "nowhere", *options])
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr == "error: captions are scored by pycocoevalcap: pip install 'seedtok[evaluate]'\n"


def test_a_score_that_cannot_run_is_a_dash_and_a_line(monkeypatch: pytest.MonkeyPatch):
    scores = {"bleu4": 91.0, "spice": None}, {"spice": "needs Java"}
    monkeypatch.setattr("seedtok.evaluation.captioning.caption_scores", lambda *_: scores)
    shown = CliRunner().invoke(app, ["evaluate", "captioning", "--count", "2", "--beams", "1"])
    assert shown.exit_code == 0
    assert "spice is not there: needs Java\n" in shown.stdout
    assert "None" not in shown.stdout
    found = json.loads(
        CliRunner().invoke(app, ["evaluate", "captioning", "--count", "2", "--beams", "1", "--json"]).stdout
    )
    assert found["missing"] == {"spice": "needs Java"}
    assert found["seed_opt"]["spice"] is None
