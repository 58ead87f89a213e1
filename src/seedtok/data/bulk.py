"""Shards encoded by several processes: what one of them does with a shard, and what came of all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from seedtok.data.codes import TokenizeReport, tokenize_shards
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits

UNLIMITED = SkipLimits(at_least=1 << 62)  # in a process: bad samples are counted where all of them are known


class Encoder(Protocol):
    """Images -> codes (B, 32), the id of their codebook, and how many images were far from those of training."""

    codebook_id: str
    far: int

    def __call__(self, images: list[Image.Image]) -> np.ndarray: ...


def tokenize_shard(shard: Path, out: Path, encoder: Encoder, batch_size: int, overwrite: bool) -> TokenizeReport:
    """As `tokenize_shards`, of one shard, with any number of bad samples, which are not warned about."""
    before = encoder.far
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = tokenize_shards(shard, out, encoder, encoder.codebook_id, batch_size, None, overwrite, UNLIMITED)
    return replace(report, far=encoder.far - before)


def gather(
    samples: ShardSamples, plan: Sequence[tuple[Path, Path, int | None]], reports: Iterable[TokenizeReport],
    progress: Callable[[int], object] | None = None,
) -> TokenizeReport:  # fmt: skip
    """Adds up the reports of single shards, as they come, to what `plan_shards` found complete.

    Raises DataError where all of them together skipped too many samples.
    """
    kept = tuple(target for _, target, count in plan if count is not None)
    for shard, target, count in plan:
        if count is not None:
            samples.skipped.add_listed(shard, target)
    images, far, written = sum(count for _, _, count in plan if count is not None), 0, list[Path]()
    for report in reports:
        for shard, key, reason in report.skipped:
            if key:  # those that are missing at the end of a shard are counted already
                samples.skipped.add(Path(shard), key, reason)
        written += report.written
        images, far = images + report.images, far + report.far
        if progress:
            progress(images)
    return TokenizeReport(tuple(sorted(written)), kept, images, tuple(samples.skipped.reasons), far)
