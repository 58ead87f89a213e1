"""What the training loop asks of a stage: losses of a batch, and what to validate, draw and keep."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seedtok.core.errors import ConfigError, TrainingError
from seedtok.core.files import check_tensors
from seedtok.core.images import Interpolation
from seedtok.data.batches import Batch
from seedtok.training.distributed import mean_over_ranks

Losses = dict[str, Tensor]
M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Marks a module of a stage as frozen for good: no gradient, and in eval mode when the stage trains."""
    module.requires_grad_(False)
    module.eval()
    module.seedtok_frozen = True  # type: ignore[assignment]
    return module


def full_precision(features: Tensor) -> torch.autocast:
    """A context without autocast: cosines in bfloat16 are too coarse to rank by, or to divide by a temperature."""
    return torch.autocast(features.device.type, enabled=False)


def mean_losses(every: Iterable[Losses]) -> dict[str, float]:
    """The mean of each loss over the batches of all ranks; that of "loss" over the tokens that "count" tells, if any.

    Called on every rank, with the same names. Raises TrainingError where no batch has a token.
    """
    totals: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for losses in every:
        for name, value in losses.items():
            if name != "count":
                weight = losses.get("count", torch.ones(())) if name == "loss" else torch.ones(())
                weight = weight.float().cpu()
                totals[name] = totals.get(name, torch.zeros(())) + value.float().cpu() * weight
                weights[name] = weights.get(name, torch.zeros(())) + weight
    if not totals:
        return {}
    total, weight = mean_over_ranks(totals), mean_over_ranks(weights)
    if not all(weight.values()):
        raise TrainingError("no token of the validation batches is learnt: are rows too short for an image and a text?")
    return {name: total[name] / weight[name] for name in total}


class Stage(nn.Module, ABC):
    """Joins a model and a loss. `forward` returns named losses, of which "loss" is minimised.

    Where "loss" is a mean over tokens, of which batches have more or fewer, `forward` returns their number as "count":
    over a step's micro-batches and ranks, the loop then minimises the mean over all tokens.
    """

    interpolation: Interpolation = "bicubic"  # by which its image encoder takes images stretched to squares

    @abstractmethod
    def forward(self, batch: Batch) -> Losses: ...

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Writes what the stage trained into a folder, in the format its users load."""

    def train(self, mode: bool = True) -> "Stage":
        super().train(mode)
        for module in self.modules():
            if hasattr(module, "seedtok_frozen"):
                module.eval()
        return self

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Casts the frozen modules to `dtype`."""
        for module in self.modules():
            if hasattr(module, "seedtok_frozen") and any(p.dtype != dtype for p in module.parameters()):
                module.to(dtype)

    def check_batch(self, batch: Batch) -> None:
        """Called before the first step with a batch to train on and one to validate on.

        Raises ConfigError or DataError when they do not have what the stage learns from; by default, pictures.
        """
        if not batch.pixels.numel():
            raise ConfigError("this stage learns from pictures, and codes have none: give it shards, not codes")

    def initialize(self, batches: Iterable[Batch]) -> None:
        """Called once, before the first step of a new run: initialisation from training batches."""

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Numbers on held-out batches; by default the mean of each loss.

        Called on every rank with batches of its own, as many and as large as the others'; returns on each the numbers
        of all of them.
        """
        return mean_losses(self(batch) for batch in batches)

    def shares_of_rate(self) -> Mapping[str, float]:
        """What learns at a share of the learning rate, and at which, by how the names of its parameters begin.

        By default nothing. For what was trained before and goes on beside what starts from nothing.
        """
        return {}

    def notices(self) -> list[str]:
        """What is going wrong in training, a line each; asked for whenever the loop logs. By default nothing."""
        return []

    def draw(self, batch: Batch) -> Any:
        """A PIL picture that shows what has been learnt so far, from held-out samples; None for no picture.

        Called on the main rank alone, unless the run is sharded.
        """
        return None

    def own_state(self) -> dict[str, Tensor]:
        """The tensors a checkpoint needs: all but those of frozen modules."""
        frozen = [name + "." for name, module in self.named_modules() if hasattr(module, "seedtok_frozen")]
        return {k: v for k, v in self.state_dict().items() if not k.startswith(tuple(frozen))}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Restores `own_state`, strictly.

        Raises CheckpointError naming the first tensor that is missing, extra or of another shape.
        """
        own = self.own_state()
        check_tensors(own, state, "the checkpoint of this run")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
