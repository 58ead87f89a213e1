"""The tests of training run on one thread: their matrices are tiny."""

from pathlib import Path

import pytest
import torch

from seedtok.training.loop import train
from tiny_runs import TINY, tiny


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder of one run of every recipe, each on the results of the ones before it."""
    out = tmp_path_factory.mktemp("runs")
    for name in TINY:
        train(tiny(name, out), out / name)
    return out
