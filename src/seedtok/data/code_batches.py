"""Batches of codes that were computed before, by `seedtok tokenize`."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seedtok.core.errors import DataError
from seedtok.core.notices import warn
from seedtok.data.batches import ALL_SAMPLES, Batch, Stride, even_batches, worded
from seedtok.data.codes import Codes, read_codes
from seedtok.data.held_out import Part
from seedtok.data.samples import drawn_caption


def code_batches(
    source: Path,
    batch_size: int,
    stride: Stride = ALL_SAMPLES,
    *,
    seed: int = 0,
    shuffle: bool = True,
    part: Part | None = None,
) -> Iterator[Batch]:
    """Endless batches of what `seedtok tokenize` wrote: codes and captions, with pixels (B, 3, 0, 0).

    Every epoch has its own order, and draws one of the captions of an image that has several. With a `part`, only its
    samples occur. Raises DataError as `read_codes` does.
    """
    stored = read_codes(source)
    rows = _rows_of(stored, source, part)
    return _batches(stored, rows, batch_size, seed if shuffle else None, stride)


def code_batches_once(
    source: Path, batch_size: int, count: int, stride: Stride = ALL_SAMPLES, *, part: Part | None = None
) -> Iterator[Batch]:
    """At most `count` batches, in which no sample comes twice; as many and as large on every rank.

    Raises DataError as `read_codes` and `even_batches` do.
    """
    stored = read_codes(source)
    rows = _rows_of(stored, source, part)
    count, batch_size = even_batches(len(rows), batch_size, count, stride.world_size)
    return islice(_batches(stored, rows, batch_size, None, stride), count)


def _rows_of(stored: Codes, source: Path, part: Part | None) -> np.ndarray:
    """The rows of the codes that are of a part, (n,) int32, without those that have no caption, which are warned of.

    Raises DataError where there are none.
    """
    lacking = stored.captions.are_empty()
    if (count := int(lacking.sum())) == len(stored):
        raise DataError(f"{source}: none of its {count:,} images has a caption, which training needs")
    if count:
        warn(f"{source}: {count:,} of {len(stored):,} images have no caption, and are left out of training")
    if part is None:
        return np.flatnonzero(~lacking).astype(np.int32)
    rows = part.of_samples(stored.metadata, len(stored)).astype(np.int32)
    rows = rows[~lacking[rows]]
    if not len(rows):
        raise part.nothing_left(source, len(stored))
    return rows


def _batches(stored: Codes, rows: np.ndarray, batch_size: int, seed: int | None, stride: Stride) -> Iterator[Batch]:
    """Endless batches of some rows, in the order of each epoch that `seed` gives; None: in their own order."""
    count, epoch, order, index = len(rows), -1, rows, stride.first
    while True:
        chosen, captions, metadata = list[int](), list[str](), list[dict[str, Any]]()
        for _ in range(batch_size):
            if index // count != epoch and seed is not None:
                epoch = index // count
                order = rows.copy()
                np.random.default_rng([11, seed, epoch]).shuffle(order)
            row = int(order[index % count])
            known = stored.metadata[row]
            drawn = None if seed is None else drawn_caption(known, [12, seed, epoch, row])
            chosen.append(row)
            captions.append(stored.captions[row] if drawn is None else drawn)
            metadata.append(known)
            index += stride.world_size
        pixels = torch.zeros(batch_size, 3, 0, 0, dtype=torch.uint8)
        codes = torch.from_numpy(stored.codes[chosen].astype(np.int64))
        batch = worded(pixels, captions, metadata)
        yield replace(batch, codes=codes, codes_of=stored.tokenizer, encoder=stored.encoder)
