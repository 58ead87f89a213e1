"""Gathering features over ranks, with gradient."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather_with_gradient(features: Tensor) -> Tensor:
    """(B, ...) on every rank -> (B * ranks, ...), rank 0 first; gradients flow back to every rank.

    With the mean over ranks that data-parallel training takes, a loss of local rows against all columns then has the
    gradient of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    return torch.cat(all_gather(features.contiguous()))


def first_row(features: Tensor) -> int:
    """Where this rank's rows begin in what `gather_with_gradient` returns."""
    return dist.get_rank() * len(features) if dist.is_available() and dist.is_initialized() else 0
