"""Beam search over words.

All beams of a prompt are one sequence: their tokens follow each other in it, and each sees the prompt and its own
ancestors alone. The KV cache holds a prompt once and is written at its end only: beams that change places move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from seedtok.mllm.spans import Rows, of_parents

if TYPE_CHECKING:
    from seedtok.mllm.seed_lm import SeedLM


class Beams:
    """Prompts, and what their beams have said so far; there is memory for `room` tokens of all beams of a prompt."""

    def __init__(self, model: SeedLM, rows: Sequence[Sequence[int]], room: int):
        prompts = Rows(model, rows, room)
        self.model, self.cache = model, prompts.cache
        self.states = prompts.states[:, None]  # (B, beams, hidden)
        self.seen = prompts.mask.bool()[:, None]  # (B, beams, T): what each beam sees of its row
        self.next = prompts.mask.sum(1, keepdim=True)  # (B, 1), the position of what comes next
        self.said = prompts.mask.new_zeros(len(rows), 1, 0)  # (B, beams, n)

    def append(self, parents: Int[Tensor, "b k"], said: Int[Tensor, "b k"]) -> None:
        """Goes on from beams `parents` with ids `said`."""
        self.said = torch.cat([of_parents(self.said, parents), said[..., None]], dim=2)
        own = torch.eye(parents.shape[1], dtype=torch.bool, device=parents.device).expand(len(parents), -1, -1)
        self.seen = torch.cat([of_parents(self.seen, parents), own], dim=2)
        embeddings = self.model.embed(said)
        self.states = self.model.states(embeddings, self.seen[:, None], self.next.expand_as(said), self.cache)
        self.next = self.next + 1

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Forgets all other prompts; `append` comes next."""
        self.cache.batch_select_indices(rows)
        self.seen, self.next, self.said = self.seen[rows], self.next[rows], self.said[rows]


def text_by_beams(
    model: SeedLM,
    rows: Sequence[Sequence[int]],
    beams: int,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    length_penalty: float = 1.0,
    ends: Sequence[int] = (),
) -> list[list[int]]:
    """What follows prompts of ids, as transformers' `generate` finds it with these options: the best of `beams`.

    A text of n tokens, one of `ends` the last, scores the sum of their log-probabilities / n ** length_penalty. A
    prompt is left as soon as none of its beams can end better than its best text, which `generate` does not look at.
    """
    grown = Beams(model, rows, room=min(beams * max_new_tokens, 512))
    scores = torch.zeros(len(rows), 1, device=model.device)  # (B, beams), of log-probabilities the sums
    last = torch.tensor(ends, dtype=torch.long, device=model.device)
    texts: list[list[int]] = [[] for _ in rows]
    numbers = torch.arange(len(rows), device=model.device)  # of the prompts that go on
    finished = torch.full((len(rows), beams), float("-inf"), device=model.device)  # their best scores, in order
    for length in range(1, max_new_tokens + 1):
        likelihood = model.text_logits(grown.states).float().log_softmax(-1)
        if length <= min_new_tokens:
            likelihood[..., last] = float("-inf")
        ways = (scores[..., None] + likelihood).flatten(1)  # (B, beams * words)
        scores, index = ways.topk(min(beams * max(2, 1 + len(last)), ways.shape[1]))
        parents, ids = index // likelihood.shape[-1], index % likelihood.shape[-1]
        ended = torch.isin(ids, last) if length < max_new_tokens else torch.ones_like(ids, dtype=torch.bool)

        endings = (scores / length**length_penalty).masked_fill(~ended, float("-inf"))[:, :beams]
        values, places = endings.max(1)
        for i in (values > finished[:, 0]).nonzero()[:, 0].tolist():
            place = places[i]
            texts[int(numbers[i])] = [*grown.said[i, parents[i, place]].tolist(), int(ids[i, place])]
        finished = torch.cat([finished, endings], dim=1).topk(beams).values

        scores, going = scores.masked_fill(ended, float("-inf")).topk(min(beams, scores.shape[1]))
        hope = scores[:, 0] / (max_new_tokens if length_penalty > 0 else length) ** length_penalty
        settled = (hope <= finished[:, 0]) | (scores[:, 0] / length**length_penalty <= finished[:, -1])
        parents, ids = parents.gather(1, going), ids.gather(1, going)
        if settled.any():
            open_rows = (~settled).nonzero()[:, 0]
            if not len(open_rows):
                break
            grown.keep(open_rows)
            scores, parents, ids = scores[open_rows], parents[open_rows], ids[open_rows]
            numbers, finished = numbers[open_rows], finished[open_rows]
        grown.append(parents, ids)
    return texts
