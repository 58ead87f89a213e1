"""Samples as token ids -> packed rows with masks. Pure ids: nothing here knows a model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heapreplace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seedtok.core.notices import warn
from seedtok.lm.opt import added_to_scores

Sample = tuple[list[int], list[bool]]  # the ids of a sequence, and which of them are targets of the loss


class Packed(NamedTuple):
    """Rows that hold several sequences each.

    `segments` numbers the sequences of a row from 1; 0 is padding. `predicted` holds the row and column of every id
    that is a target of the loss; the first id of a sequence never is.
    """

    ids: Int[Tensor, "b t"]
    segments: Int[Tensor, "b t"]
    predicted: Int[Tensor, "2 n"]

    def to(self, device: torch.device) -> Packed:
        return Packed(*(tensor.to(device) for tensor in self))

    @property
    def targets(self) -> Int[Tensor, " n"]:
        """The ids to predict."""
        return self.ids[self.predicted[0], self.predicted[1]]

    def predicting(self, states: Float[Tensor, "b t h"]) -> Float[Tensor, "n h"]:
        """The states that predict the targets: those one position before them."""
        return states[self.predicted[0], self.predicted[1] - 1]

    @property
    def padding(self) -> Float[Tensor, ""]:
        """The fraction of positions that are padding."""
        return (self.segments == 0).float().mean()


def beginning(sample: Sample, length: int) -> Sample:
    """The first `length` ids of a sequence, for one that may be cut, as a text without an image may."""
    ids, targets = sample
    return ids[:length], targets[:length]


def pack(samples: Sequence[Sample], length: int, pad: int = 0) -> Packed:
    """Packs sequences into rows of at most `length` ids.

    Uses as few rows as will do, fills them evenly and trims them to the longest. Sequences longer than a row are cut,
    with a SeedTokWarning.
    """
    if any(len(ids) > length for ids, _ in samples):
        warn(f"samples that are longer than a row, of {length} ids, are cut")
    cut = sorted((beginning(sample, length) for sample in samples), key=lambda sample: -len(sample[0]))
    lengths = [len(ids) for ids, _ in cut]
    least = max(1, -(-sum(lengths) // length))
    counts = range(least, max(least, len(cut)))  # of more rows the longest is never longer; one for each sample will do
    count = least + bisect_left(counts, True, key=lambda n: _distribute(lengths, n)[1] <= length)
    rows: list[list[Sample]] = [[] for _ in range(count)]
    for sample, row in zip(cut, _distribute(lengths, count)[0], strict=True):
        rows[row].append(sample)
    targets = _pad([[x and i > 0 for _, wanted in row for i, x in enumerate(wanted)] for row in rows], 0).bool()
    return Packed(
        _pad([[i for ids, _ in row for i in ids] for row in rows], pad),
        _pad([[number for number, (ids, _) in enumerate(row, 1) for _ in ids] for row in rows], 0),
        targets.nonzero().T.contiguous(),
    )


def _distribute(lengths: Sequence[int], count: int) -> tuple[list[int], int]:
    """Puts samples of these lengths, the longest first, each into the emptiest of `count` rows, the first of equals.

    Gives the row of each, and the length of the longest row.
    """
    filled, chosen = [(0, row) for row in range(count)], list[int]()
    for length in lengths:
        total, row = filled[0]
        heapreplace(filled, (total + length, row))
        chosen.append(row)
    return chosen, max(filled)[0]


def _pad(values: list[list[int]], fill: int) -> Int[Tensor, "b t"]:
    return pad_sequence([torch.tensor(row, dtype=torch.long) for row in values], batch_first=True, padding_value=fill)


def block_causal_mask(
    segments: Int[Tensor, "b t"], dtype: torch.dtype | None = None
) -> tuple[Bool[Tensor, "b 1 t t"] | Float[Tensor, "b 1 t t"], Int[Tensor, "b t"]]:
    """Attention mask and position ids of packed rows: each sequence attends to itself alone, causally, from position 0.

    Padding, segment 0, attends to padding, so that no row of the mask is empty. The mask is boolean, true where a
    position is visible; `JointLM` and attention of torch ("sdpa") take such a one. With a `dtype`, the model's, it is
    what is added to the scores: 0 where visible, the lowest number elsewhere. Models of transformers with "eager"
    attention need that: they add a boolean mask as ones and zeros, and sequences then see each other.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    index = torch.arange(length, device=segments.device).expand_as(segments)
    start = torch.where(first, index, 0).cummax(dim=1).values
    visible = (same & causal)[:, None]
    return visible if dtype is None else added_to_scores(visible, dtype), index - start


def left_pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Int[Tensor, "b t"], Int[Tensor, "b t"]]:
    """Rows of ids, padded with 0 on the left, and their attention mask of ones and zeros."""
    flipped = [torch.tensor(list(row)[::-1], dtype=torch.long) for row in rows]
    ids = pad_sequence(flipped, batch_first=True).flip(1)
    mask = pad_sequence([torch.ones_like(row) for row in flipped], batch_first=True).flip(1)
    return ids.to(device), mask.to(device)
