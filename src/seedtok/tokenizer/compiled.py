"""A network compiled for batches of one size, which others are cut or filled up to."""

import os
import shutil
from collections.abc import Callable

import torch
from torch import Tensor


class Compiled:
    """A function of batches, compiled by TorchInductor with its weights as constants: they must not change after.

    Compiling happens at the first call, and takes from half a minute on. Raises RuntimeError where there is no C++
    compiler, which a CPU needs.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], batch_size: int, device: torch.device) -> None:
        compiler = os.environ.get("CXX", "g++")
        if device.type == "cpu" and shutil.which(compiler) is None:
            raise RuntimeError(f"compiling needs a C++ compiler, and there is no {compiler}; set CXX to one")
        self.batch_size = batch_size
        self._function = torch.compile(function, dynamic=False, options={"freezing": True})

    def __call__(self, batch: Tensor) -> Tensor:
        parts = []
        for part in batch.split(self.batch_size):
            missing = self.batch_size - len(part)
            filled = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])]) if missing else part
            parts.append(self._function(filled)[: len(part)])
        return torch.cat(parts)
