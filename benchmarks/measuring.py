"""Measuring beside opponents: in one process, in turn and by CPU time, so that other work slows all alike."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping

import torch

HEADER = f"{'what':52s} {'a second':>9s} {'ratio':>6s} {'range':>13s} {'GEMM limit':>10s} {'peak GiB':>8s}"


def in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each run, round by round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def gemm_limit(dtype: torch.dtype, rows: int = 2056, rounds: int = 5) -> float:
    """Operations a CPU second of matrix products alone, of the sizes of a ViT-g's MLP over eight images."""
    a, b = torch.randn(rows, 1408, dtype=dtype), torch.randn(1408, 6144, dtype=dtype)
    return 2 * a.shape[0] * a.shape[1] * b.shape[1] / min(in_turn({"": lambda: a @ b}, rounds)[""])


def row(what: str, count: int, ours: list[float], theirs: list[float], operations: float = 0, limit: float = 0) -> str:
    """A line of the table: the rate, and the median and range, over rounds, of how often the opponent's time ours is.

    `operations` are those of a run, for the share of `limit`.
    """
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    middle = statistics.median(ours)
    share = f"{operations / middle / limit:10.0%}" if limit else " " * 10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    extent = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    return f"{what:52s} {count / middle:9.2f} {statistics.median(ratios):6.2f} {extent:>13s} {share} {peak:8.1f}"
