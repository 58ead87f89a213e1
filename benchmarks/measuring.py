"""Measuring beside opponents: in one process, in turn and by CPU time, so that other work slows all alike."""

import argparse
import json
import resource
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """A line of the table: a value of ours beside an opponent's, and the bar that it has to reach.

    `ratio` is how many times as much ours does in the opponent's time, the median over rounds, and `extent` its lowest
    and highest; where there is no opponent, it is the value itself. `rate` is ours a second of CPU time, `share` that
    of the operations a second that matrix products alone reach in the same process. `peak` is the most memory of the
    process so far, in GiB. A row that could not be measured has a `note` alone.
    """

    name: str
    opponent: str = ""
    ratio: float | None = None
    extent: tuple[float, float] | None = None
    bar: float | None = None
    at_most: bool = False  # the bar is an upper one
    rate: float | None = None
    share: float | None = None
    peak: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """Whether the bar is reached; empty without one."""
        if self.ratio is None or self.bar is None:
            return ""
        return "reached" if (self.ratio <= self.bar if self.at_most else self.ratio >= self.bar) else "missed"

    def line(self) -> str:
        """The row in the columns of `HEADER`, and its note below."""
        extent = "" if self.extent is None else f"{self.extent[0]:.2f} to {self.extent[1]:.2f}"
        bar = "" if self.bar is None else f"{'<=' if self.at_most else '>='} {self.bar:g}"
        share = "" if self.share is None else f"{self.share:.0%}"
        line = (
            f"{self.name:44s} {self.opponent:36s} {_number(self.rate):>9s} {_number(self.ratio):>7s} {extent:>14s} "
            f"{bar:>7s} {self.verdict:>7s} {share:>5s} {_number(self.peak, 1):>8s}"
        ).rstrip()
        return f"{line}\n    {self.note}" if self.note else line


HEADER = (
    f"{'what':44s} {'against':36s} {'a second':>9s} {'ratio':>7s} {'range':>14s} {'bar':>7s} {'':>7s} {'GEMM':>5s} "
    f"{'peak GiB':>8s}"
)


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


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


def gemm(dtype: torch.dtype, rows: int = 2056) -> tuple[Callable[[], object], int]:
    """A matrix product of the sizes of a ViT-g's MLP over eight images, its weight as a layer's, and its operations."""
    x, weight = torch.randn(rows, 1408, dtype=dtype), torch.randn(6144, 1408, dtype=dtype)
    return partial(torch.nn.functional.linear, x, weight), 2 * x.numel() * len(weight)


def gemm_limit(dtype: torch.dtype, rows: int = 2056, rounds: int = 5) -> float:
    """Operations a CPU second of matrix products alone."""
    product, operations = gemm(dtype, rows)
    return operations / min(in_turn({"": product}, rounds)[""])


def compared(
    name: str, opponent: str, count: int, ours: Sequence[float], theirs: Sequence[float], bar: float | None = None,
    share: float | None = None, note: str = "",
) -> Row:  # fmt: skip
    """The row of two runs over `count` images, of which both took these CPU seconds, round by round."""
    ratios = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    rate, peak = count / statistics.median(ours), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    extent = (ratios[0], ratios[-1])
    return Row(name, opponent, statistics.median(ratios), extent, bar, False, rate, share, peak, note)


def report(title: str, rows: Iterable[Row], file: Path | None) -> None:
    """Prints rows as a table, and writes them to a JSON file."""
    rows = list(rows)
    print(f"{title}\n{HEADER}", *(row.line() for row in rows), sep="\n")
    if file is not None:
        file.write_text(json.dumps([asdict(row) | {"verdict": row.verdict} for row in rows], indent=1) + "\n")


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=rounds, help="the median counts")
    parser.add_argument("--json", type=Path, help="also writes the rows to this file")
    return parser
