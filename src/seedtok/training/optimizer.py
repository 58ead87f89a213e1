"""AdamW over what a stage trains."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from seedtok.training.config import Optimization
from seedtok.training.stage import Stage

SHARE = "share_of_rate"  # of a parameter group


def adamw(stage: Stage, optimization: Optimization) -> torch.optim.AdamW:
    groups = parameter_groups(stage, optimization.weight_decay, stage.shares_of_rate())
    return torch.optim.AdamW(groups, lr=optimization.lr, betas=optimization.betas, fused=True)


def parameter_groups(
    module: nn.Module, weight_decay: float, shares: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Groups of what is trained. Biases, norms and other 1-D parameters are not decayed.

    Those whose names begin with a key of `shares` have that share of the learning rate, all others the whole.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or name.endswith("bias") else weight_decay
            share = next((value for start, value in (shares or {}).items() if name.startswith(start)), 1.0)
            members[decay, share].append(parameter)
    return [{"params": some, "weight_decay": decay, SHARE: share} for (decay, share), some in members.items()]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of each group to its share of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(SHARE, 1.0)
