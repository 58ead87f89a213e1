"""Jobs run in the order of their needs, are not run again, and are stopped together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seedtok.core.errors import TrainingError
from seedtok.mini.reproduction.jobs import Job, run_jobs

SCRIPT = """
import pathlib, sys, time
folder, name, action, *needs = sys.argv[1:]
folder = pathlib.Path(folder)
assert all((folder / need).exists() for need in needs), "begun too early"
with open(folder / "order", "a") as order:
    order.write(name + " ")
if action == "fails":
    sys.exit("this is why")
if action == "waits":
    (folder / "waiting").touch()
    time.sleep(60)
(folder / name).touch()
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    (tmp_path / "work.py").write_text(SCRIPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

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


def test_an_interrupt_stops_the_jobs_too(job, tmp_path):
    code = (
        "import sys, pathlib\nfrom seedtok.mini.reproduction.jobs import Job, run_jobs\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "job = Job('slow', ('work', str(folder), 'slow', 'waits'), (), folder / 'slow', folder / 'log')\n"
        "run_jobs([job], 1, print)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, env=os.environ)
    for _ in range(600):
        if (tmp_path / "waiting").exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert not (tmp_path / "slow").exists()
