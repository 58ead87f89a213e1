"""AdamW over what a stage trains."""

from typing import Any

import torch
from torch import nn

from seedtok.training.config import Optimization


def adamw(module: nn.Module, optimization: Optimization) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        decay_groups(module, optimization.weight_decay), lr=optimization.lr, betas=optimization.betas, fused=True
    )


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups in which biases, norms and other 1-D parameters are not decayed."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    plain = [p for n, p in named if p.ndim < 2 or n.endswith("bias")]
    decayed = [p for n, p in named if not (p.ndim < 2 or n.endswith("bias"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
