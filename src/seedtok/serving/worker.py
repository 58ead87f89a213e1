"""One thread that runs the model, and the queue before it: what waits is done together, in full batches."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from seedtok.core.errors import SeedTokError
from seedtok.serving.engine import Engine, Interrupted
from seedtok.serving.errors import ApiError
from seedtok.serving.metrics import Metrics
from seedtok.serving.tasks import Outcome, Task

logger = logging.getLogger(__name__)
GATHERING = 0.005  # seconds between requests of the same moment
COMPANY = 0.05  # of a batch's time: the longest wait for those whom it served, who may ask again
LONGEST = 0.25  # seconds of either wait


@dataclass(eq=False)
class Job:
    """A task on its way through the queue, and the future of its outcome."""

    task: Task
    future: Future[Outcome] = field(default_factory=Future)
    is_unwanted: bool = False


class Worker:
    """Runs tasks in a thread of its own, the oldest first, together with those behind it that fit in its batch.

    `limit` is the number of texts and pictures that may wait; one request that asks for more waits alone.
    """

    def __init__(self, engine: Engine, limit: int, metrics: Metrics):
        self.engine, self.limit, self.metrics = engine, limit, metrics
        self._queue: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._expected, self._last_seconds = 0, 0.0  # after the batch before: who may soon wait; how long it took
        self._thread = threading.Thread(target=self._loop, name="seedtok-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def close(self, seconds: float = 10) -> None:
        """Ends the thread once the queue is empty, or after some time."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self.is_alive:
            self._thread.join(seconds)

    # ------------------------------------------------------------ for the threads that ask

    def submit(self, tasks: Sequence[Task]) -> list[Job]:
        """Puts tasks in the queue, all or none; raises ApiError of status 429 when it is full, 503 when closing."""
        jobs = [Job(task) for task in tasks]
        with self._changed:
            if self._is_closing:
                raise ApiError(503, "the server is stopping", "stopping")
            waiting = self._waiting() + sum(job.task.weight for job in jobs)
            if self._queue and waiting > self.limit:  # more than ever fits is begun when nothing waits
                raise ApiError(429, f"the queue is full: {self.limit} pieces of work wait; try again", "queue_full")
            self._queue.extend(jobs)
            self.metrics.waiting.set(waiting)
            self._changed.notify_all()
        return jobs

    def abandon(self, jobs: Sequence[Job]) -> None:
        """Drops jobs whose outcome nobody wants: those that wait, and those that run once all of their batch are."""
        dropped = [job for job in jobs if not job.future.done()]
        with self._changed:
            for job in dropped:
                job.is_unwanted = True
                job.future.cancel()  # without effect on one that runs
            self._queue = deque(job for job in self._queue if not job.is_unwanted)
            self.metrics.waiting.set(self._waiting())
        self.metrics.cancelled.inc(sum(job.task.weight for job in dropped))

    def _waiting(self) -> int:
        return sum(job.task.weight for job in self._queue)

    # ------------------------------------------------------------ the thread

    def _loop(self) -> None:
        while self._wait():
            self._gather()
            jobs, started = self._next(), time.monotonic()
            self._run(jobs)
            self._last_seconds = time.monotonic() - started
            with self._changed:
                self._expected = min(self._waiting() + sum(job.task.weight for job in jobs), self.engine.batch)

    def _wait(self) -> bool:
        """Returns once there is work, or False when the worker is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._is_closing)
            return bool(self._queue)

    def _gather(self) -> None:
        """Waits for more requests: while they follow each other, and then for those who were served just before.

        Clients that get their pictures together ask for the next ones almost together. Without the wait the first of
        them would be drawn alone, and where others waited meanwhile, the two groups would never be drawn together.
        """
        ends, seen = time.monotonic() + LONGEST, 0
        with self._changed:
            while seen < (waiting := self._waiting()) < self.engine.batch and time.monotonic() < ends:
                seen = waiting
                self._changed.wait_for(lambda seen=seen: self._waiting() > seen or self._is_closing, GATHERING)
            self._changed.wait_for(
                lambda: self._waiting() >= self._expected or self._is_closing,
                min(COMPANY * self._last_seconds, LONGEST),
            )

    def _next(self) -> list[Job]:
        """Takes the oldest job from the queue, and those behind it of its group, as many as run together."""
        with self._changed:
            chosen: list[Job] = []
            room = self.engine.batch * self._queue[0].task.rounds if self._queue else 0
            for job in self._queue:
                is_first, is_alike = not chosen, not chosen or job.task.group == chosen[0].task.group
                if is_first or (is_alike and job.task.weight <= room):
                    room -= job.task.weight
                    chosen.append(job)
            taken = set(chosen)
            self._queue = deque(job for job in self._queue if job not in taken)
            self.metrics.waiting.set(self._waiting())
            return [job for job in chosen if job.future.set_running_or_notify_cancel()]

    def _run(self, jobs: list[Job]) -> None:
        """Does jobs of one group; where one of them is wrong, or memory is short, by halves."""
        jobs = [job for job in jobs if not job.is_unwanted]
        if not jobs:
            return
        kind, started = type(jobs[0].task), time.monotonic()
        try:
            with self.engine.stopped_when(lambda: all(job.is_unwanted for job in jobs)):
                outcomes = kind.run(self.engine, [job.task for job in jobs])
        except Interrupted as error:
            self._fail(jobs, error)
        except (SeedTokError, torch.OutOfMemoryError) as error:
            if len(jobs) == 1:
                self._fail(jobs, error)
                return
            half = len(jobs) // 2
            self._run(jobs[:half])
            self._run(jobs[half:])
        except Exception as error:  # a bug; the next batch may do without it
            self._fail(jobs, error)
        else:
            name = kind.__name__.lower()
            self.metrics.batches.labels(name).observe(len(jobs))
            self.metrics.batch_seconds.labels(name).observe(time.monotonic() - started)
            self.metrics.made.labels(name).inc(sum(job.task.weight for job in jobs))
            for job, outcome in zip(jobs, outcomes, strict=True):
                job.future.set_result(outcome)

    @staticmethod
    def _fail(jobs: Sequence[Job], error: Exception) -> None:
        for job in jobs:
            job.future.set_exception(error)
