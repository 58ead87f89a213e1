"""Beam search over text: the best continuations that transformers' `generate` finds, faster.

`generate` keeps each beam of each prompt as a batch row of its own. A prompt's keys and values are stored, and read at
every step, once a beam, and whenever beams change places the whole cache is copied. Here all beams of a prompt share
one batch row, as a tree (tree attention). Its tokens are stored in the order in which they were added, one a beam and
step:

    position    0   1   2  |  3   4  |  5   6  |  7   8
    token       a   red     | fox cat | on  is  | a   at       2 beams after the prompt "a red", padded to 3
    parent      the prompt  | -   -   | fox fox | on  is

`visible[b, k]` says which positions beam k of row b attends to: the prompt and its own ancestors. Its new token's
position id is how many those are. A beam that continues another one takes over that one's visibility and adds its own
new position: nothing in the cache moves. Positions that no beam sees any more are dropped when the memory runs out.

A step of the search (`BeamSearch.step`) is that of `generate`. A beam's score is the sum of the log-probabilities of
its tokens. Of all continuations of all beams by one token, the best `beams * (1 + ends)` are considered. Those that
end, by an end id or by their length, are finished texts, with their score divided by length ** length_penalty. Of the
others the best `beams` go on.

A prompt is done when none of its beams can still beat its best finished text, or when its best beam, as it stands, does
not beat the worst of its `beams` finished texts; where more than the best text is wanted, only in the second case. It
then leaves the batch, and a waiting prompt takes its row (`replace_row`), so that the batch stays full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from seedtok.lm.model import JointLM
from seedtok.lm.sequences import CachedSequences

IMPOSSIBLE = float("-inf")


@dataclass(frozen=True)
class SearchSettings:
    """A beam search, in the terms of transformers' `generate`; `ends` are the ids that end a text.

    `kept` is how many of a prompt's finished texts are kept, at most as many as beams.
    """

    beams: int
    max_new_tokens: int
    min_new_tokens: int = 0
    length_penalty: float = 1.0
    ends: Sequence[int] = ()
    kept: int = 1


class Finished(NamedTuple):
    """A finished text: its ids, end id included, the sum of their log-probabilities, and its score."""

    ids: list[int]
    log_prob: float
    score: float


class BeamSearch:
    """The beams of a batch of prompts; B prompts, K beams, T positions in the cache."""

    # tensors with one row for each prompt
    PER_PROMPT = ("numbers", "visible", "tokens", "length", "scores", "finished")

    def __init__(self, model: JointLM, prompts: Sequence[Sequence[int]], settings: SearchSettings, first: int = 0):
        """Runs the LM over prompts of ids; they are numbered from `first`. Call `step` next."""
        sequences = CachedSequences(model, prompts, room=16 * settings.beams)
        assert sequences.cache is not None
        batch, beams, device = len(prompts), settings.beams, model.device
        self.model, self.settings, self.cache = model, settings, sequences.cache
        self.ends = torch.tensor(settings.ends, dtype=torch.long, device=device)
        self.states: Float[Tensor, "b k hidden"] = sequences.states[:, None].expand(-1, beams, -1)
        # which prompt each row holds
        self.numbers: Int[Tensor, "b 1"] = torch.arange(first, first + batch, device=device)[:, None]
        self.visible: Bool[Tensor, "b k t"] = sequences.mask.bool()[:, None].expand(-1, beams, -1)
        self.tokens: Int[Tensor, "b k n"] = self.numbers.new_zeros(batch, beams, settings.max_new_tokens)
        self.length: Int[Tensor, "b 1"] = torch.zeros_like(self.numbers)  # tokens so far
        self.scores: Float[Tensor, "b k"] = torch.full((batch, beams), IMPOSSIBLE, device=device)
        self.scores[:, 0] = 0.0  # all beams are the prompt at first, so one of them is continued
        self.finished: Float[Tensor, "b k"] = torch.full_like(self.scores, IMPOSSIBLE)  # best scores, descending

    def step(self, texts: dict[int, list[Finished]]) -> Bool[Tensor, " b"]:
        """Adds a token to each beam, and keeps each prompt's best finished texts in `texts`, the best first.

        Returns which prompts are done. For the others `advance` has to follow.
        """
        settings, self.length = self.settings, self.length + 1
        scores, parents, ids = self._best_continuations()
        ends = torch.isin(ids, self.ends) | (self.length == settings.max_new_tokens)

        normaliser = self.length.float() ** settings.length_penalty
        endings = (scores / normaliser).masked_fill(~ends, IMPOSSIBLE)[:, : settings.beams]
        better = endings > self.finished[:, settings.kept - 1, None]
        for i, place in better.nonzero().tolist():
            before = self.tokens[i, parents[i, place], : int(self.length[i]) - 1]
            found = [*before.tolist(), int(ids[i, place])]
            own = texts[int(self.numbers[i])]
            own.append(Finished(found, float(scores[i, place]), float(endings[i, place])))
            own.sort(key=lambda text: -text.score)
            del own[settings.kept :]
        self.finished = torch.cat([self.finished, endings], dim=1).topk(settings.beams).values

        self.scores, going_on = scores.masked_fill(ends, IMPOSSIBLE).topk(settings.beams)
        parents, ids = parents.gather(1, going_on), ids.gather(1, going_on)
        self.tokens = _of_parents(self.tokens, parents).scatter(2, self._last(), ids[..., None])
        self.visible = _of_parents(self.visible, parents)
        return self._done(normaliser[:, 0])

    def _best_continuations(self) -> tuple[Float[Tensor, "b c"], Int[Tensor, "b c"], Int[Tensor, "b c"]]:
        """The best continuations of each prompt's beams by one token: scores, the beams they continue, ids."""
        settings = self.settings
        log_probs = self.model.text_logits(self.states).float().log_softmax(-1)
        if settings.min_new_tokens:
            too_short = (self.length <= settings.min_new_tokens)[..., None]
            log_probs[..., self.ends] = log_probs[..., self.ends].masked_fill(too_short, IMPOSSIBLE)
        scores = (self.scores[..., None] + log_probs).flatten(1)  # (B, K * text)
        scores, index = scores.topk(min(settings.beams * max(2, 1 + len(self.ends)), scores.shape[1]))
        return scores, index // log_probs.shape[-1], index % log_probs.shape[-1]

    def _done(self, normaliser: Float[Tensor, " b"]) -> Bool[Tensor, " b"]:
        """Which prompts have no beam left that could change their result."""
        settings, best = self.settings, self.scores[:, 0]
        beaten = best / normaliser <= self.finished[:, -1]
        if settings.kept > 1:
            return beaten
        longest = settings.max_new_tokens**settings.length_penalty
        bound = best / (longest if settings.length_penalty > 0 else normaliser)  # no descendant scores higher
        return (bound <= self.finished[:, 0]) | beaten

    def advance(self) -> None:
        """Runs the LM over the tokens that `step` has added."""
        beams = self.settings.beams
        if self.cache.room_left < beams:
            self._compact()
        position_ids = self.visible.sum(2)
        own = torch.eye(beams, dtype=torch.bool, device=self.visible.device).expand(len(self.visible), -1, -1)
        self.visible = torch.cat([self.visible, own], dim=2)
        ids = self.tokens.gather(2, self._last())[..., 0]
        self.states = self.model.states(self.model.embed(ids), self.visible[:, None], position_ids, self.cache)

    def _last(self) -> Int[Tensor, "b k 1"]:
        """Where each beam's last token is in `tokens`."""
        return (self.length - 1)[..., None].expand(-1, self.settings.beams, -1)

    def _compact(self) -> None:
        """Drops the cache positions that no beam sees; rows with fewer of the others keep some of these, masked."""
        seen = self.visible.any(1)
        positions = seen.byte().argsort(dim=1, descending=True, stable=True)[:, : int(seen.sum(1).max())]
        self.visible = self.visible.gather(2, positions[:, None].expand(-1, self.visible.shape[1], -1))
        self.cache.select_positions(positions)

    def select_rows(self, rows: Int[Tensor, " b"]) -> None:
        """Drops all other prompts. Call `advance` next."""
        self.cache.select_rows(rows)
        for name in self.PER_PROMPT:
            setattr(self, name, getattr(self, name)[rows])

    def replace_row(self, row: int, other: BeamSearch, other_row: int) -> None:
        """Replaces the prompt in a row by one of another search. Call `advance` next."""
        self.cache.replace_row(row, other.cache, other_row)
        longer = max(0, other.visible.shape[2] - self.visible.shape[2])
        self.visible = torch.nn.functional.pad(self.visible, (0, longer))
        self.visible[row] = False
        for name in self.PER_PROMPT:
            own, new = getattr(self, name), getattr(other, name)
            own[row, ..., : new.shape[-1]] = new[other_row]


