"""Gathering features over ranks, with gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather_with_gradient(features: Tensor) -> Tensor:
    """(B, ...) on every rank -> (B * ranks, ...), rank 0 first; gradients flow back to every rank.

    With the mean over ranks that data-parallel training takes, a loss of local rows against all columns then has the
    gradient of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    gathered = _Gather.apply(features)
    assert isinstance(gathered, Tensor)
    return gathered


def first_row(features: Tensor) -> int:
    """Where this rank's rows begin in what `gather_with_gradient` returns."""
    return dist.get_rank() * len(features) if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """In place of torch.distributed.nn's all_gather: over gloo, that one's backward scrambles a transposed gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        features = features.contiguous()
        parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, features)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]
