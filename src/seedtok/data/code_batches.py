"""Batches of codes that were computed before, by `seedtok tokenize`."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from seedtok.data.batches import Batch, even_batches, worded
from seedtok.data.codes import Codes, read_codes
from seedtok.data.held_out import Part


def code_batches(
    source: Path,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    part: Part | None = None,
) -> Iterator[Batch]:
    """Endless batches of what `seedtok tokenize` wrote: codes and captions, without pixels (B, 3, 0, 0).

    Every epoch has its own order. `start` counts samples over all ranks. Of a `part`, its samples alone. Raises
    DataError as `read_codes` does.
    """
    stored = read_codes(source)
    inside = _inside(stored, source, part)
    return _code_batches(stored, inside, batch_size, seed if shuffle else None, start + rank, world_size)


def code_batches_once(
    source: Path, batch_size: int, count: int, *, rank: int = 0, world_size: int = 1, part: Part | None = None
) -> Iterator[Batch]:
    """As `shard_batches_once`, of codes."""
    stored = read_codes(source)
    inside = _inside(stored, source, part)
    count, batch_size = even_batches(len(inside), batch_size, count, world_size)
    return islice(_code_batches(stored, inside, batch_size, None, rank, world_size), count)


def _inside(stored: Codes, source: Path, part: Part | None) -> np.ndarray:
    """The rows of the codes that are of a part, (n,) int32; raises DataError where there are none."""
    if part is None:
        return np.arange(len(stored), dtype=np.int32)
    inside = part.of_samples(stored.metadata, len(stored)).astype(np.int32)
    if not len(inside):
        raise part.nothing_left(source, len(stored))
    return inside


def _code_batches(
    stored: Codes, inside: np.ndarray, batch_size: int, seed: int | None, index: int, step: int
) -> Iterator[Batch]:
    count, epoch, rows = len(inside), -1, inside
    while True:
        chosen = []
        for _ in range(batch_size):
            if index // count != epoch and seed is not None:
                epoch = index // count
                rows = inside.copy()
                np.random.default_rng([11, seed, epoch]).shuffle(rows)
            chosen.append(int(rows[index % count]))
            index += step
        pixels = torch.zeros(batch_size, 3, 0, 0, dtype=torch.uint8)
        batch = worded(pixels, [stored.captions[i] for i in chosen], [stored.metadata[i] for i in chosen])
        codes = torch.from_numpy(stored.codes[chosen].astype(np.int64))
        yield replace(batch, codes=codes, codes_of=stored.tokenizer)
