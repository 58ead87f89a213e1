"""An exponential moving average (EMA) of the trained parameters, which improves the results of some models."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from seedtok.core.files import check_tensors


class Ema:
    """An exponential moving average of a module's trained parameters, in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().float().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [p.detach().float() for p in self.parameters.values()], 1 - decay)

    def load(self, average: dict[str, Tensor]) -> None:
        """Restores `average`; raises CheckpointError when it is of other parameters."""
        check_tensors(self.average, average, "the checkpoint's moving average")
        for name, value in average.items():
            own = self.average[name]
            if isinstance(own, DTensor):  # of which this rank holds a part
                value = distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
            own.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the module has the averaged parameters."""
        kept = {n: p.detach().clone() for n, p in self.parameters.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(kept[name])
