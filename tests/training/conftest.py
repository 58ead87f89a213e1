"""What the tests of training share: one thread, and a fresh accelerate for every test."""

import pytest
import torch
from accelerate.state import AcceleratorState


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    AcceleratorState._reset_state(True)


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
