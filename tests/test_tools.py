"""The programs in tools/ run, as a user would run them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import seedtok
from reference import PATH

ROOT = Path(__file__).parent.parent
PACKAGE = Path(seedtok.__file__).parent


def run_tool(name: str, *arguments: object, sources: Path = PACKAGE.parent) -> str:
    """Runs a tool on the package in `sources`; returns what it printed."""
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(sources)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder of a copy of the package, whose weights may be replaced."""
    sources = tmp_path / "sources"
    for path in PACKAGE.rglob("*"):
        target = sources / "seedtok" / path.relative_to(PACKAGE)
        if path.is_file() and "__pycache__" not in path.parts:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(path)
    return sources


@pytest.mark.slow
def test_familiarity_is_measured_and_written(package: Path, tmp_path: Path):
    written = package / "seedtok/pretrained/mini/tokenizer/familiarity.safetensors"
    shapes = {name: tensor.shape for name, tensor in load_file(written).items()}
    written.unlink()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "drawing.png").symlink_to(ROOT / "docs" / "drawings.png")
    printed = run_tool("familiarity.py", "--write", "--count", 500, f"own={tmp_path / 'own'}", sources=package)
    far = {name: float(share) for name, share in re.findall(r"^(.*): ([\d.]+) % of", printed, re.MULTILINE)}
    assert {far[name] for name in ("black", "noise", "screens")} == {100}
    assert far["white"] == 0  # an empty scene
    assert far["own"] == 100
    assert {name: tensor.shape for name, tensor in load_file(written).items()} == shapes


@pytest.mark.slow
def test_runs_are_shipped(package: Path, runs: Path):
    shipped = package / "seedtok/pretrained/mini"
    for run, part in (("vision", "vision"), ("stage2", "tokenizer"), ("stage3a", "lm_captions")):
        assert f"mini/{part}: " in run_tool("ship.py", runs / run / "final", part, sources=package)
    tensors = load_file(shipped / "tokenizer/model.safetensors")
    trained = load_file(runs / "stage2/final/model.safetensors")
    assert not [name for name in tensors if name.startswith("embedder.vision.")]  # which is the image encoder's
    assert tensors.keys() == {name for name in trained if not name.startswith("embedder.vision.")}
    for name, tensor in tensors.items():
        assert torch.equal(tensor, trained[name].half() if trained[name].dtype == torch.float32 else trained[name])
    kept = load_file(shipped / "lm_captions/visual.safetensors")
    for name, tensor in load_file(runs / "stage3a/final/visual.safetensors").items():
        assert torch.equal(kept[name], tensor.bfloat16())  # which a wheel compresses better
    assert json.loads((shipped / "lm_captions/config.json").read_text())["tokenizer"] == "mini"
    assert str(runs) not in "".join(path.read_text() for path in shipped.glob("lm_captions/**/*.json"))
    load = "from seedtok import SeedTokenizer; print(SeedTokenizer.from_pretrained('mini').config.codebook.size)"
    environment = os.environ | {"PYTHONPATH": str(package)}
    assert subprocess.check_output([sys.executable, "-c", load], text=True, env=environment) == "64\n"


def test_a_reference_is_cut(tmp_path: Path):
    """Of the one that is kept, with other vectors added to its codebooks, the part that is needed is found again."""
    kept = load_file(PATH)
    with safe_open(PATH, "pt") as file:
        metadata = file.metadata()
    full = dict(kept)
    for name in kept:
        if name.endswith("quantize.embedding.weight"):
            size, dim = kept[name].shape
            full[name] = torch.cat([kept[name], torch.randn(1000, dim, generator=torch.Generator().manual_seed(size))])
    save_file(full, tmp_path / "full.safetensors", metadata=metadata)
    run_tool("cut_reference.py", tmp_path / "full.safetensors", tmp_path / "cut.safetensors")
    cut = load_file(tmp_path / "cut.safetensors")
    assert cut.keys() == kept.keys()
    for section in ("v1", "v2", "v2_qformer_image"):
        ours, theirs = (t[f"{section}/state_dict/quantize.embedding.weight"] for t in (cut, kept))
        assert ours.shape == theirs.shape
        assert torch.equal(ours[cut[f"{section}/codes"]], theirs[kept[f"{section}/codes"]])


@pytest.mark.slow
def test_a_sheet_of_the_world_is_drawn(tmp_path: Path):
    assert "bytes" in run_tool("world_sheet.py", "--out", tmp_path / "world.png", "--seed", 5)
    with Image.open(tmp_path / "world.png") as drawn, Image.open(ROOT / "docs" / "world.png") as kept:
        assert np.array_equal(np.asarray(drawn), np.asarray(kept))


def test_judge_sheet_draws_and_scores(tmp_path):
    out = tmp_path / "judged"
    assert run_tool("judge_sheet.py", "draw", out, "--count", 4).endswith("4 drawings\n")
    with Image.open(out / "sheet-0.png") as sheet:
        assert sheet.size == (5 * 132 + 4, 132 + 4)
    scenes = json.loads((out / "scenes.json").read_text())
    right = [
        {"background": s["background"]} | {thing["place"]: thing["concept"] for thing in s["things"]} for s in scenes
    ]
    (out / "labels.json").write_text(json.dumps(right))
    said = run_tool("judge_sheet.py", "score", out)
    assert "right by the eye 100.0 %" in said
    (out / "labels.json").write_text(json.dumps([{"background": s["background"]} for s in scenes[:3]]))
    assert "3 drawings" in (said := run_tool("judge_sheet.py", "score", out))
    assert "right by the eye 0.0 %" in said


@pytest.mark.slow
def test_floors_are_printed():
    """Of few scenes: things replaced are less like the true ones, and seen drawings are found again by their pixels."""
    printed = run_tool("floors.py", "--count", 12)
    similar = [float(found) for found in re.findall(r"similarity ([\d.]+)", printed)]
    assert len(similar) == 4
    assert min(similar[::2]) > 80 > max(similar[1::2])
    assert "mini:test, nearest drawing by pixels: things 100.0 %, all of a scene 100.0" in printed
    assert "all known but which thing stands where: R@1 94.1" in printed
