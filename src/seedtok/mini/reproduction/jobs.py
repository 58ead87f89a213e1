"""Commands that need one another's results, run several at once; what is done stays done."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seedtok.core.errors import TrainingError
from seedtok.mini.parts import holds_checkpoint

PATIENCE = 120  # seconds in which a job that is asked to stop saves what it has


@dataclass(frozen=True)
class Job:
    """A command of this package, whose output goes to `log`; done once `makes`, a file or a checkpoint, is there."""

    name: str
    arguments: tuple[str, ...]  # of `python -m`
    needs: tuple[str, ...]  # names of jobs
    makes: Path
    log: Path

    @property
    def is_done(self) -> bool:
        return self.makes.is_file() or holds_checkpoint(self.makes)


Report = Callable[[str], None]


def run_jobs(jobs: Sequence[Job], workers: int, say: Report) -> None:
    """Runs all jobs that are not done, each after those it needs, up to `workers` at a time.

    Each has one thread, but for those that all others wait for, which have as many as `workers`.
    `say` gets a line whenever a job begins or ends. Raises TrainingError, once the others have stopped, where a job
    fails. When interrupted, the jobs are asked to stop, and save what they have.
    """
    done = {job.name for job in jobs if job.is_done}
    waiting = [job for job in jobs if job.name not in done]
    if done:
        say(f"already there: {', '.join(job.name for job in jobs if job.name in done)}")
    running: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    with _stopped_at_the_end(running):
        while waiting or running:
            ready = [job for job in waiting if done.issuperset(job.needs)]
            threads = workers if len(ready) == 1 and not running else 1
            for job in ready[: workers - len(running)]:
                waiting.remove(job)
                running[job] = _start(job, threads), time.monotonic()
                say(f"begins: {job.name} (log: {job.log})")
            for job, (process, began) in list(running.items()):
                if process.poll() is None:
                    continue
                del running[job]
                if process.returncode or not job.is_done:
                    raise TrainingError(f"{job.name} failed: {_last_line(job.log)}; all of it is in {job.log}")
                done.add(job.name)
                say(f"done: {job.name}, {_minutes(time.monotonic() - began)} ({len(done)} of {len(jobs)})")
            time.sleep(0.2)


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with job.log.open("ab") as log:
        command = [sys.executable, "-m", *job.arguments]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,  # so that Ctrl-C reaches it once, by way of us: twice would lose its steps
        )  # fmt: skip


@contextmanager
def _stopped_at_the_end(running: dict[Job, tuple[subprocess.Popen[bytes], float]]) -> Iterator[None]:
    """Asks jobs that still run at the end of the block, for whatever reason, to stop, and waits for them."""
    try:
        yield
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
