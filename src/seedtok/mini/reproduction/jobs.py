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
from seedtok.core.locks import holder_of
from seedtok.core.processes import end_with_parent
from seedtok.mini.identities import is_outdated
from seedtok.mini.parts import holds_checkpoint
from seedtok.training.checkpoints import list_checkpoints

PATIENCE = 120  # seconds in which a job that is asked to stop saves what it has


@dataclass(frozen=True)
class Job:
    """A command of this package, whose output goes to `log`; done once `makes`, a file or a checkpoint, is there.

    `run` is the folder of a training run, which goes on where it has a checkpoint. `models` are the folders of what a
    file of scores is of, by the names that it has for them: it is done while it is of those that are there.
    """

    name: str
    arguments: tuple[str, ...]  # of `python -m`
    needs: tuple[str, ...]  # names of jobs
    makes: Path
    log: Path
    run: Path | None = None
    models: tuple[tuple[str, Path], ...] = ()

    @property
    def is_done(self) -> bool:
        is_there = self.makes.is_file() or holds_checkpoint(self.makes)
        return is_there and not (self.models and is_outdated(self.makes, dict(self.models)))

    def command(self) -> list[str]:
        """The arguments of Python, of a new run or of one that goes on."""
        resume = ["--resume"] if self.run is not None and list_checkpoints(self.run) else []
        return ["-m", *self.arguments, *resume]


Report = Callable[[str], None]


def run_jobs(jobs: Sequence[Job], workers: int, say: Report) -> None:
    """Runs all jobs that are not done, each after those it needs, up to `workers` at a time.

    Each has one thread, but for those that all others wait for, which have as many as `workers`. What is measured of a
    model that is trained now is measured again if that has become another. A job whose run another process still writes
    waits for it. `say` gets a line whenever a job begins or ends. Raises TrainingError, once the others have stopped,
    where a job fails. When interrupted, the jobs are asked to stop, and save what they have; so they are, on Linux,
    where this process is killed.
    """
    left = {job.name for job in jobs if not job.is_done}
    waiting = [job for job in jobs if job.name in left or (job.models and left.intersection(job.needs))]
    done = {job.name for job in jobs} - {job.name for job in waiting}
    if done:
        say(f"already there: {', '.join(job.name for job in jobs if job.name in done)}")
    missing = {need for job in jobs for need in job.needs} - {job.name for job in jobs}
    running: dict[Job, tuple[subprocess.Popen[bytes], float]] = {}
    busy: set[str] = set()  # jobs that wait for another process
    with _stopped_at_the_end(running):
        while waiting or running:
            ready = [job for job in waiting if (done | missing).issuperset(job.needs)]
            threads = workers if len(ready) == 1 and not running else 1
            free = [job for job in ready if not _waits(job, busy, say)]
            for job in free[: workers - len(running)]:
                waiting.remove(job)
                if job.is_done:
                    done.add(job.name)
                    say(f"already there: {job.name}")
                    continue
                running[job] = _start(job, threads), time.monotonic()
                say(f"begins: {job.name} (log: {job.log})")
            for job in _ended(running):
                done.add(job.name)
                say(
                    f"done: {job.name}, {_minutes(time.monotonic() - running.pop(job)[1])} ({len(done)} of {len(jobs)})"
                )
            time.sleep(0.2)


def _waits(job: Job, busy: set[str], say: Report) -> bool:
    """Whether another process writes the run of a job, such as one whose parent was killed; says so once."""
    reason = None if job.run is None else holder_of(job.run)
    if reason is not None and job.name not in busy:
        busy.add(job.name)
        say(f"waits: {job.name}: {reason}")
    return reason is not None


def _ended(running: dict[Job, tuple[subprocess.Popen[bytes], float]]) -> Iterator[Job]:
    """The jobs that have ended; raises TrainingError for one that failed."""
    for job, (process, _) in list(running.items()):
        if process.poll() is None:
            continue
        if process.returncode or not job.is_done:
            del running[job]
            raise TrainingError(f"{job.name} failed: {_last_line(job.log)}; all of it is in {job.log}")
        yield job


def _start(job: Job, threads: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    if job.makes.is_file():
        job.makes.unlink()  # it is outdated
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    with job.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *job.command()], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=environment, preexec_fn=end_with_parent() if os.name == "posix" else None,
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
