"""Jobs run in the order of their needs, are not run again, and are stopped together."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from seedtok.core.errors import TrainingError
from seedtok.mini.identities import MADE_BY, NAME, identities, remove_others
from seedtok.mini.parts import result
from seedtok.mini.reproduction.jobs import Job, run_jobs

SCRIPT = """
import os, pathlib, sys, time
folder, name, action, *needs = [argument for argument in sys.argv[1:] if argument != "--resume"]
folder = pathlib.Path(folder)
assert all((folder / need).exists() for need in needs), "begun too early"
with open(folder / "order", "a") as order:
    order.write(name + " ")
if action == "fails":
    sys.exit("this is why")
if action == "waits":
    (folder / "new").write_text(str(os.getpid()))
    (folder / "new").rename(folder / "waiting")
    time.sleep(60)
(folder / name).touch()
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "work.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def make(name: str, *needs: str, action: str = "works") -> Job:
        arguments = ("work", str(tmp_path), name, action, *needs)
        return Job(name, arguments, needs, tmp_path / name, tmp_path / "logs" / f"{name}.txt")

    return make


def order(folder: Path) -> list[str]:
    return (folder / "order").read_text().split()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_every_job_runs_once_after_those_it_needs(job, tmp_path, workers):
    jobs = [job("last", "left", "right"), job("left", "first"), job("right", "first"), job("first")]
    said: list[str] = []
    run_jobs(jobs, workers, said.append)
    assert order(tmp_path)[0] == "first"
    assert order(tmp_path)[-1] == "last"
    assert sorted(order(tmp_path)) == ["first", "last", "left", "right"]
    assert sum(line.startswith("done:") for line in said) == 4

    (tmp_path / "last").unlink()
    run_jobs(jobs, workers, said.append)
    assert order(tmp_path)[4:] == ["last"]
    assert "already there: left, right, first" in said


def test_a_job_that_fails_says_why_and_stops_the_others(job, tmp_path):
    jobs = [job("slow", action="waits"), job("bad", action="fails"), job("after", "bad")]
    began = time.monotonic()
    with pytest.raises(TrainingError, match=r"bad failed: this is why; all of it is in .*bad\.txt"):
        run_jobs(jobs, 2, lambda line: None)
    assert time.monotonic() - began < 30
    assert "after" not in order(tmp_path)


def test_a_job_that_leaves_nothing_has_failed(job, tmp_path):
    missing = job("one")
    with pytest.raises(TrainingError, match="one failed: it said nothing"):
        run_jobs([Job("one", missing.arguments, (), tmp_path / "other", missing.log)], 1, lambda line: None)


NUMBERS = {
    signal.SIGINT: 1,
    signal.SIGTERM: 1,
    signal.SIGHUP: 2,  # of the shell and, again, of the kernel
    signal.SIGKILL: 1,  # on Linux alone
}


@pytest.mark.usefixtures("hangups")
@pytest.mark.parametrize("number", [n for n in NUMBERS if n != signal.SIGKILL or sys.platform == "linux"])
def test_jobs_end_with_what_runs_them(job, tmp_path, number):
    code = (
        "import sys, pathlib\nfrom seedtok.mini.reproduction.jobs import Job, run_jobs\n"
        "from seedtok.core.processes import terminate_like_interrupt\nterminate_like_interrupt()\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "job = Job('slow', ('work', str(folder), 'slow', 'waits'), (), folder / 'slow', folder / 'log')\n"
        "run_jobs([job], 1, print)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ)
    wait_for((tmp_path / "waiting").exists)
    child = int((tmp_path / "waiting").read_text())
    for _ in range(NUMBERS[number]):
        process.send_signal(number)
    assert process.wait(30) != 0
    wait_for(lambda: not is_running(child))
    assert not (tmp_path / "slow").exists()


def wait_for(is_so: Callable[[], object]) -> None:
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.05)
    pytest.fail("it does not come")


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_another_process_still_writes_is_waited_for(job, tmp_path):
    holds = (
        "import pathlib, time\nfrom seedtok.core.locks import locked\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "with locked(folder / 'run'):\n"
        "    (folder / 'held').touch()\n"
        "    while not (folder / 'waits').exists(): time.sleep(0.05)\n"
        "    (folder / 'run' / 'checkpoints' / '00000003').mkdir(parents=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", holds], env=os.environ)
    wait_for((tmp_path / "held").exists)
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("waits: one: "):
            (tmp_path / "waits").touch()

    one = replace(job("one"), run=tmp_path / "run")
    assert "--resume" not in one.command()
    run_jobs([one], 1, say)
    assert [line.partition(":")[0] for line in said] == ["waits", "begins", "done"]
    assert f"process {process.pid} " in said[0]
    assert "--resume" in one.command(), "the other has left a checkpoint meanwhile"
    process.wait(30)


def test_scores_of_another_model_are_measured_again(job, tmp_path):
    def write(seed: int) -> None:
        (folder := result(tmp_path, "model")).mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"seed": seed}))

    scores, predictions = tmp_path / "scores.json", tmp_path / "predictions"
    measuring = replace(job("measuring"), makes=scores, models=(("model", result(tmp_path, "model")),))
    write(1)
    of = identities(tmp_path, ["model"])
    scores.write_text(json.dumps({NAME: of}))
    (predictions / "below").mkdir(parents=True)
    (predictions / "below" / "settings.json").write_text(json.dumps({MADE_BY: of}))
    assert measuring.is_done
    remove_others(predictions, of)
    assert predictions.exists()
    write(2)
    assert not measuring.is_done
    remove_others(predictions, identities(tmp_path, ["model"]))
    assert not predictions.exists()
    scores.write_text("{}")  # of an earlier version
    assert measuring.is_done
    scores.write_text(json.dumps({NAME: of}))
    (result(tmp_path, "model") / "config.json").unlink()  # the run was removed once it was measured
    assert measuring.is_done


@pytest.mark.parametrize("seed", [1, 2])
def test_what_stands_on_a_model_that_is_trained_again_is_measured_again_if_that_is_another(job, tmp_path, seed):
    (folder := result(tmp_path, "model")).mkdir(parents=True)
    (folder / "config.json").write_text('{"seed": 1}')
    (tmp_path / "scores.json").write_text(json.dumps({NAME: identities(tmp_path, ["model"])}))
    (folder / "config.json").unlink()
    code = (
        f"import pathlib\npathlib.Path({str(folder / 'config.json')!r}).write_text('{{\"seed\": {seed}}}')\n"
        f"pathlib.Path({str(tmp_path / 'trained')!r}).touch()\n"
    )
    (tmp_path / "training.py").write_text(code)
    trained = Job("model", ("training",), (), folder, tmp_path / "logs" / "model.txt")
    (tmp_path / "measuring.py").write_text(
        f"import pathlib\nassert not pathlib.Path({str(tmp_path / 'scores.json')!r}).exists()\n"
        f"pathlib.Path({str(tmp_path / 'scores.json')!r}).write_text('{{}}')\n"
    )
    measuring = Job(
        "scores", ("measuring",), ("model", "gone"), tmp_path / "scores.json", tmp_path / "logs" / "scores.txt",
        models=(("model", folder),),
    )  # fmt: skip
    assert measuring.is_done
    said: list[str] = []
    run_jobs([measuring, trained], 2, said.append)
    assert ("already there: scores" in said) == (seed == 1)
    assert ((tmp_path / "scores.json").read_text() == "{}") == (seed == 2)
