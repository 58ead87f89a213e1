"""The rule that makes image spans valid, for transformers' `generate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from seedtok.lm.vocabulary import Vocabulary


class ImageSpans(LogitsProcessor):
    """Lets begin-of-image be followed by 32 codes and end-of-image, and nothing else be followed by any of these.

    Between images a token is text, or its end, or begin-of-image where a whole image still fits. The logits of what is
    allowed are normalised, so that a beam search scores texts and images as `SeedLM` does.

    Args:
        vocabulary: which ids are visual.
        start: how many ids of the prompt to pass over; an image begun after them is continued.
        room: how many ids may follow these at most.
        max_images: how many images may begin after them.
        ends: what ends a text, `eos_token_id` of a generation config; it may lie after the visual ids.
    """

    def __init__(
        self, vocabulary: Vocabulary, start: int, room: int, max_images: int, ends: int | Sequence[int] | None = None
    ):  # fmt: skip
        self.vocabulary, self.start, self.room, self.max_images = vocabulary, start, room, max_images
        self.ends = [ends] if isinstance(ends, int) else list(ends or ())

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Logits after sequences of ids -> log-probabilities, -inf where an id is not allowed."""
        vocabulary, ids = self.vocabulary, input_ids[:, self.start :]
        begins = ids == vocabulary.begin
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        last = torch.cat([places.new_zeros(len(ids), 1), begins * places], dim=1).amax(1)
        written = torch.where(last > 0, ids.shape[1] - last, vocabulary.span + 1)  # codes since the last begin
        fits = (begins.sum(1) < self.max_images) & (ids.shape[1] + vocabulary.span + 2 <= self.room)
        outside = written > vocabulary.span

        words = torch.arange(scores.shape[1], device=scores.device)
        ends = torch.tensor(self.ends, dtype=torch.int64, device=scores.device)
        allowed = outside[:, None] & ((words < vocabulary.text) | torch.isin(words, ends))
        allowed[:, vocabulary.begin] = outside & fits
        allowed[:, vocabulary.code_slice] = (written < vocabulary.span)[:, None]
        allowed[:, vocabulary.end] = written == vocabulary.span
        return scores.masked_fill(~allowed, float("-inf")).log_softmax(-1)
