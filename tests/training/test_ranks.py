"""Stages of each kind over 1, 2 and 4 processes, whole or sharded: the same run, wherever it goes on."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from ranks import fork_ranks, run_ranks
from seedtok.core.errors import CheckpointError
from seedtok.training.checkpoints import load_checkpoint
from seedtok.training.config import RunConfig
from seedtok.training.loop import train
from tiny_runs import tiny

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # ranks wait for one another, on however few cores
KINDS = ("eval_clip", "stage1", "stage2", "stage3a", "blip2")
BATCH, STEPS = 8, 4


def config(kind: str, runs: Path, world: int, sharded: bool = False) -> RunConfig:
    """Without what is drawn by chance for every rank alone, and of one batch in all."""
    own = {
        "eval_clip": ["optimization.ema_decay=0.9"], "stage1": ["stage.auxiliary=none"], "stage3a": ["stage.replay=0"],
    }  # fmt: skip
    return tiny(
        kind, runs, f"optimization.batch_size={BATCH // world}", f"optimization.steps={STEPS}", "precision=no",
        "optimization.lr=1e-3", f"sharded={str(sharded).lower()}", "validate_every=4", "checkpoint_every=1",
        "keep_checkpoints=4", *own.get(kind, []),
    )  # fmt: skip


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["kind"] == "train"}


def together(world: int, jobs: list[tuple[str, str, bool]], runs: Path, out: Path) -> None:
    """Has `world` processes go on with runs: a kind, a folder, whether sharded."""
    (out / "jobs.json").write_text(json.dumps([str(runs), str(out), jobs]))
    run_ranks(__file__, world, out / f"{world}.err", out / "jobs.json")


def killed_after(step: int, run: Path, copy: Path) -> None:
    """A copy of a run as it was when its checkpoint at `step` had been written."""
    shutil.copytree(run, copy)
    for checkpoint in (copy / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, runs) -> Path:
    """One process from the start; two ranks from its first step on, four and one from theirs."""
    out = tmp_path_factory.mktemp("ranks")
    AcceleratorState._reset_state(reset_partial_state=True)  # other runs had another precision
    both = [(kind, name) for kind in KINDS for name in ("whole", "sharded")]
    for kind in KINDS:
        train(config(kind, runs, 1), out / kind / "one")
    for kind, name in both:
        killed_after(1, out / kind / "one", out / kind / f"{name}2")
    together(2, [(kind, f"{kind}/{name}2", name == "sharded") for kind, name in both], runs, out)
    for kind, name in both:
        killed_after(2, out / kind / "sharded2", out / kind / f"{name}4")
    together(4, [(kind, f"{kind}/{name}4", name == "sharded") for kind, name in both], runs, out)
    for kind in KINDS:
        killed_after(2, out / kind / "sharded2", out / kind / "whole1")
        train(config(kind, runs, 1), out / kind / "whole1", resume=True)
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["whole2", "sharded2", "whole1", "whole4", "sharded4"])
def test_however_many_ranks_it_is_the_same_run(ran, kind, name):
    alone, found = losses(ran / kind / "one"), losses(ran / kind / name)
    assert alone.keys() == found.keys() == set(range(STEPS))
    for step, loss in alone.items():
        assert found[step] == pytest.approx(loss, rel=1e-4, abs=1e-4), (step, alone, found)
    assert len(set(alone.values())) == STEPS


def validated(run: Path) -> dict[str, float]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["kind"] == "validation"][-1]
    return {name: value for name, value in last.items() if name != "kind"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["whole2", "sharded2", "whole4", "sharded4"])
def test_ranks_validate_together_on_what_one_process_does(ran, kind, name):
    alone, found = validated(ran / kind / "one"), validated(ran / kind / name)
    one_rank = 100 / (3 * BATCH * 2) + 1e-3  # of a caption or image that is nearly as near as the next: rounding
    assert found.pop("r_mean", None) == pytest.approx(alone.pop("r_mean", None), abs=one_rank)
    assert found == pytest.approx(alone, rel=1e-3, abs=1e-3)


def test_the_main_rank_draws(ran):
    for name in ("one", "whole2", "sharded4"):
        assert [path.name for path in (ran / "stage2" / name / "pictures").iterdir()] == ["00000004.png"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_run_exports_what_one_process_does(ran, kind):
    for path in (ran / kind / "one" / "final").rglob("*.safetensors"):
        alone, found = load_file(path), load_file(ran / kind / "sharded4" / path.relative_to(ran / kind / "one"))
        assert alone.keys() == found.keys()
        assert all(alone[name].shape == found[name].shape for name in alone)
        assert all(torch.isfinite(t).all() for t in found.values() if t.is_floating_point())


def test_parts_are_all_needed(ran, tmp_path):
    shutil.copytree(ran / "stage1" / "sharded4" / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / f"{STEPS:08d}"
    assert sorted(p.name for p in newest.glob("stage.*")) == [f"stage.{i}-of-4.safetensors" for i in range(4)]
    sharded, whole = load_checkpoint(tmp_path), load_checkpoint(ran / "stage1" / "one")
    shapes = [{k: v.shape for k, v in c.tensors_of("stage").items()} for c in (sharded, whole)]
    assert shapes[0] == shapes[1]
    assert sharded.record("state") == {"step": STEPS, "samples": STEPS * BATCH, "samples_per_step": BATCH}
    (newest / "stage.2-of-4.safetensors").unlink()
    with pytest.raises(CheckpointError, match="2-of-4"):
        load_checkpoint(tmp_path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    fork_ranks()
    Accelerator.end_training = lambda self: None  # it ends the process group, which the next job needs
    folder, out, jobs = json.loads(Path(sys.argv[1]).read_text())
    for kind, where, sharded in jobs:
        world = int(os.environ["WORLD_SIZE"])
        train(config(kind, Path(folder), world, sharded), Path(out) / where, resume=True)
