"""Checkpoints on a model hub: what is pushed loads on another machine; what cannot be had is said in one line."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from typer.testing import CliRunner

import seedtok.core.hub
from hub_server import Hub, running_hub
from seedtok.cli.app import app
from seedtok.core.errors import CheckpointError
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.weights.sources import tokenizer_folder

pytestmark = pytest.mark.slow

PUSH = """
import sys
from seedtok import SeedLM, SeedTokenizer
lm = SeedLM.from_pretrained(sys.argv[1])
print(lm.seed.push_to_hub("me/tokenizer", license="apache-2.0"))
print(lm.push_to_hub("me/lm", private=True))
print(lm.push_to_hub("me/small", tokenizer="me/tokenizer"))
"""
LOAD = """
import json, sys
import torch
from seedtok import SeedLM, SeedTokenizer
lm, small = SeedLM.from_pretrained("me/lm"), SeedLM.from_pretrained("me/small")
codes = SeedTokenizer.from_pretrained("me/tokenizer").encode(sys.argv[1])
picture = lm.seed.decode(codes, generator=torch.Generator().manual_seed(0))[0]
small.save_pretrained("small")
print(json.dumps([codes.tolist(), lm.caption(codes, num_beams=1), small.caption(codes, num_beams=1),
                  list(picture.getpixel((9, 9))), small.seed.source]))
"""


@pytest.fixture
def hub():
    with running_hub() as hub:
        yield hub


def run(script: str, hub: Hub, home: Path, *arguments: object) -> str:
    """Runs a script on a "machine" of its own: another home, and so another cache of the hub."""
    home.mkdir(exist_ok=True)
    env = os.environ | {
        "HF_ENDPOINT": hub.url, "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_TOKEN": "hf_none",
        "PYTHONPATH": str(Path(seedtok.core.hub.__file__).parents[2]),
    }  # fmt: skip
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_what_is_pushed_loads_on_another_machine(hub, bases, seed, tmp_path):
    torch.manual_seed(0)
    lm = SeedLM.build(bases["llama"], seed)
    lm.save_pretrained(tmp_path / "lm")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    hub.repos["me/small"] = {"README.md": b"Numbers that somebody wrote by hand."}

    addresses = run(PUSH, hub, tmp_path / "one", tmp_path / "lm").split()

    assert [address.partition("/commit/")[0] for address in addresses] == [
        f"{hub.url}/me/{name}" for name in ("tokenizer", "lm", "small")
    ]
    for name, files in hub.repos.items():
        for file, content in files.items():
            if not file.endswith(".safetensors"):
                assert str(tmp_path.parent).encode() not in content, (name, file)
    card = hub.repos["me/tokenizer"]["README.md"].decode()
    assert "license: apache-2.0" in card
    assert "SeedTokenizer.from_pretrained('me/tokenizer')" in card
    assert hub.repos["me/small"]["README.md"] == b"Numbers that somebody wrote by hand."
    assert not any(file.startswith("tokenizer/") for file in hub.repos["me/small"])
    codes = seed.encode(tmp_path / "red.png")
    caption = lm.caption(codes, num_beams=1)
    pixel = seed.decode(codes, generator=torch.Generator().manual_seed(0))[0].getpixel((9, 9))

    there = json.loads(run(LOAD, hub, tmp_path / "two", tmp_path / "red.png"))

    assert there == [codes.tolist(), caption, caption, list(pixel), "me/tokenizer"]
    saved = json.loads((tmp_path / "two" / "small" / "config.json").read_text())
    assert (saved["tokenizer"], saved["base"]) == ("me/tokenizer", "base")  # no path into that machine's cache


@pytest.fixture
def here(hub, monkeypatch, tmp_path) -> Hub:
    """The stand-in as this process's hub, with an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return hub


