"""Spans of codes: sequences that grow on a KV cache, and the 32 codes of a picture one by one, by guesses, by beams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from seedtok.lm.packing import Sampling, left_padded

if TYPE_CHECKING:
    from seedtok.lm.seed_lm import SeedLM


class Rows:
    """Sequences that grow by one token at a time, on a KV cache with `room` positions ahead."""

    def __init__(self, model: SeedLM, rows: Sequence[Sequence[int]], room: int = 64):
        from seedtok.lm.cache import RoomyCache

        self.model = model
        ids, self.mask = left_padded(rows, model.device)
        self.padded = not bool(self.mask.all())
        self.cache = RoomyCache(model.lm, room)
        self.states = self._run(ids)[:, -1]

    def _run(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t hidden"]:
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        mask = self.mask if self.padded else None
        return self.model.states(self.model.embed(ids), mask, positions, self.cache)

    def append(self, ids: Int[Tensor, " b"]) -> Float[Tensor, "b hidden"]:
        """Takes one more id a row; the states after it."""
        return self.extend(ids[:, None])[:, -1]

    def extend(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t hidden"]:
        """Takes more ids a row; the states after each."""
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        states = self._run(ids)
        self.states = states[:, -1]
        return states

    def drop(self, count: int) -> None:
        """Forgets the last ids of every row."""
        if count:
            self.mask = self.mask[:, :-count]
            self.cache.crop(-count)

    def choose(self, rows: Int[Tensor, " b"]) -> None:
        """Keeps these rows, in this order; one may be there twice."""
        self.cache.batch_select_indices(rows)
        self.mask, self.states = self.mask[rows], self.states[rows]


def span(grown: Rows, sampling: Sampling) -> Int[Tensor, "b n"]:
    """The codes of one picture a row, after begin-of-image: as many as there are to a picture."""
    if sampling.temperature == 0 and len(grown.states) == 1:
        return _span_by_guesses(grown)
    vocabulary = grown.model.vocabulary
    states, codes = grown.states, []
    for _ in range(vocabulary.config.span):
        codes.append(sampling.pick(vocabulary.code_logits(states)))
        if len(codes) < vocabulary.config.span:
            states = grown.append(codes[-1] + vocabulary.config.text)
    return torch.stack(codes, dim=1)


def _span_by_guesses(grown: Rows, window: int = 16) -> Int[Tensor, "1 n"]:
    """The codes of one row that a greedy search finds, some at a time (Jacobi decoding; Santilli et al. 2023).

    A pass reads a window of guesses, and says what comes after each. What it says is right up to the first guess that
    was wrong, and the guess of the next pass beyond.
    """
    vocabulary = grown.model.vocabulary
    span, text = vocabulary.config.span, vocabulary.config.text
    codes = vocabulary.code_logits(grown.states).argmax(-1, keepdim=True).repeat(1, span)  # the first one is right
    known = 1
    while known < span:
        read = codes[:, known - 1 : min(span, known + window) - 1].clone()
        said = vocabulary.code_logits(grown.extend(read + text)).argmax(-1)
        right = int((said[0, :-1] == read[0, 1:]).long().cumprod(0).sum())
        codes[:, known : known + said.shape[1]] = said
        known += right + 1
        grown.drop(read.shape[1] - right - 1)
    return codes


def of_parents(values: Shaped[Tensor, "b j n"], parents: Int[Tensor, "b k"]) -> Shaped[Tensor, "b k n"]:
    """What beams have from those that they go on from."""
    return values.gather(1, parents[..., None].expand(-1, -1, values.shape[2]))


def span_by_beams(grown: Rows, beams: int) -> Int[Tensor, "b n"]:
    """The likeliest picture a row that a beam search of this width finds, after begin-of-image; all are as long."""
    vocabulary, device, states = grown.model.vocabulary, grown.model.device, grown.states
    batch = len(states)
    scores, codes = torch.zeros(batch, 1, device=device), torch.zeros(batch, 1, 0, dtype=torch.long, device=device)
    for step in range(vocabulary.config.span):
        likelihood = vocabulary.code_logits(states).float().log_softmax(-1).unflatten(0, (batch, -1))
        total = (scores[..., None] + likelihood).flatten(1)  # (B, beams * codes)
        scores, best = total.topk(beams, dim=1)
        parents, chosen = best // likelihood.shape[-1], best % likelihood.shape[-1]
        codes = torch.cat([of_parents(codes, parents), chosen[..., None]], dim=2)
        if step + 1 < vocabulary.config.span:
            offset = torch.arange(batch, device=device)[:, None] * likelihood.shape[1]
            grown.choose((offset + parents).flatten())
            states = grown.append(chosen.flatten() + vocabulary.config.text)
    return codes[:, 0]
