"""The paper's recipes from the publishers' files to captions, shrunken in size alone.

Widths and depths come with the weights that the recipes start from, which here are tiny; beside them, only numbers of
steps, batch sizes and, since a CPU has no fp16, the precision differ from the recipes'. Folders are the recipes' own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import publishers
from seedtok import SeedLM, SeedTokenizer
from seedtok.cli.app import app
from seedtok.training.checkpoints import list_checkpoints

pytestmark = pytest.mark.slow
SMALL = (
    "optimization.warmup_steps=1", "optimization.batch_size=4", "validate_every=4", "validate_batches=2",
    "checkpoint_every=2", "log_every=1", "data.validation=0.3", "precision=bf16", "frozen_precision=bfloat16",
)  # fmt: skip
PIXELS = ("data.size=28", "data.workers=1", 'data.shards={"shards/coco": 3, "shards/cc3m": 1}')
WORDS = ("stage.base=weights/opt-2.7b", "stage.row=128", "data.codes=codes")
STAGES = {
    "stage1": ("optimization.steps=4", *PIXELS),
    "stage2": (
        "optimization.steps=30", *PIXELS, "stage.sample_steps=2", "stage.codebook_size=64", "stage.kmeans_per_code=8",
    ),
    "stage3a": ("optimization.steps=4", *WORDS),
    "stage3b": ("optimization.steps=6", *WORDS),
}  # fmt: skip


def run(*arguments: object) -> str:
    """A command that has to succeed; returns what it printed."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    return result.stdout


def command(stage: str) -> list[str]:
    return ["train", f"paper.{stage}", "--out", f"runs/paper/{stage}", *SMALL, *STAGES[stage]]


def train_killed_and_resumed(stage: str) -> None:
    """Kills a run by SIGKILL once it has a checkpoint, and has it go on."""
    folder = Path("runs/paper") / stage
    process = subprocess.Popen([sys.executable, "-m", "seedtok", *command(stage)], stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 200
    while not list_checkpoints(folder) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    assert list_checkpoints(folder)
    run("train", "--out", folder, "--resume")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the whole rehearsal."""
    home, before = tmp_path_factory.mktemp("rehearsal"), Path.cwd()
    os.chdir(home)
    try:
        publishers.coco(Path("coco"), 64)
        publishers.cc3m(Path("cc3m"), 40)
        publishers.blip2(Path("blip2-itm-vit-g"))
        publishers.stable_diffusion(Path("weights/stable-diffusion-v1-4"))
        publishers.opt(Path("weights/opt-2.7b"))
        for name, table, images in (("coco", "dataset_coco.json", ""), ("cc3m", "Train_GCC-training.tsv", "images")):
            prepare = ("data", "prepare", name, "--split", "train", "--annotations", f"{name}/{table}")
            run(*prepare, "--images", f"{name}/{images}", "--out", f"shards/{name}", "--shard-size", 10)
        run("convert", "blip2-itm-vit-g", "--out", "weights/blip2-itm-vit-g")
        run(*command("stage1"))
        train_killed_and_resumed("stage2")
        for name in ("coco", "cc3m"):
            run("tokenize", f"shards/{name}", "--out", f"codes/{name}", "--model", "runs/paper/stage2/final")
        run(*command("stage3a"))
        run(*command("stage3b"))
    finally:
        os.chdir(before)
    return home


def log(home: Path, stage: str) -> list[dict]:
    return [json.loads(line) for line in (home / "runs/paper" / stage / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stage", STAGES)
def test_every_step_was_taken_once_and_validated(rehearsed, stage):
    records, steps = log(rehearsed, stage), int(STAGES[stage][0].partition("=")[2])
    assert [r["step"] for r in records if r["kind"] == "train"] == list(range(1, steps + 1)) or [
        r["step"] for r in records if r["kind"] == "train"
    ] == list(range(steps))
    validated = [r["step"] for r in records if r["kind"] == "validation"]
    assert validated == sorted({*range(4, steps + 1, 4), steps})


def test_the_tokenizer_sees_and_draws(rehearsed, monkeypatch):
    monkeypatch.chdir(rehearsed)
    tokenizer = SeedTokenizer.from_pretrained("runs/paper/stage2/final")
    assert tokenizer.config.num_inference_steps == 2
    codes = tokenizer.encode(Image.new("RGB", (50, 40), "red"))
    assert codes.shape == (1, 32)
    assert [p.size for p in tokenizer.decode(codes)] == [(32, 32)]
    assert sorted(p.name for p in Path("runs/paper/stage2/pictures").iterdir())[-1] == "00000030.png"


def test_frozen_parts_stayed_as_they_were(rehearsed):
    start = load_file(rehearsed / "weights/blip2-itm-vit-g/model.safetensors")
    second = load_file(rehearsed / "runs/paper/stage1/final/model.safetensors")
    vision = [name for name in start if name.startswith("vision.")]
    assert vision
    assert all(torch.equal(start[name].bfloat16(), second[name].bfloat16()) for name in vision)
    assert not torch.equal(start["qformer.query_tokens"], second["qformer.query_tokens"])


def test_the_result_captions_and_draws_from_another_folder(rehearsed, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    picture = next((rehearsed / "coco/val2014").iterdir())
    said = run("caption", picture, "--model", rehearsed / "runs/paper/stage3b/final")
    assert said.startswith(str(picture))
    run("draw", "a red square", "--out", "red.png", "--model", rehearsed / "runs/paper/stage3b/final")
    assert Image.open("red.png").size == (32, 32)


def test_the_whole_folder_can_move(rehearsed, monkeypatch, tmp_path):
    """Checkpoints name what they stand on relative to themselves."""
    moved = tmp_path / "moved"
    rehearsed.rename(moved)
    try:
        model = SeedLM.from_pretrained(moved / "runs/paper/stage3b/final")
        assert model.draw("a red square")[0].size == (32, 32)
    finally:
        moved.rename(rehearsed)


def test_on_a_cpu_float16_is_refused(rehearsed, monkeypatch, cli):
    monkeypatch.chdir(rehearsed)
    AcceleratorState._reset_state(reset_partial_state=True)  # the other runs had another precision
    code, _, errors = cli(*command("stage1"), "precision=fp16", "--out", "runs/other")
    assert code == 2
    assert "float16 needs a GPU to train on: set precision=bf16 frozen_precision=bfloat16" in errors
    assert not Path("runs/other").exists()