def test_gated_missing_offline_and_unreachable_are_one_line_each(here, monkeypatch):
    here.repos["me/gated"] = {"config.json": b"{}"}
    here.gated.add("me/gated")

    def line(name: str) -> str:
        began = time.perf_counter()
        with pytest.raises(CheckpointError) as caught:
            SeedLM.from_pretrained(name)
        assert time.perf_counter() - began < 5
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "is gated: accept its terms" in line("me/gated")
    assert "me/gone: no such folder, and no such model on the hub" in line("me/gone")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes calls, and never answers
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(seedtok.core.hub, "ANSWER_SECONDS", 0.5)
        assert "the hub cannot be reached" in line("me/gone")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE forbids a download" in line("me/gone")


def test_of_a_text_tokenizer_only_its_own_files_are_downloaded_and_the_cache_serves_when_offline(here, monkeypatch):
    here.repos["me/bert"] = {"vocab.txt": b"[PAD]", "model.safetensors": b"large"}
    assert {path.name for path in tokenizer_folder("me/bert").iterdir()} == {"vocab.txt"}
    with pytest.raises(CheckpointError, match="me/gone: no such folder, and no such model on the hub"):
        tokenizer_folder("me/gone")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (tokenizer_folder("me/bert") / "vocab.txt").read_bytes() == b"[PAD]"


def test_what_is_in_the_cache_is_used_when_the_hub_is_not_there(here, monkeypatch, tiny_tokenizer):
    files = {p.relative_to(tiny_tokenizer).as_posix(): p for p in tiny_tokenizer.rglob("*") if p.is_file()}
    here.repos["me/tokenizer"] = {name: path.read_bytes() for name, path in files.items()}
    first = SeedTokenizer.from_pretrained("me/tokenizer")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = SeedTokenizer.from_pretrained("me/tokenizer")
    assert again.source == first.source == "me/tokenizer"
    assert again.codebook_id == first.codebook_id


def test_a_push_that_cannot_be_is_one_line(here, monkeypatch, seed):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="cannot upload to me/tokenizer: HF_HUB_OFFLINE"):
        seed.push_to_hub("me/tokenizer")


# ------------------------------------------------------------ folders


def test_mini_is_a_name_and_a_folder_called_mini_is_a_folder(tmp_path, monkeypatch, tiny_tokenizer):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no such checkpoint: mini"):
        SeedTokenizer.from_pretrained(Path("mini"))
    SeedTokenizer.from_pretrained(tiny_tokenizer).save_pretrained("mini")
    for own in (Path("mini"), "./mini"):
        assert SeedTokenizer.from_pretrained(own).source == str((tmp_path / "mini").resolve())
    assert SeedTokenizer.from_pretrained("mini").source == "mini"


def test_a_checkpoint_moves_with_what_it_names(bases, seed, tmp_path, monkeypatch):
    """base, tokenizer and image decoder in folders beside it; then all of them under another name."""
    home = tmp_path / "home"
    shutil.copytree(bases["llama"], home / "bases" / "llama")
    seed.save_pretrained(home / "tokenizer", standalone=True)
    monkeypatch.chdir(home)
    own = SeedTokenizer.from_pretrained("tokenizer")
    lm = SeedLM.build("bases/llama", own)
    lm.save_pretrained("runs/a/final")
    monkeypatch.chdir(tmp_path)
    home.rename(tmp_path / "moved")
    for path in (tmp_path / "moved").rglob("*.json"):
        assert str(tmp_path) not in path.read_text(), path
    again = SeedLM.from_pretrained("moved/runs/a/final")
    codes = torch.arange(32)[None]
    assert again.caption(codes, num_beams=1) == lm.caption(codes, num_beams=1)
    assert len(again.draw("a fox")) == 1
    shutil.move(tmp_path / "moved" / "bases", tmp_path / "bases")
    with pytest.raises(CheckpointError, match=r'"base" in .* is ../../../bases/llama, .* no such folder.*--base'):
        SeedLM.from_pretrained("moved/runs/a/final")
    Image.new("RGB", (8, 8)).save("black.png")
    arguments = ["caption", "black.png", "--model", "moved/runs/a/final", "--base", "bases/llama", "--beams", "1"]
    result = CliRunner().invoke(app, [*arguments, "--tokenizer", "moved/tokenizer"])
    assert result.exit_code == 0, result.output
