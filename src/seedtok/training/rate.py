"""How long a run's steps take on this machine, measured before it is begun."""

import tempfile
import time
from pathlib import Path

from seedtok.training.config import RunConfig
from seedtok.training.setup import set_up
from seedtok.training.step import take_step


def seconds_per_step(config: RunConfig, steps: int = 4) -> float:
    """The mean time of `steps` steps after a first one, of a run that is thrown away; raises as `train` does."""
    with tempfile.TemporaryDirectory() as scratch:
        run = set_up(config, Path(scratch), resume=False)
        run.stage.train()
        data = run.batches()
        take_step(run, data, 0)
        began = time.monotonic()
        for step in range(1, 1 + steps):
            take_step(run, data, step)
        took = (time.monotonic() - began) / steps
        run.model = run.stage  # as at the end of a run: see `saving.export`
        run.accelerator.free_memory()
        run.accelerator.end_training()
    return took
