"""Float32 matrix products on a CPU in the way that is fastest there, which is measured and not guessed.

Large ones by oneDNN in place of MKL take half the time on some processors. PyTorch computes float32 products on a CPU
by oneDNN where it is allowed to round their inputs to TF32. Processors without that format compute in float32 all the
same; one that has it, or that rounds to bfloat16 instead, would change codes. So both the precision and the speed are
measured, once in a process, before it is used.

Of few rows, such as the drafted codes of a drawing, MKL computes weight @ x.T in two thirds of the time of
x @ weight.T on some; that, too, is measured once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from seedtok.core.shared import SharedContext

EXACT = 2e-6  # the largest relative error of a float32 product
GAIN = 1.2  # how many times as fast it has to be
FEW = range(12, 97)  # rows of a product that `linear_of_few` computes the other way round

Product = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Within the block, float32 products on a CPU are oneDNN's, where these are exact and faster.

    It is a setting of the whole process, so the block should hold large products alone: small ones get slower.
    """
    if device.type != "cpu" or not _is_worthwhile():
        yield
        return
    with by_onednn:
        yield


@SharedContext
@contextmanager
def by_onednn() -> Iterator[None]:
    """Within the block, PyTorch may compute float32 products on a CPU by oneDNN, and in TF32."""
    settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        yield
    finally:
        settings.fp32_precision = before


@cache
def _is_worthwhile() -> bool:
    if not hasattr(torch.backends.mkldnn, "matmul") or not torch.backends.mkldnn.is_available():
        return False

    def other(x: Tensor, weight: Tensor) -> Tensor:
        with by_onednn:
            return F.linear(x, weight)

    return is_exact(other) and gain(other, F.linear) >= GAIN


def linear_of_few(
    x: Float[Tensor, "*b d"], weight: Float[Tensor, "n d"], bias: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "*b n"]:
    """`F.linear` for inference; the result may be stored by columns."""
    rows = x.numel() // x.shape[-1]
    if rows not in FEW or x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != x.dtype:
        return F.linear(x, weight, bias)
    return _turned(x, weight, bias) if _is_turned_faster() else F.linear(x, weight, bias)


def _turned(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    columns = x.reshape(-1, x.shape[-1]).t()
    out = weight @ columns if bias is None else torch.addmm(bias[:, None], weight, columns)
    return out.t().unflatten(0, x.shape[:-1])


@cache
def _is_turned_faster() -> bool:
    return gain(_turned, F.linear, rows=16) >= 1.0


@torch.no_grad()
def is_exact(product: Product) -> bool:
    """Whether a product `x @ weight.T` of float32 matrices is within `EXACT` of that in float64."""
    x, weight = _matrices()
    exact = F.linear(x.double(), weight.double())
    return bool((product(x, weight) - exact).norm() <= EXACT * exact.norm())


@torch.no_grad()
def gain(product: Product, other: Product, rounds: int = 5, rows: int = 512) -> float:
    """How many times as fast as `other` a product is, as `times_as_fast` measures it."""
    x, weight = _matrices(rows)
    return times_as_fast(lambda: product(x, weight), lambda: other(x, weight), rounds)


def times_as_fast(run: Callable[[], object], other: Callable[[], object], rounds: int = 5) -> float:
    """How many times as fast as `other` a run is, in CPU time; of each, the fastest of several rounds counts."""
    seconds: dict[Callable[[], object], list[float]] = {run: [], other: []}
    for _ in range(rounds):
        for measured, spent in seconds.items():
            began = time.process_time()
            measured()
            spent.append(time.process_time() - began)
    return min(seconds[other]) / min(seconds[run])


def _matrices(rows: int = 512) -> tuple[Tensor, Tensor]:
    options: Any = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
    return torch.randn(rows, 768, **options), torch.randn(768, 768, **options)
