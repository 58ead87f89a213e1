"""Several processes that share the work of one evaluation, as `accelerate launch` and torchrun start them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch.distributed as dist

from seedtok.core.device import rank_and_world

PATIENCE = timedelta(days=7)  # one process may have much more to do than another


@dataclass(frozen=True)
class Ranks:
    """This process's number, from 0, and how many there are."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def ranks() -> Iterator[Ranks]:
    """The processes by the launcher's environment variables; they find one another by torch.distributed over gloo."""
    is_ours = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if is_ours:
        dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(*rank_and_world())
    finally:
        if is_ours:
            dist.destroy_process_group()
