"""Texts and images in any order after a prompt of both (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from seedtok.core.errors import InputError
from seedtok.core.image_batches import is_one
from seedtok.core.images import ImageSource
from seedtok.lm.decoding import GREEDY, Sampling, decode_image
from seedtok.lm.model import JointLM
from seedtok.lm.probe import supports_cache
from seedtok.lm.sequences import CachedSequences
from seedtok.lm.texts import TextStreamer
from seedtok.tokenizer.given_codes import Codes

Segment = str | ImageSource | Tensor  # a text, an image or its codes
Turn = Iterable[Segment] | Segment


def as_turn(turn: Turn) -> Sequence[Segment]:
    """The segments of a turn; a single one is a turn of its own."""
    single = isinstance(turn, Tensor | np.ndarray) or is_one(turn)
    return [turn] if single else list(turn)  # type: ignore[list-item, arg-type]


@torch.no_grad()
def generate(
    model: JointLM,
    segments: Sequence[str | Codes],
    max_new_tokens: int = 64,
    max_images: int = 4,
    sampling: Sampling = GREEDY,
    on_text: Callable[[str], None] | None = None,
    on_image: Callable[[Tensor], None] | None = None,
) -> list[str | Tensor]:
    """Continues any order of texts and codes (32,) by texts and codes (32,).

    Between images a token is text or begin-of-image; begin-of-image is followed by 32 codes and end-of-image. Stops at
    an end id of the LM, after `max_new_tokens` of text, or at the end of the LM's context. `on_text` gets the text as
    it grows, and `on_image` the codes of an image when they are complete, after all text before it. Raises InputError
    for an empty prompt, or one too long for the LM.
    """
    prompt = model.sequence(segments)
    if len(prompt) == len(model.start_ids):
        raise InputError("an empty prompt: give a text or an image")
    output = _Output(model, CachedSequences(model, [prompt], supports_cache(model)), on_text, on_image)
    image_length = model.vocabulary.span + 2
    room = model.context - len(prompt)
    while output.text_tokens < max_new_tokens and output.used < room:
        image_fits = output.images < max_images and output.used + image_length <= room
        token = int(sampling.next_tokens(_between_images(model, output.sequences.states, image_fits)))
        if token == model.vocabulary.begin:
            output.add_image(sampling)
        elif token in model.end_ids:
            break
        else:
            output.add_text(token)
    return output.finish()


def _between_images(model: JointLM, states: Float[Tensor, "1 hidden"], image_fits: bool) -> Float[Tensor, "1 n"]:
    """Logits of the joint vocabulary with text, its end, and begin-of-image if an image fits, alone possible."""
    logits = model.logits(states)
    named = [*model.end_ids, *([model.vocabulary.begin] if image_fits else [])]
    possible = torch.tensor(named, dtype=torch.int64, device=logits.device)
    kept = logits[:, possible]
    logits[:, model.vocabulary.text :] = float("-inf")
    logits[:, possible] = kept
    return logits


class _Output:
    """What has been generated so far, and the sequence that it extends."""

    def __init__(
        self, model: JointLM, sequences: CachedSequences, on_text: Callable[[str], None] | None,
        on_image: Callable[[Tensor], None] | None,
    ):  # fmt: skip
        self.model, self.sequences, self.on_image = model, sequences, on_image
        self.streamer = None if on_text is None else TextStreamer(model, on_text)
        self.segments: list[str | Tensor] = []
        self.open_text: list[int] = []  # ids of the text since the last image
        self.images = self.text_tokens = self.used = 0

    def add_text(self, token: int) -> None:
        """Appends a token of text."""
        self.open_text.append(token)
        if self.streamer is not None:
            self.streamer.put(torch.tensor([token]))
        self._append(token)
        self.text_tokens += 1

    def add_image(self, sampling: Sampling) -> None:
        """Appends begin-of-image, the codes that follow it, and end-of-image."""
        vocabulary = self.model.vocabulary
        self._close_text()
        self._append(vocabulary.begin)
        (codes,) = decode_image(self.sequences, sampling)
        self.segments.append(codes)
        if self.streamer is not None:
            self.streamer.end()
        if self.on_image is not None:
            self.on_image(codes)
        self._append(int(vocabulary.code_ids(codes[-1])))
        self._append(vocabulary.end)
        self.images, self.used = self.images + 1, self.used + vocabulary.span - 1

    def finish(self) -> list[str | Tensor]:
        """All segments in their order."""
        if self.streamer is not None:
            self.streamer.end()
        self._close_text()
        return self.segments

    def _append(self, token: int) -> None:
        self.sequences.append(torch.tensor([token], device=self.model.device))
        self.used += 1

    def _close_text(self) -> None:
        if self.open_text:
            self.segments.append(self.model.text_of(self.open_text).strip())
            self.open_text.clear()
