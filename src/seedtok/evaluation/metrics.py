"""Metrics as pure functions of tensors."""

import torch
from torch import Tensor


def cosine_similarity_x100(a: Tensor, b: Tensor) -> float:
    """Mean cosine of paired rows, x100 (Table 2): (N, d) twice."""
    return 100 * float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).mean())
