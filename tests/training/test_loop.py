"""The training loop: its schedule, what it averages and decays, and that a killed run resumes exactly.

Run as a script, this file is the run that gets killed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator, PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seedtok.core.errors import CheckpointError, ConfigError, TrainingError
from seedtok.data.batches import Batch
from seedtok.mini.world.source import SceneData
from seedtok.training.checkpoints import list_checkpoints
from seedtok.training.config import Optimization, RunConfig, StageSettings, with_overrides
from seedtok.training.ema import Ema
from seedtok.training.log import Log
from seedtok.training.loop import train
from seedtok.training.losses import contrastive_loss
from seedtok.training.optimizer import parameter_groups, set_rate
from seedtok.training.runs import changes, read_config, write_config
from seedtok.training.schedule import learning_rate, noise_seed
from seedtok.training.settings import NameOrFolder, Settings
from seedtok.training.setup import accelerator_for, set_up
from seedtok.training.source import Data
from seedtok.training.sources import replaced_sources, write_sources
from seedtok.training.stage import Losses, Stage, freeze, mean_losses
from seedtok.training.step import MAX_LEFT_OUT, take_step

pytestmark = pytest.mark.slow


class TinySettings(StageSettings):
    width: int = 8
    nan_at: int | None = None
    saves: bool = True

    def build(self) -> "TinyStage":
        return TinyStage(self)


class TinyStage(Stage):
    """Contrast between pooled pixels and bags of letters, with dropout and noise that a resumed run must repeat."""

    def __init__(self, settings: TinySettings) -> None:
        super().__init__()
        self.settings = settings
        self.frozen = freeze(nn.Linear(192, 192))
        self.image = nn.Linear(192, settings.width)
        self.norm = nn.LayerNorm(settings.width)
        self.dropout = nn.Dropout(0.1)
        self.letters = nn.EmbeddingBag(128, settings.width)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(192))

    def initialize(self, batches: Iterable[Batch]) -> None:
        self.mean.copy_(self.pooled(next(iter(batches))).mean(0))

    def pooled(self, batch: Batch) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(batch.pixels.float() / 255, 8).flatten(1)

    def kill(self, where: str) -> None:
        if os.environ.get("KILL") == f"{where} {int(self.calls)}":
            os.kill(os.getpid(), signal.SIGKILL)

    def forward(self, batch: Batch) -> Losses:
        if self.training:
            self.calls += 1
            self.kill("forward")
        x = self.pooled(batch) - self.mean
        image = self.norm(self.image(self.dropout(x + self.frozen(x)) + 0.01 * torch.randn_like(x)))
        letters = [torch.tensor([ord(c) % 128 for c in caption]) for caption in batch.captions]
        text = torch.stack([self.letters(x[None])[0] for x in letters])
        loss = contrastive_loss(image, text, image, text, 0.1)
        return {"loss": loss * float("nan") if self.calls == self.settings.nan_at else loss}

    def own_state(self) -> dict[str, Tensor]:
        self.kill("checkpoint")
        return super().own_state()

    def export(self, folder: Path) -> None:
        if not self.settings.saves:
            raise IndexError("cannot be saved")
        folder.mkdir(exist_ok=True)
        save_file(self.state_dict(), folder / "model.safetensors")


def tiny_run(*overrides: str) -> RunConfig:
    config = RunConfig(
        recipe="tests.tiny",
        stage=TinySettings(),
        data=SceneData(size=64),
        optimization=Optimization(steps=8, batch_size=4, lr=1e-2, warmup_steps=2),
        precision="no",
        log_every=1,
        validate_every=3,
        validate_batches=1,
        checkpoint_every=3,
    )
    return with_overrides(config, overrides)


def logged(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- the parts


def test_learning_rate_by_hand():
    o = Optimization(steps=14, batch_size=1, lr=1.0, min_lr=0.2, warmup_steps=4)
    rates = [learning_rate(o, step) for step in range(15)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[9] == pytest.approx(0.6)  # half way down
    assert rates[14] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert learning_rate(Optimization(steps=2, batch_size=1, lr=1.0, warmup_steps=0), 0) == 1.0


def test_only_matrices_decay_and_frozen_parts_are_left_out():
    stage = TinySettings().build()
    decayed, plain = parameter_groups(stage, 0.3)
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    assert {id(p) for p in decayed["params"]} == {id(stage.image.weight), id(stage.letters.weight)}
    assert {id(p) for p in plain["params"]} == {
        id(stage.image.bias),
        id(stage.norm.weight),
        id(stage.norm.bias),
    }


def test_what_is_named_learns_at_a_share_of_the_rate():
    stage = TinySettings().build()
    trained = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}
    optimizer = torch.optim.AdamW(parameter_groups(stage, 0.0, {"image.": 0.1}))
    set_rate(optimizer, 1e-2)
    for parameter in trained.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()  # Adam's first step is the rate, whatever the gradient
    for name, parameter in trained.items():
        rate = 1e-3 if name.startswith("image.") else 1e-2
        torch.testing.assert_close(parameter, before[name] - rate, rtol=0, atol=1e-6)


def test_ema_by_hand_and_what_it_replaced_comes_back():
    module = nn.Linear(1, 1, bias=False).requires_grad_(True)
    with torch.no_grad():
        module.weight.fill_(1.0)
    ema = Ema(module, 0.5)
    with torch.no_grad():
        module.weight.fill_(2.0)
    ema.update(0)  # the decay warms up: (1 + 0) / (10 + 0)
    assert float(ema.average["weight"]) == pytest.approx(0.1 * 1 + 0.9 * 2)
    ema.update(1000)
    assert float(ema.average["weight"]) == pytest.approx(0.5 * 1.9 + 0.5 * 2)
    with ema.applied():
        assert module.weight.item() == pytest.approx(1.95)
    assert module.weight.item() == 2.0
    with pytest.raises(CheckpointError, match="lacks tensor 'weight'"):
        ema.load({})


def test_overfits_one_batch():
    torch.manual_seed(0)
    stage = TinySettings().build()
    batch = next(tiny_run().data.first(4, 0, 1))
    stage.initialize([batch])
    stage.train()
    optimizer = torch.optim.AdamW(parameter_groups(stage, 0.05), lr=1e-2)
    losses = []
    for _ in range(60):
        torch.manual_seed(0)
        loss = stage(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert losses[-1] < losses[30] < losses[0]


# ---------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "kill"),
    [
        (["optimization.ema_decay=0.9"], "forward 5"),
        (["optimization.accumulate=2"], "forward 16"),  # the second micro-batch of the eighth step
        (["optimization.ema_decay=0.9"], "checkpoint 6"),
    ],
    ids=["ema", "accumulation", "checkpoint"],
)
def test_a_killed_run_resumes_exactly(tmp_path, overrides, kill):
    train(tiny_run(*overrides), tmp_path / "whole")
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path / "killed"), *overrides],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1", "KILL": kill},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list_checkpoints(tmp_path / "killed")
    assert not (tmp_path / "killed" / "final").exists()
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "ki')  # killed while writing
    train(tiny_run(*overrides), tmp_path / "killed", resume=True)

    whole, killed = logged(tmp_path / "whole"), logged(tmp_path / "killed")
    order = [(line["kind"], line["step"]) for line in whole]
    assert [s for kind, s in order if kind == "train"] == list(range(8))
    assert [s for kind, s in order if kind == "validation"] == [3, 6, 8]
    assert [(line["kind"], line["step"]) for line in killed] == order
    for a, b in zip(whole, killed, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-6)
    a, b = (load_file(tmp_path / run / "final" / "model.safetensors") for run in ("whole", "killed"))
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, rtol=1e-6, atol=1e-6)


def test_accumulation_is_the_mean_over_micro_batches(tmp_path):
    config = tiny_run("optimization.accumulate=2", "optimization.steps=1")
    train(config, tmp_path / "run")
    torch.manual_seed(0)
    stage = config.stage.build()
    stage.initialize(config.data.batches(4, 0))
    stage.train()
    data = config.data.batches(4, 0)
    losses = []
    for micro in range(2):
        torch.manual_seed(noise_seed(0, 0, micro, 0))
        losses.append(stage(next(data))["loss"].item())
    assert logged(tmp_path / "run")[0]["loss"] == pytest.approx(sum(losses) / 2, abs=1e-6)


def test_will_not_start_over_a_run(tmp_path):
    train(tiny_run("optimization.steps=1"), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"already holds a run.*--resume"):
        train(tiny_run(), tmp_path / "run")


def test_will_not_train_again_over_a_result_whose_checkpoints_were_removed(tmp_path):
    train(tiny_run("optimization.steps=1"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "final" / "config.json").touch()  # as the results of all stages have
    with pytest.raises(ConfigError, match=r"already holds the result of a run.*or remove .*final"):
        train(tiny_run(), tmp_path / "run")


def test_more_steps_of_a_finished_run_and_not_fewer(tmp_path):
    train(tiny_run("optimization.steps=3"), tmp_path / "run")
    train(tiny_run("optimization.steps=5"), tmp_path / "run", resume=True)
    steps = [line["step"] for line in logged(tmp_path / "run") if line["kind"] == "train"]
    assert steps == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="is at step 5 already"):
        train(tiny_run("optimization.steps=4"), tmp_path / "run", resume=True)


def test_keeps_the_newest_checkpoints(tmp_path):
    train(tiny_run("checkpoint_every=1", "keep_checkpoints=2", "optimization.steps=5"), tmp_path / "run")
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == ["00000004", "00000005"]
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.startswith(".")] == []


def test_resumes_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        train(tiny_run(), tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stage.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_damaged_checkpoint(tmp_path, name, damage):
    train(tiny_run("optimization.steps=1"), tmp_path / "run")
    path = list_checkpoints(tmp_path / "run")[-1] / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=path.stem):
        train(tiny_run(), tmp_path / "run", resume=True)


def test_a_checkpoint_of_another_stage_or_without_an_average(tmp_path):
    train(tiny_run("optimization.steps=1"), tmp_path / "run")
    for override in ("stage.width=4", "optimization.ema_decay=0.9"):  # whoever edits the file gets what is there
        write_config(tiny_run(override), tmp_path / "run")
        message = r"tensor 'image.weight' is \(8, 192\); expected \(4, 192\)|no 'ema'"
        with pytest.raises(CheckpointError, match=message):
            train(tiny_run(override), tmp_path / "run", resume=True)


def test_a_full_disk_is_one_line_and_leaves_no_half_checkpoint(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seedtok.core.files.save_file", full)
    with pytest.raises(CheckpointError, match="No space left"):
        train(tiny_run(), tmp_path / "run")
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 4: lower optimization\.lr"):
        train(tiny_run("stage.nan_at=5"), tmp_path / "run")
    assert [p.name for p in list_checkpoints(tmp_path / "run")] == ["00000003"]


@pytest.mark.parametrize("clipped", ["1.0", "0.5", "none"])
def test_a_gradient_that_is_no_number_does_not_reach_the_weights(tmp_path, clipped):
    """The loss is finite: without a look at the gradient, AdamW would write weights that are none."""
    run = set_up(tiny_run(f"optimization.max_grad_norm={clipped}"), tmp_path / "run", resume=False)
    before = [parameter.detach().clone() for parameter in run.stage.parameters()]
    learnt = next(parameter for parameter in run.stage.parameters() if parameter.requires_grad)
    learnt.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    with pytest.raises(TrainingError, match=r"the gradient is (inf|nan) at step 0: lower optimization\.lr"):
        take_step(run, run.batches(), 0)
    assert all(torch.equal(now, then) for now, then in zip(run.stage.parameters(), before, strict=True))


@pytest.fixture
def scaled(monkeypatch):
    """Runs scale their losses as with fp16, which a CPU does not have."""

    def accelerator(config: RunConfig) -> Accelerator:
        found = accelerator_for(config)
        found.scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
        return found

    monkeypatch.setattr("seedtok.training.setup.accelerator_for", accelerator)


@pytest.mark.usefixtures("scaled")
def test_a_step_that_float16_cannot_represent_is_left_out(tmp_path):
    run = set_up(tiny_run("stage.nan_at=2"), tmp_path / "run", resume=False)
    data = run.batches()
    first = take_step(run, data, 0)
    assert (float(first["scale"]), float(first["left_out"])) == (65536, 0)
    before = [parameter.detach().clone() for parameter in run.stage.parameters()]
    second = take_step(run, data, 1)
    assert (float(second["scale"]), float(second["left_out"])) == (32768, 1)
    assert all(torch.equal(now, then) for now, then in zip(run.stage.parameters(), before, strict=True))
    assert float(take_step(run, data, 2)["left_out"]) == 0
    assert not all(torch.equal(now, then) for now, then in zip(run.stage.parameters(), before, strict=True))
    with Log(run) as log:
        log.losses(1, {name: float(value) for name, value in second.items()})
    assert logged(tmp_path / "run")[-1]["left_out"] == 1
    assert "loss" not in logged(tmp_path / "run")[-1], "JSON has no nan"


@pytest.mark.usefixtures("scaled")
def test_too_many_steps_left_out_end_the_run_which_may_go_on_in_another_precision(tmp_path):
    run = set_up(tiny_run(), tmp_path / "run", resume=False)
    learnt = next(parameter for parameter in run.stage.parameters() if parameter.requires_grad)
    learnt.register_hook(lambda gradient: torch.full_like(gradient, torch.inf))
    data = run.batches()
    for step in range(MAX_LEFT_OUT):
        take_step(run, data, step)
    with pytest.raises(
        TrainingError, match=r"25 steps in a row, up to step 24, had no finite gradient: .*precision=bf16"
    ):
        take_step(run, data, MAX_LEFT_OUT)


@pytest.mark.parametrize("other", ["bf16 frozen_precision=bfloat16", "no frozen_precision=float32"])
def test_what_may_be_chosen_in_place_of_float16_fits(monkeypatch, other):
    before = tiny_run("precision=fp16", "frozen_precision=float16")
    now = with_overrides(before, f"precision={other}".split())
    assert len(changes(before, now)) == 2
    monkeypatch.setattr("seedtok.training.setup.Accelerator", lambda **_: Accelerator())  # of this process
    accelerator_for(now)


@pytest.mark.parametrize("minutes", [10, 20])
def test_ranks_wait_as_long_as_they_are_told(monkeypatch, minutes):
    given = []
    monkeypatch.setattr("seedtok.training.setup.PartialState", lambda **kwargs: given.append(kwargs) or PartialState())
    accelerator_for(tiny_run(f"timeout_minutes={minutes}"))
    assert given[0]["timeout"].total_seconds() == 60 * minutes


def test_ranks_that_see_different_checkpoints_do_not_go_on(tmp_path, monkeypatch):
    train(tiny_run("optimization.steps=1"), tmp_path)
    monkeypatch.setattr("seedtok.training.setup.differs_over_ranks", lambda step: step == 1)
    with pytest.raises(CheckpointError, match="see different checkpoints"):
        train(tiny_run("optimization.steps=2"), tmp_path, resume=True)


def test_what_a_lost_node_was_writing_is_removed(tmp_path):
    train(tiny_run("optimization.steps=1"), tmp_path)
    left = [tmp_path / name / ".seedtok.another-host-1.7.7.0.tmp" for name in ("checkpoints", "final")]
    for folder in left:
        folder.mkdir()
    train(tiny_run("optimization.steps=2"), tmp_path, resume=True)
    assert not any(folder.exists() for folder in left)


def test_what_goes_wrong_at_the_end_loses_nothing(tmp_path, monkeypatch):
    """The last checkpoint is written before the last validation."""
    with monkeypatch.context() as broken:
        broken.setattr("seedtok.training.loop.validate", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny_run("optimization.steps=2", "validate_every=100"), tmp_path / "run")
    assert list_checkpoints(tmp_path / "run")[-1].name == "00000002"
    train(tiny_run("optimization.steps=2", "validate_every=100"), tmp_path / "run", resume=True)
    assert (tmp_path / "run/final").is_dir()
    assert [line["step"] for line in logged(tmp_path / "run") if line["kind"] == "validation"] == [2]


def test_a_last_validation_of_more_steps_is_not_lost(tmp_path, monkeypatch):
    """The result of fewer steps is there already."""
    train(tiny_run("optimization.steps=2"), tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr("seedtok.training.loop.validate", lambda run: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(tiny_run("optimization.steps=4", "validate_every=100"), tmp_path, resume=True)
    for _ in range(2):  # once is enough
        train(tiny_run("optimization.steps=4", "validate_every=100"), tmp_path, resume=True)
    assert [line["step"] for line in logged(tmp_path) if line["kind"] == "validation"] == [2, 4]


def test_another_precision_in_one_process_is_refused_in_a_line(tmp_path):
    train(tiny_run("optimization.steps=1", "precision=no"), tmp_path / "one")
    with pytest.raises(ConfigError, match="another precision: train with bf16 in a new one"):
        train(tiny_run("optimization.steps=1", "precision=bf16"), tmp_path / "two")


@pytest.mark.parametrize(
    ("precision", "frozen", "message"),
    [
        ("bf16", "float16", "does not go with precision=bf16: set frozen_precision=bfloat16"),
        ("no", "bfloat16", "needs autocast"),
        ("no", "float16", "needs autocast"),
    ],
)
def test_precisions_that_do_not_fit_are_refused(tmp_path, precision, frozen, message):
    config = tiny_run(f"precision={precision}", f"frozen_precision={frozen}")
    with pytest.raises(ConfigError, match=message):
        train(config, tmp_path / "run")


def test_pictures_are_stretched_as_the_image_encoder_takes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(Stage, "interpolation", "bilinear")
    with pytest.raises(ConfigError, match=r"stretched by bilinear interpolation: set data\.interpolation=bilinear"):
        train(tiny_run(), tmp_path / "run")
    train(tiny_run("data.interpolation=bilinear"), tmp_path / "run")


def test_a_validation_without_a_learnt_token_says_so():
    with pytest.raises(TrainingError, match="no token of the validation batches is learnt"):
        mean_losses([{"loss": torch.tensor(torch.nan), "count": torch.tensor(0)}])


def test_what_cannot_be_saved_is_not_trained(tmp_path):
    with pytest.raises(IndexError, match="cannot be saved"):
        train(tiny_run("stage.saves=false"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    train(tiny_run("optimization.steps=1"), tmp_path / "run")  # and nothing of the trial is left
    assert not (tmp_path / "run" / ".export").exists()


def test_seeds_are_the_same_in_every_python():
    assert noise_seed(0, 3, 1, 0) == int(np.random.SeedSequence((0, 3, 1, 0)).generate_state(1, np.uint64)[0])
    assert noise_seed(0, 3, 1, 0) == 4245091184500617293
    assert (
        len({noise_seed(0, step, micro, rank) for step in range(9) for micro in range(9) for rank in range(9)}) == 729
    )


# ---------------------------------------------------------------- going on


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("begun")
    train(tiny_run("optimization.steps=1"), out)
    return out


def test_a_run_is_read_back(begun):
    assert read_config(begun, [tiny_run()]) == tiny_run("optimization.steps=1")


def test_a_run_goes_on_as_it_began(begun):
    before = (begun / "config.json").read_text()
    other = tiny_run("seed=7", "data.size=128", "log_every=3", "stage.width=4")
    refused = r"stage\.width was 8 and is 4 now; data\.size was 64 .*seed was \d+ and is 7"
    with pytest.raises(ConfigError, match=refused):
        train(other, begun, resume=True)
    assert (begun / "config.json").read_text() == before


def test_what_may_change_is_said_and_kept(tmp_path, capsys):
    train(tiny_run("optimization.steps=1"), tmp_path)
    more = tiny_run("optimization.steps=2", "optimization.batch_size=2", "optimization.accumulate=2", "log_every=2")
    train(more, tmp_path, resume=True)
    said = capsys.readouterr().err
    assert "optimization.batch_size was 4 and is 2 now" in said
    assert "log_every was 1 and is 2 now" in said
    assert "a step was of" not in said
    assert read_config(tmp_path, [tiny_run()]) == more


def test_steps_of_another_number_of_samples_are_said(tmp_path, capsys):
    """As with another number of processes."""
    train(tiny_run("optimization.steps=1"), tmp_path)
    (state,) = [path / "state.json" for path in list_checkpoints(tmp_path)]
    record = json.loads(state.read_text())
    assert record["samples_per_step"] == 4
    state.write_text(json.dumps(record | {"samples_per_step": 8, "samples": 8}))
    train(tiny_run("optimization.steps=2"), tmp_path, resume=True)
    assert "a step was of 8 samples and is of 4 now, by 1 process\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        "null",
        "{}",
        '{"recipe": 3}',
        '{"recipe": "tests.tiny"}',
        '{"recipe": "tests.tiny", "stage": 3}',
        '{"recipe": "tests.other"}',
        '"text"',
        "[" * 100_000,
        "\xff",
    ],
)
def test_an_odd_configuration_is_one_line(begun, tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        read_config(tmp_path, [tiny_run()])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage", None),
        ("stage", {"width": "x"}),
        ("data", []),
        ("seed", -1),
        ("seed", 1e400),
        ("more", 1),
        ("recipe", {}),
    ],
)
def test_an_odd_value_is_one_line(begun, tmp_path, key, value):
    record = json.loads((begun / "config.json").read_text()) | {key: value}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="is not the configuration of a run") as caught:
        read_config(tmp_path, [tiny_run()])
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- overrides


def test_overrides():
    config = tiny_run("optimization.lr=3e-4", "data.shards=some/where", "optimization.max_grad_norm=none", "seed=7")
    assert config.optimization.lr == 3e-4
    assert config.data.shards == Path("some/where")
    assert config.optimization.max_grad_norm is None
    assert config.seed == 7
    assert tiny_run().optimization.lr == 1e-2  # the original is frozen
    assert isinstance(config.stage, TinySettings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimization.stpes=3", "unknown setting 'optimization.stpes'.*did you mean 'steps'"),
        ("optimizaton.steps=3", "did you mean 'optimization'"),
        ("stage.zzz=3", "known here: width, nan_at, saves"),
        ("seed.steps=3", "'seed' is a single value"),
        ("optimization.steps=0", "bad value for 'optimization.steps': '0'.*greater than or equal to 1"),
        ("optimization.steps=many", "bad value for 'optimization.steps': 'many'"),
        ("optimization.lr=NaN", "bad value for 'optimization.lr'"),
        ("optimization.lr=none", "bad value for 'optimization.lr'"),
        ("precision=fp8", "bad value for 'precision'"),
        ("optimization.steps", "expected key=value"),
        ("=3", "expected key=value"),
    ],
)
def test_overrides_that_do_not_fit(override, message):
    with pytest.raises(ConfigError, match=message):
        tiny_run(override)


# ---------------------------------------------------------------- what config.json keeps


class NamesSettings(TinySettings):
    base: NameOrFolder = "mini"
    others: tuple[NameOrFolder, ...] = ()
    sizes: tuple[int, ...] = ()
    parts: tuple[Settings, ...] = ()  # of classes with fields that this one has not


class Part(Settings):
    size: int
    folder: NameOrFolder


ODD = (
    NamesSettings(base="mini"), NamesSettings(base=Path("mini")), NamesSettings(base="facebook/opt-2.7b"),
    NamesSettings(base=Path("facebook/opt-2.7b")), NamesSettings(base=Path("../mini")),
    NamesSettings(others=("mini", Path("mini"), Path("a/b"))), NamesSettings(sizes=(3, 2, 1)),
    NamesSettings(parts=(Part(size=3, folder=Path("mini")), Part(size=4, folder="mini"))),
)  # fmt: skip


@pytest.mark.parametrize("stage", ODD, ids=range(len(ODD)))
def test_a_name_stays_a_name_a_folder_a_folder_and_a_tuple_what_it_was(tmp_path, stage):
    data = SceneData(shards=Path("scenes"), validation=Path("scenes"))
    config = tiny_run().model_copy(update={"stage": stage, "data": data})
    write_config(config, tmp_path)
    again = read_config(tmp_path, [config])
    assert again == config
    assert changes(again, config) == []
    assert repr(again) == repr(config)  # types too: a Path equals no text, and is no text here


def test_what_is_in_a_tuple_does_not_change_unseen(tmp_path):
    def run(**fields) -> RunConfig:
        return tiny_run().model_copy(update={"stage": NamesSettings(**fields)})

    part = Part(size=3, folder="mini")
    for before, now in (
        (run(sizes=(1, 2)), run(sizes=(1, 3))),
        (run(others=("mini",)), run(others=(Path("mini"),))),
        (run(parts=(part,)), run(parts=(part, part))),
        (run(parts=(part,)), run(parts=(Part(size=4, folder="mini"),))),
        (run(base="mini"), run(base=Path("mini"))),
    ):
        write_config(before, tmp_path)
        with pytest.raises(ConfigError, match="a run goes on as it began"):
            changes(read_config(tmp_path, [now]), now)


def test_data_and_checkpoints_may_have_been_moved(tmp_path):
    def run(folder: str, weight: float = 1.0, share: float | None = None) -> RunConfig:
        stage = NamesSettings(base=Path(folder) / "base", others=("mini", Path(folder)))
        data = SceneData(shards={f"{folder}/shards": weight, "own": 2.0}, validation=share or Path(folder) / "held")
        return tiny_run().model_copy(update={"stage": stage, "data": data})

    write_config(run("/old"), tmp_path)
    before = read_config(tmp_path, [run("/new")])
    assert [line.partition(" ")[0] for line in changes(before, run("/new"))] == [
        "stage.base", "stage.others", "data.shards", "data.validation"
    ]  # fmt: skip
    for other in (run("/new", weight=3.0), run("/new", share=0.1)):
        with pytest.raises(ConfigError, match="and the folders of data and of checkpoints"):
            changes(before, other)


def test_a_checkpoint_that_was_replaced_is_said(tmp_path, capsys):
    """Not so one that was moved, nor where an earlier version began the run."""

    def run(base: str, steps: int) -> RunConfig:
        stage = NamesSettings(base=tmp_path / base)
        return tiny_run(f"optimization.steps={steps}").model_copy(update={"stage": stage})

    for base in ("base", "moved"):
        (tmp_path / base).mkdir()
        (tmp_path / base / "config.json").write_text("1")
    train(run("base", 1), tmp_path / "run")
    train(run("moved", 2), tmp_path / "run", resume=True)
    assert "another checkpoint" not in capsys.readouterr().err
    (tmp_path / "base" / "config.json").write_text("2")
    train(run("base", 3), tmp_path / "run", resume=True)
    said = f"stage.base: {tmp_path / 'base'} is another checkpoint than when the run began"
    assert said in capsys.readouterr().err
    (tmp_path / "run" / "sources.json").unlink()
    train(run("base", 4), tmp_path / "run", resume=True)
    assert "another checkpoint" not in capsys.readouterr().err


def test_data_with_other_files_are_said(tmp_path):
    config = tiny_run()
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
        (folder / "0.tar").write_bytes(b"1")
    data = [Data(shards={str(folder): 1.0}) for folder in folders]
    write_sources(config.model_copy(update={"data": data[0]}), tmp_path)
    moved = config.model_copy(update={"data": data[1]})
    assert replaced_sources(moved, tmp_path) == []
    (folders[1] / "1.tar").write_bytes(b"1")
    (said,) = replaced_sources(moved, tmp_path)
    assert said == "data.shards holds files of other names or sizes than when the run began"


def test_a_text_that_can_only_be_a_path_is_one():
    for text, value in (("./mini", Path("mini")), ("/a/b", Path("/a/b")), ("mini", "mini"), ("a/b", "a/b")):
        assert (
            with_overrides(tiny_run().model_copy(update={"stage": NamesSettings()}), [f"stage.base={text}"]).stage.base
            == value
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(tiny_run(*sys.argv[2:]), Path(sys.argv[1]))
