"""Sequences of ids that grow on a KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from seedtok.lm.model import JointLM
from seedtok.lm.packing import left_pad


class CachedSequences:
    """A batch of sequences that grow together, with the LM's states at their last ids.

    With `cached`, each forward takes the new ids alone and a KV cache holds the rest, with memory for `room` more
    allocated ahead. Without it, every forward takes the whole sequences, one by one: slow, and right for any LM.
    """

    def __init__(self, model: JointLM, rows: Sequence[Sequence[int]], cached: bool = True, room: int = 64):
        from seedtok.lm.cache import PreallocatedCache  # it imports transformers

        self.model = model
        self.ids, self.mask = left_pad(rows, model.device)
        self.is_padded = not bool(self.mask.all())
        self.cache = PreallocatedCache(model.lm, room) if cached else None
        new = 1 if self.cache is None else self.ids.shape[1]
        self.states: Float[Tensor, "b hidden"] = self._forward(new)[:, -1]

    def append(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "b hidden"]:
        """Appends one id to each row; returns the states at these."""
        return self.extend(ids[:, None])[:, -1]

    def extend(
        self, ids: Int[Tensor, "b t"], is_used: Bool[Tensor, "b t"] | None = None
    ) -> Float[Tensor, "b t hidden"]:
        """Appends ids to each row; returns the states at each of them.

        Where `is_used` is false, a position is masked out. That is for cached sequences.
        """
        used = torch.ones_like(ids) if is_used is None else is_used.to(ids.dtype)
        self.is_padded = self.is_padded or not bool(used.all())
        self.ids = torch.cat([self.ids, ids], dim=1)
        self.mask = torch.cat([self.mask, used], dim=1)
        states = self._forward(ids.shape[1])
        self.states = states[:, -1]
        return states

    def accept(self, counts: Int[Tensor, " b"], new: int) -> None:
        """Of the last `new` ids, keeps the first `counts` of each row; `states` stay those of the last forward.

        What no row keeps is dropped; what some keep is masked out in the others.
        """
        most = int(counts.max())
        self.truncate(new - most)
        self.mask[:, self.mask.shape[1] - most :] *= torch.arange(most, device=counts.device) < counts[:, None]
        self.is_padded = self.is_padded or bool((counts < most).any())

    def truncate(self, count: int) -> None:
        """Drops the last `count` ids of each row; `states` stay those of the last forward."""
        length = self.ids.shape[1] - count
        self.ids, self.mask = self.ids[:, :length], self.mask[:, :length]
        if self.cache is not None:
            self.cache.truncate(length)

    def select_rows(self, rows: Int[Tensor, " b"]) -> None:
        """Replaces the batch by some of its rows, in this order; a row may occur more than once."""
        self.ids, self.mask, self.states = self.ids[rows], self.mask[rows], self.states[rows]
        if self.cache is not None:
            self.cache.select_rows(rows)

    def _forward(self, count: int) -> Float[Tensor, "b t hidden"]:
        """The states at the last `count` ids of each row; in a cache, all ids but these are stored."""
        model = self.model
        if self.cache is None:
            rows = [ids[mask.bool()] for ids, mask in zip(self.ids, self.mask, strict=True)]
            return torch.stack([model.states(model.embed(row[None]))[0, -count:] for row in rows])
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -count:]
        mask = self.mask if self.is_padded else None
        return model.states(model.embed(self.ids[:, -count:]), mask, positions, self.cache)
