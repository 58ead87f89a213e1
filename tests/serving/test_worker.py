"""The queue: what waits runs together, and what nobody wants does not run."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pytest
import torch

from seedtok.core.errors import InputError
from seedtok.lm.seed_lm import SeedLM
from seedtok.serving.engine import Engine, Interrupted
from seedtok.serving.errors import ApiError
from seedtok.serving.metrics import Metrics
from seedtok.serving.tasks import Draw, Outcome, Task
from seedtok.serving.worker import Job, Worker


@dataclass(frozen=True, eq=False)
class Note(Task):
    """Writes its number down. Some are wrong, and one waits until it is told to go on."""

    number: int = 0
    kind: str = "plain"
    size: int = 1
    gate: threading.Event | None = None
    ran: ClassVar[list[list[int]]] = []

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.kind == "other",)

    @property
    def weight(self) -> int:
        return self.size

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        cls.ran.append([task.number for task in tasks])
        kinds = {task.kind for task in tasks}
        for task in tasks:
            if task.gate is not None:
                assert task.gate.wait(10)
        if "wrong" in kinds:
            raise InputError("wrong")
        if "bug" in kinds:
            raise KeyError("a bug")
        if len(tasks) > 2 and "large" in kinds:
            raise torch.OutOfMemoryError("large")
        return [Outcome((str(task.number),)) for task in tasks]


@pytest.fixture
def engine(lm: SeedLM) -> Engine:
    return Engine(lm, batch=4)


@pytest.fixture
def worker(engine: Engine) -> Iterator[Worker]:
    Note.ran.clear()
    worker = Worker(engine, 12, Metrics())
    worker.start()
    yield worker
    worker.close()


@pytest.fixture
def busy(worker: Worker) -> Callable[[], None]:
    """Keeps the worker busy; what it returns lets it go on."""
    gate = threading.Event()
    worker.submit([Note(gate=gate)])
    while Note.ran != [[0]]:
        time.sleep(0.001)
    return gate.set


def texts(jobs: Sequence[Job]) -> list[str]:
    return [job.future.result(10).text for job in jobs]


def test_what_waits_runs_together_in_full_batches(worker: Worker, busy: Callable):
    jobs = [job for number in range(1, 11) for job in worker.submit([Note(number)])]
    busy()
    assert texts(jobs) == [str(number) for number in range(1, 11)]
    assert Note.ran == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_a_batch_waits_for_as_many_as_there_were_before(
    worker: Worker, busy: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("seedtok.serving.worker.COMPANY", 1e9)
    monkeypatch.setattr("seedtok.serving.worker.LONGEST", 5)
    jobs = worker.submit([Note(1), Note(2), Note(3)])
    busy()
    texts(jobs)
    later = []
    for number in (4, 5, 6):
        later += worker.submit([Note(number)])
        time.sleep(0.05)
    assert texts(later) == ["4", "5", "6"]
    assert Note.ran == [[0], [1, 2, 3], [4, 5, 6]]


def test_those_who_waited_meanwhile_wait_for_those_who_were_served(
    worker: Worker, busy: Callable, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("seedtok.serving.worker.COMPANY", 1e9)
    monkeypatch.setattr("seedtok.serving.worker.LONGEST", 5)
    gate = threading.Event()
    served = worker.submit([Note(1, gate=gate), Note(2)])
    busy()
    while Note.ran[-1] != [1, 2]:
        time.sleep(0.001)
    waited = worker.submit([Note(3), Note(4)])
    gate.set()
    texts(served)
    time.sleep(0.1)
    again = worker.submit([Note(5), Note(6)])
    assert texts([*waited, *again]) == ["3", "4", "5", "6"]
    assert Note.ran == [[0], [1, 2], [3, 4, 5, 6]]


def test_groups_run_apart_the_oldest_first(worker: Worker, busy: Callable):
    kinds = ["plain", "other", "plain", "other", "plain"]
    jobs = worker.submit([Note(number, kind) for number, kind in enumerate(kinds, 1)])
    busy()
    texts(jobs)
    assert Note.ran == [[0], [1, 3, 5], [2, 4]]


def test_a_task_of_several_pictures_fills_the_batch(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(1, size=3), Note(2, size=3), Note(3), Note(4, size=5)])
    busy()
    texts(jobs)
    assert Note.ran == [[0], [1, 3], [2], [4]]


def test_a_full_queue_takes_nothing_more(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(number) for number in range(1, 11)])
    with pytest.raises(ApiError, match="queue is full") as refused:
        worker.submit([Note(11), Note(12), Note(13)])
    assert refused.value.status == 429
    jobs += worker.submit([Note(11), Note(12)])
    busy()
    assert len(texts(jobs)) == 12


def test_one_that_is_wrong_spoils_no_other(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(1), Note(2, "wrong"), Note(3), Note(4)])
    busy()
    assert texts([jobs[0], *jobs[2:]]) == ["1", "3", "4"]
    with pytest.raises(InputError):
        jobs[1].future.result(10)


def test_where_memory_is_short_batches_are_halved(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(number, "large") for number in range(1, 5)])
    busy()
    assert texts(jobs) == ["1", "2", "3", "4"]
    assert Note.ran[1:] == [[1, 2, 3, 4], [1, 2], [3, 4]]


def test_a_bug_fails_its_batch_alone(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(1, "bug"), Note(2, "other")])
    busy()
    with pytest.raises(KeyError):
        jobs[0].future.result(10)
    assert texts(jobs[1:]) == ["2"]
    assert worker.is_alive


def test_what_is_abandoned_while_it_waits_does_not_run(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(number) for number in range(1, 4)])
    worker.abandon(jobs[1:2])
    busy()
    assert texts([jobs[0], jobs[2]]) == ["1", "3"]
    assert Note.ran == [[0], [1, 3]]
    with pytest.raises(CancelledError):
        jobs[1].future.result(10)
    worker.abandon(jobs)  # those that are done stay so
    assert texts(jobs[:1]) == ["1"]


def test_what_runs_stops_once_nobody_wants_it(engine: Engine, worker: Worker, lm: SeedLM):
    started = threading.Event()

    def slowly() -> None:
        started.set()
        time.sleep(0.01)

    lm.joint.before_states.insert(0, slowly)
    wanted, unwanted = worker.submit([Draw("a fox", 0), Draw("a cake", 0)])
    assert started.wait(10)
    worker.abandon([unwanted])
    assert len(wanted.future.result(30).pictures) == 1  # the other one ran on with it
    jobs = worker.submit([Draw("a fox", 0), Draw("a cake", 0)])
    started.clear()
    assert started.wait(10)
    worker.abandon(jobs)
    for job in jobs:
        with pytest.raises(Interrupted):
            job.future.result(10)
    lm.joint.before_states.remove(slowly)
    assert len(worker.submit([Draw("a fox", 0)])[0].future.result(30).pictures) == 1


def test_closing_finishes_the_queue_and_takes_nothing_more(worker: Worker, busy: Callable):
    jobs = worker.submit([Note(1)])
    busy()
    worker.close()
    assert texts(jobs) == ["1"]
    assert not worker.is_alive
    with pytest.raises(ApiError, match="stopping"):
        worker.submit([Note(2)])
