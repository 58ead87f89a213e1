"""Checkpoints of earlier releases load and compute what they did; those of later ones are refused."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from seedtok.core.errors import CheckpointError
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer

ROOT = Path(__file__).parent.parent
RELEASES = sorted((ROOT / "tests" / "data" / "releases").iterdir())
READERS = {"tokenizer": SeedTokenizer, "embedder": ImageTextEmbedder, "lm": SeedLM, "plain": SeedLM}


def tool(name: str):
    """A program of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("release", RELEASES, ids=lambda path: path.name)
def test_checkpoints_of_a_release_load(release):
    expected = json.loads((release / "expected.json").read_text())
    computed = tool("keep_release").computed
    assert computed(SeedLM.from_pretrained(release / "lm")) == expected
    assert computed(SeedLM.from_pretrained(release / "plain")) == expected
    tokenizer = SeedTokenizer.from_pretrained(release / "tokenizer")
    embedder = ImageTextEmbedder.from_pretrained(release / "embedder")
    for mine, others in zip(embedder.parameters(), tokenizer.embedder.parameters(), strict=True):
        assert mine.equal(others)


def test_a_kept_release_is_not_written_again():
    with pytest.raises(SystemExit, match="a release is kept once"):
        tool("keep_release").main(RELEASES[0])


@pytest.mark.parametrize("kind", READERS)
def test_a_newer_format_is_refused_in_a_line(kind, tmp_path):
    shutil.copytree(RELEASES[-1], tmp_path / "release")
    path = tmp_path / "release" / kind / "config.json"
    record = json.loads(path.read_text())
    entry = record.get("seedtok", record)
    entry["version"] += 1
    path.write_text(json.dumps(record))
    line = f"{path.parent} is of version 2; this release reads version 1: upgrade it, with pip install -U seedtok"
    with pytest.raises(CheckpointError) as error:
        READERS[kind].from_pretrained(path.parent)
    assert str(error.value) == line


def test_the_check_of_a_release_knows_what_is_needed():
    check = tool("check_release")
    needed = check.closure({"seedtok", "torch", "peft", "accelerate", "fastapi"})
    assert needed == {"seedtok", "torch", "peft", "accelerate"}
    assert {"torch", "peft"} <= set(check.required("seedtok", ""))
    assert {"fastapi", "uvicorn"} <= set(check.required("seedtok", "serve"))