def _of_parents(values: Shaped[Tensor, "b j n"], parents: Int[Tensor, "b k"]) -> Shaped[Tensor, "b k n"]:
    """The values of the beams that are continued."""
    return values.gather(1, parents[..., None].expand(-1, -1, values.shape[2]))


def search_texts(
    model: JointLM, prompts: Sequence[Sequence[int]], settings: SearchSettings, batch_size: int
) -> list[list[Finished]]:
    """The best texts after each prompt of ids, the best first.

    `batch_size` prompts are searched at once, and as many more may have been read and wait for a row.
    """
    texts: dict[int, list[Finished]] = {number: [] for number in range(len(prompts))}
    starts = range(0, len(prompts), batch_size)
    batches = (BeamSearch(model, prompts[i : i + batch_size], settings, i) for i in starts)
    search, waiting = next(batches), deque[tuple[BeamSearch, int]]()
    while True:
        done = search.step(texts)
        rows = done.nonzero()[:, 0].tolist()
        while len(waiting) < len(rows) and (batch := next(batches, None)) is not None:
            waiting.extend((batch, row) for row in (~batch.step(texts)).nonzero()[:, 0].tolist())
        for row in rows[: len(waiting)]:
            search.replace_row(row, *waiting.popleft())
            done[row] = False
        if done.any():
            if done.all():
                return [texts[number] for number in range(len(prompts))]
            search.select_rows((~done).nonzero()[:, 0])
        search.advance()
