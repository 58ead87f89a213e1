"""Texts about an image chosen among those of a beam search by how well they explain the image.

A joint model knows two likelihoods, p(text | image) of its captions and p(image | text) of its drawings. A beam search
goes by the first alone, token by token; the second weighs the whole text by all of the image's codes. (Choosing by the
likelihood of what was given is known from translation as a noisy channel: Yee et al. 2019, arXiv 1908.05731.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from seedtok.core.errors import InputError
from seedtok.lm.decoding import image_log_probs
from seedtok.lm.model import JointLM
from seedtok.lm.prompts import TextSettings
from seedtok.lm.texts import can_search, candidates


def check_can_rerank(model: JointLM, settings: TextSettings) -> None:
    """Raises InputError for a single beam, and for a language model, or settings, that need `generate`."""
    if settings.num_beams == 1:
        raise InputError("one beam leaves nothing to rerank: give more beams")
    if not can_search(model, (), settings):
        raise InputError(
            "this language model is decoded by transformers' generate, which gives its best text alone: caption "
            "without reranking"
        )


def rerank(
    model: JointLM, prompts: Sequence[Sequence[int]], codes: Int[Tensor, "b n"],
    asking: Callable[[str], Sequence[int]], settings: TextSettings, batch_size: int = 32,
) -> list[str]:  # fmt: skip
    """The text after each prompt of ids with the largest log p(text | image) + log p(image | text).

    Of `settings.num_beams` texts of a beam search, with its settings.

    Args:
        codes: of the image in each prompt, (B, 32).
        asking: a text -> the ids of the prompt that asks to draw it.

    Raises InputError as `check_can_rerank` does, and for a text too long to be drawn within the LM's context.
    """
    check_can_rerank(model, settings)
    found = candidates(model, prompts, settings, batch_size)
    counts = torch.tensor([len(own) for own in found], dtype=torch.long, device=codes.device)
    images = codes.repeat_interleave(counts, dim=0)
    drawing = image_log_probs(model, [asking(text) for own in found for text, _ in own], images, batch_size)
    others = iter(drawing.tolist())
    scored = [[(log_prob + next(others), text) for text, log_prob in own] for own in found]
    return [max(own, key=lambda pair: pair[0], default=(0.0, ""))[1] for own in scored]
