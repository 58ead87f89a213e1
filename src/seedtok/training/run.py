"""A run in progress: its configuration, which never changes, and all that training changes."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from seedtok.data.batches import Batch, Stride
from seedtok.training.config import RunConfig
from seedtok.training.ema import Ema
from seedtok.training.stage import Stage


@dataclass
class Run:
    config: RunConfig
    out: Path
    accelerator: Accelerator
    held_out: list[Batch]  # what this rank validates on
    stage: Stage
    model: nn.Module  # the stage as accelerate wraps it, so that ranks average their gradients
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    sharded: bool = False  # whether each of several ranks holds a part of every parameter
    first_step: int = 0
    first_sample: int = 0  # samples that all ranks together had seen before the first step
    left_out: int = 0  # the last steps in a row whose gradients fp16 could not represent
    changes: list[str] = field(default_factory=list)  # settings that differ from those the run began with

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes."""
        return self.accelerator.is_main_process

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def world_size(self) -> int:
        return self.accelerator.num_processes

    @property
    def samples_per_step(self) -> int:
        """Over all ranks and micro-batches."""
        optimization = self.config.optimization
        return optimization.batch_size * optimization.accumulate * self.world_size

    def batches(self) -> Iterator[Batch]:
        """This rank's training data, from the first step on."""
        stride = Stride(self.first_sample, self.rank, self.world_size)
        return self.config.data.batches(
            self.config.optimization.batch_size, self.config.seed, stride, self.out / "skipped.jsonl"
        )

    def averaged(self) -> AbstractContextManager[None]:
        """A context in which the stage has the moving average of its parameters, if the run keeps one."""
        return self.ema.applied() if self.ema else nullcontext()
