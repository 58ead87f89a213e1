"""The model as the server's one worker thread uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from seedtok.core.image_search import SUFFIXES
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.familiarity import encode_and_check
from seedtok.tokenizer.unknown_words import unknown_words

FAR = "the picture is far from those this model was trained on, so what it says of it means little"


class Interrupted(Exception):
    """A call of the library was stopped, since nobody waits for its result any more."""


class Engine:
    """A SEED language model, how many rows it runs at once, and what its image decoder computes in.

    `image_decoder` is loaded at once, so that a checkpoint without one is found when the server starts. Of one thread
    at a time.
    """

    def __init__(self, model: SeedLM, batch: int = 16, drawing_dtype: torch.dtype | None = None):
        self.model, self.batch, self.drawing_dtype = model, batch, drawing_dtype
        self.square = model.seed.config.embedder.vision.square
        self.code_count = model.seed.config.embedder.qformer.queries
        self.codebook_size = model.seed.config.codebook.size
        self.codebook_id = model.seed.codebook_id
        self.encoder = model.seed.encoder_fingerprint
        self._is_unwanted: Callable[[], bool] | None = None
        model.joint.before_states.append(self._before_forward)
        for module in (model.joint.lm, model.seed.image_decoder.pipeline.unet):  # the LM for transformers' `generate`
            module.register_forward_pre_hook(self._before_forward)

    # ------------------------------------------------------------ stopping

    @contextmanager
    def stopped_when(self, is_unwanted: Callable[[], bool]) -> Iterator[None]:
        """Within, a call of the library raises Interrupted at its next token or denoising step once this is true."""
        self._is_unwanted = is_unwanted
        try:
            yield
        finally:
            self._is_unwanted = None

    def _before_forward(self, *_: Any) -> None:
        if self._is_unwanted is not None and self._is_unwanted():
            raise Interrupted

    # ------------------------------------------------------------ pictures and texts

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> tuple[Int[Tensor, "b n"], list[tuple[str, ...]]]:
        """Codes (B, 32), and a warning for each picture that is far from those of training."""
        seed, codes, warnings = self.model.seed, [], []
        for start in range(0, len(pictures), self.batch):
            found, far = encode_and_check(seed, seed.pixels(list(pictures[start : start + self.batch])))
            codes.append(found)
            warnings += [(FAR,) if is_far else () for is_far in far.tolist()]
        none = torch.zeros(0, self.code_count, dtype=torch.int64, device=seed.device)
        return torch.cat(codes) if codes else none, warnings

    def decode(
        self, codes: Int[Tensor, "b n"] | Sequence[Sequence[int]], seeds: Sequence[int],
        steps: int | None = None, guidance: float | None = None,
    ) -> list[Image.Image]:  # fmt: skip
        """Pictures of codes (B, 32), each from the noise of its own seed, `batch` at once at most."""
        made: list[Image.Image] = []
        for start in range(0, len(codes), self.batch):
            some = slice(start, start + self.batch)
            noise = [torch.Generator().manual_seed(seed) for seed in seeds[some]]
            made += self.model.seed.decode(codes[some], steps, guidance, noise, self.drawing_dtype)
        return made

    @torch.no_grad()
    def nearest_codes(self, code: int, count: int) -> list[tuple[int, float]]:
        """The codes whose vectors are nearest to that of `code`, itself first, with their Euclidean distances."""
        table = self.model.seed.codebook.weight.float()
        distances = torch.linalg.vector_norm(table - table[code], dim=1)
        distances[code] = -1  # first, also beside an equal vector
        found = distances.topk(min(count, len(table)), largest=False)
        return [(index, max(0.0, far)) for far, index in zip(*map(torch.Tensor.tolist, found), strict=True)]

    def warned_words(self, *texts: str) -> tuple[str, ...]:
        """A warning for the words that the model was not trained on, if there are any."""
        words = unknown_words(self.model.joint.text_tokenizer, texts)
        return (f"words that this model was not trained on: {', '.join(words)}",) if words else ()

    @staticmethod
    def plain(text: str) -> str:
        """A text that does not end as the name of a picture's file does: `SeedLM.generate` would look for the file."""
        return f"{text} " if text.lower().endswith(tuple(SUFFIXES)) else text

    # ------------------------------------------------------------ counting tokens

    def tokens(self, text: str) -> int:
        """The number of tokens of a text."""
        return len(self.model.joint.text_ids(text))

    @property
    def picture_tokens(self) -> int:
        """The number of tokens of a picture: its codes, begin and end of image."""
        return self.code_count + 2

    def length(self, turns: Sequence[Sequence[str | Image.Image]]) -> int:
        """The number of tokens of texts and pictures, without what the template puts around turns."""
        parts = [part for turn in turns for part in turn]
        return sum(self.tokens(part) if isinstance(part, str) else self.picture_tokens for part in parts)
