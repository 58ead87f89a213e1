"""A run that is asked to stop: it saves a checkpoint, says where, and goes on later as if it had never stopped.

Run as a script, this file is that run.
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
from torch import Tensor, nn

from seedtok.core.errors import BusyError
from seedtok.core.processes import exit_code, stop_requests, terminate_like_interrupt
from seedtok.data.batches import Batch
from seedtok.mini.world.source import SceneData
from seedtok.training.checkpoints import list_checkpoints
from seedtok.training.config import Optimization, RunConfig, StageSettings
from seedtok.training.loop import train
from seedtok.training.stage import Losses, Stage
from stopping import started, stopped

STEPS = 40


class SlowSettings(StageSettings):
    def build(self) -> "SlowStage":
        return SlowStage()


class SlowStage(Stage):
    """Steps that take as many seconds as the environment says."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch: Batch) -> Losses:
        if "STEP_SECONDS" in os.environ:
            print("begun", flush=True)
            time.sleep(float(os.environ["STEP_SECONDS"]))
        return {"loss": (self.scale * batch.pixels.float().mean() / 255 - 1).square()}

    def own_state(self) -> dict[str, Tensor]:
        return self.state_dict()

    def export(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "scale.txt").write_text(str(float(self.scale.detach())))


def slow_run() -> RunConfig:
    return RunConfig(
        recipe="tests.slow", stage=SlowSettings(), data=SceneData(size=64),
        optimization=Optimization(steps=STEPS, batch_size=1, lr=1e-2, warmup_steps=1),
        precision="no", log_every=1, validate_every=1000, validate_batches=1, checkpoint_every=1000,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_training_saves_a_checkpoint_says_where_and_goes_on(tmp_path, number):
    with started(__file__, tmp_path / "run", 0.2) as process:
        with pytest.raises(BusyError, match=f"process {process.pid} "):
            train(slow_run(), tmp_path / "run", resume=True)
        errors = stopped(process, number)
    (saved,) = list_checkpoints(tmp_path / "run")
    step = json.loads((saved / "state.json").read_text())["step"]
    assert 0 < step < STEPS
    assert f"stopped after step {step} of {STEPS}, saved as {saved}: the same command goes on from there" in errors
    assert "Traceback" not in errors
    assert not list(tmp_path.rglob(".*"))
    train(slow_run(), tmp_path / "run", resume=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == list(range(STEPS))
    train(slow_run(), tmp_path / "whole")
    assert len({(tmp_path / run / "final" / "scale.txt").read_text() for run in ("run", "whole")}) == 1


@pytest.mark.slow
def test_who_is_stopped_saves_before_validating_and_makes_up_for_it(tmp_path, monkeypatch):
    forward, calls = SlowStage.forward, []

    def asked_to_stop(self: SlowStage, batch: Batch) -> Losses:
        calls.append(self.training)
        if sum(calls) == 2 and self.training:
            signal.raise_signal(signal.SIGTERM)
        return forward(self, batch)

    config = slow_run().model_copy(update={"validate_every": 2})
    config = config.model_copy(update={"optimization": config.optimization.model_copy(update={"steps": 4})})
    with monkeypatch.context() as stopping:
        stopping.setattr(SlowStage, "forward", asked_to_stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["00000002"]
    assert '"validation"' not in (tmp_path / "log.jsonl").read_text()
    train(config, tmp_path, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 4]


@pytest.mark.slow
@pytest.mark.usefixtures("hangups")
def test_a_closed_terminal_stops_training_after_a_checkpoint(tmp_path):
    """Shell and kernel both say so, and nothing can be written to the terminal any more."""
    import pty  # Windows has none

    ours, theirs = pty.openpty()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, __file__, str(tmp_path / "run"), "0.2"], stdin=theirs, stdout=theirs, stderr=theirs,
        env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"begun" not in said:
        said += os.read(ours, 1000)
    os.close(ours)
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    assert process.wait(120) == 143
    assert len(list_checkpoints(tmp_path / "run")) == 1


def test_a_hangup_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests("") as request:
            signal.raise_signal(signal.SIGHUP)
            assert not request
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_second_signal_stops_training_at_once(tmp_path):
    with started(__file__, tmp_path / "run", 30) as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr
        while "stopping after this step" not in (line := process.stderr.readline()):
            assert line, "it has ended"
        stopped(process, signal.SIGINT)
    assert list_checkpoints(tmp_path / "run") == []
    assert not list(tmp_path.rglob(".*"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    terminate_like_interrupt()
    try:
        os.environ["STEP_SECONDS"] = sys.argv[2]
        train(slow_run(), Path(sys.argv[1]))
    except KeyboardInterrupt as interrupt:
        sys.exit(exit_code(interrupt))
