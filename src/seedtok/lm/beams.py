"""Beam search over words.

All beams of a prompt are one sequence: their tokens follow each other in it, and each sees the prompt and its own
ancestors alone. The KV cache holds a prompt once and is written at its end only: beams that change places move nothing.
A prompt that is done makes room for the next one at once, so that a batch stays full to the last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from seedtok.lm.decoding import Rows, of_parents

if TYPE_CHECKING:
    from seedtok.lm.seed_lm import SeedLM

WORST = float("-inf")


@dataclass(frozen=True)
class Search:
    """A beam search, with the options of transformers' `generate`; `ends` are the ids that end a text."""

    beams: int
    max_new_tokens: int
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    ends: Sequence[int] = ()


class Beams:
    """Prompts, and what the beams of each have said so far."""

    # what there is for every prompt, in its row
    OWN = ("numbers", "seen", "said", "length", "scores", "finished")

    def __init__(self, model: SeedLM, search: Search, prompts: Sequence[Sequence[int]], texts: dict[int, list[int]]):
        """Prompts of ids; what is found goes to `texts`, under the numbers of prompts in the order they came."""
        self.model, self.search, self.texts = model, search, texts
        rows, beams = Rows(model, prompts, room=16 * search.beams), search.beams
        self.cache = rows.cache
        self.ends = torch.tensor(search.ends, dtype=torch.long, device=model.device)
        self.states = rows.states[:, None].expand(-1, beams, -1)  # (B, beams, hidden), before what comes next
        self.numbers = torch.arange(len(texts), len(texts) + len(prompts), device=model.device)[:, None]
        texts.update((number, []) for number in self.numbers[:, 0].tolist())
        self.seen = rows.mask.bool()[:, None].expand(-1, beams, -1)  # (B, beams, T): what each beam sees of its row
        self.said = rows.mask.new_zeros(len(prompts), beams, search.max_new_tokens)
        self.length = rows.mask.new_zeros(len(prompts), 1)  # how much of it is said
        self.scores = torch.full((len(prompts), beams), WORST, device=model.device)  # of log-probabilities the sums
        self.finished = self.scores.clone()  # the best texts' scores, in order
        self.scores[:, 0] = 0.0  # all beams are alike at first: one of them goes on

    def choose(self) -> Bool[Tensor, " b"]:
        """Adds a token to each beam; returns which prompts are settled: none of their beams can end better."""
        search, self.length = self.search, self.length + 1
        likelihood = self.model.text_logits(self.states).float().log_softmax(-1)
        if search.min_new_tokens:
            early = (self.length <= search.min_new_tokens)[..., None]
            likelihood[..., self.ends] = likelihood[..., self.ends].masked_fill(early, WORST)
        ways = (self.scores[..., None] + likelihood).flatten(1)  # (B, beams * words)
        scores, index = ways.topk(min(search.beams * max(2, 1 + len(self.ends)), ways.shape[1]))
        parents, ids = index // likelihood.shape[-1], index % likelihood.shape[-1]
        ended = torch.isin(ids, self.ends) | (self.length == search.max_new_tokens)

        share = self.length.float() ** search.length_penalty
        endings = (scores / share).masked_fill(~ended, WORST)[:, : search.beams]
        values, places = endings.max(1)
        for i in (values > self.finished[:, 0]).nonzero()[:, 0].tolist():
            before = self.said[i, parents[i, places[i]], : int(self.length[i]) - 1]
            self.texts[int(self.numbers[i])] = [*before.tolist(), int(ids[i, places[i]])]
        self.finished = torch.cat([self.finished, endings], dim=1).topk(search.beams).values

        self.scores, going = scores.masked_fill(ended, WORST).topk(search.beams)
        parents, ids = parents.gather(1, going), ids.gather(1, going)
        self.said = of_parents(self.said, parents).scatter(2, _at(self.length - 1, ids), ids[..., None])
        self.seen = of_parents(self.seen, parents)
        best = self.scores[:, 0]
        hope = best / (search.max_new_tokens**search.length_penalty if search.length_penalty > 0 else share[:, 0])
        return (hope <= self.finished[:, 0]) | (best / share[:, 0] <= self.finished[:, -1])

    def read(self) -> None:
        """The states after what `choose` has added."""
        beams = self.search.beams
        if self.cache.room_left < beams:
            self._forget_what_nobody_sees()
        positions = self.seen.sum(2)
        own = torch.eye(beams, dtype=torch.bool, device=self.seen.device).expand(len(self.seen), -1, -1)
        self.seen = torch.cat([self.seen, own], dim=2)
        ids = self.said.gather(2, _at(self.length - 1, self.scores))[..., 0]
        self.states = self.model.states(self.model.embed(ids), self.seen[:, None], positions, self.cache)

    def _forget_what_nobody_sees(self) -> None:
        some = self.seen.any(1)
        positions = some.byte().argsort(dim=1, descending=True, stable=True)[:, : int(some.sum(1).max())]
        self.seen = self.seen.gather(2, positions[:, None].expand(-1, self.seen.shape[1], -1))
        self.cache.keep_positions(positions)

    def keep(self, rows: Int[Tensor, " b"]) -> None:
        """Forgets all other prompts; `read` comes next."""
        self.cache.batch_select_indices(rows)
        for name in self.OWN:
            setattr(self, name, getattr(self, name)[rows])

    def take(self, row: int, other: Beams, others: int) -> None:
        """Puts a prompt of others in the place of one; `read` comes next."""
        self.cache.take(row, other.cache, others)
        longer = max(0, other.seen.shape[2] - self.seen.shape[2])
        self.seen = torch.nn.functional.pad(self.seen, (0, longer))
        self.seen[row] = False
        for name in self.OWN:
            mine, theirs = getattr(self, name), getattr(other, name)
            mine[row, ..., : theirs.shape[-1]] = theirs[others]


def _at(place: Int[Tensor, "b 1"], beams: Tensor) -> Int[Tensor, "b k 1"]:
    """An index of one token of every beam."""
    return place[..., None].expand(-1, beams.shape[1], -1)


def text_by_beams(model: SeedLM, prompts: Sequence[Sequence[int]], search: Search, batch_size: int) -> list[list[int]]:
    """What follows prompts of ids, as transformers' `generate` finds it: the best text of its beams.

    A text of n tokens scores the sum of their log-probabilities / n ** length_penalty. A prompt is left as soon as
    none of its beams can end better than its best text, which `generate` does not look at. `batch_size` prompts are
    searched at once, and as many may wait.
    """
    texts: dict[int, list[int]] = {}
    starts = range(0, len(prompts), batch_size)
    batches = (Beams(model, search, prompts[i : i + batch_size], texts) for i in starts)
    beams, waiting = next(batches), deque[tuple[Beams, int]]()
    while True:
        settled = beams.choose()
        places = settled.nonzero()[:, 0].tolist()
        while len(waiting) < len(places) and (batch := next(batches, None)) is not None:
            waiting.extend((batch, row) for row in (~batch.choose()).nonzero()[:, 0].tolist())
        for place in places[: len(waiting)]:
            beams.take(place, *waiting.popleft())
            settled[place] = False
        if settled.any():
            if settled.all():
                return [texts[number] for number in range(len(prompts))]
            beams.keep((~settled).nonzero()[:, 0])
        beams.read()
