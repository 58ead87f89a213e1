"""The rule that makes image spans valid, for transformers' `generate`."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from seedtok.lm.vocabulary import Vocabulary


class ImageSpans(LogitsProcessor):
    """Lets begin-of-image be followed by 32 codes and end-of-image, and nothing else be followed by any of these.

    Between images a token is text, or begin-of-image where a whole image still fits. The logits of what is allowed are
    normalised, so that a beam search scores texts and images as `SeedLM` does.

    Args:
        vocabulary: which ids are visual.
        start: how many ids of the prompt to pass over; an image begun after them is continued.
        room: how many ids may follow these at most.
        max_images: how many images may begin after them.
    """

    def __init__(self, vocabulary: Vocabulary, start: int, room: int, max_images: int):
        self.vocabulary, self.start, self.room, self.max_images = vocabulary, start, room, max_images

    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Logits after sequences of ids -> log-probabilities, -inf where an id is not allowed."""
        vocabulary, ids = self.vocabulary, input_ids[:, self.start :]
        begins = ids == vocabulary.begin
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        last = torch.cat([places.new_zeros(len(ids), 1), begins * places], dim=1).amax(1)
        written = torch.where(last > 0, ids.shape[1] - last, vocabulary.span + 1)  # codes since the last begin
        fits = (begins.sum(1) < self.max_images) & (ids.shape[1] + vocabulary.span + 2 <= self.room)
        outside = written > vocabulary.span

        allowed = torch.zeros_like(scores, dtype=torch.bool)
        allowed[:, : vocabulary.text] = outside[:, None]
        allowed[:, vocabulary.begin] = outside & fits
        allowed[:, vocabulary.code_slice] = (written < vocabulary.span)[:, None]
        allowed[:, vocabulary.end] = written == vocabulary.span
        return scores.masked_fill(~allowed, float("-inf")).log_softmax(-1)
