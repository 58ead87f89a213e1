"""Shards encoded by several processes: what one of them does with a shard, and what came of all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from seedtok.core.images import Square
from seedtok.data.codes import TokenizeReport, leave_without_codes, tokenize_shards
from seedtok.data.origins import Maker, Plan
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits
from seedtok.data.tars import count_samples, ends_early, lost_samples

UNLIMITED = SkipLimits(at_least=1 << 62)  # in a process: bad samples are counted where all of them are known


class Encoder(Protocol):
    """Images -> codes (B, 32), and how many of them were far from those of training.

    The other attributes are those of a `Maker`; `fingerprint` is its `encoder`.
    """

    codebook_id: str
    fingerprint: str
    dtype: str
    square: Square | None
    threads: int
    far: int

    def __call__(self, images: list[Image.Image]) -> np.ndarray: ...


def maker_of(encoder: Encoder) -> Maker:
    """What the files of an encoder's codes say that they were made with."""
    return Maker(encoder.codebook_id, encoder.fingerprint, encoder.dtype, encoder.square, encoder.threads)


def tokenize_shard(
    shard: Path, out: Path, encoder: Encoder, batch_size: int, overwrite: bool, needs_caption: bool = True
) -> TokenizeReport:
    """As `tokenize_shards`, of one shard, with any number of bad samples, which are not warned about."""
    if not count_samples(shard):  # `ShardSamples` refuses what has nothing to read
        reasons = ((str(shard), "", ends_early(0)),) if lost_samples(shard, 0) else ()
        leave_without_codes(shard, out / f"{shard.stem}.parquet", reasons)
        return TokenizeReport((), (), 0, reasons)
    before = encoder.far
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limits = replace(UNLIMITED, needs_caption=needs_caption)
        report = tokenize_shards(shard, out, encoder, maker_of(encoder), batch_size, None, overwrite, limits)
    return replace(report, far=encoder.far - before)


def gather(
    samples: ShardSamples, plan: Plan, reports: Iterable[TokenizeReport],
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
