"""The processor cores that are free for a run."""

import os

import pytest

from seedtok.core import processes
from seedtok.core.processes import spare_cores


@pytest.mark.parametrize(("cores", "load", "spare"), [(2, 0.1, 2), (2, 1.1, 1), (2, 9.0, 1), (8, 3.4, 5), (1, 0.0, 1)])
def test_threads_are_the_cores_that_others_leave(monkeypatch, cores, load, spare):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(processes, "_others_running", lambda: load)
    assert spare_cores() == spare
