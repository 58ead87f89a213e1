"""The model as the server's one worker thread uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from seedtok.core.errors import ConfigError
from seedtok.core.image_search import SUFFIXES
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.familiarity import encode_and_check
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.unknown_words import unknown_words

FAR = "the picture is far from those this model was trained on, so what it says of it means little"


class Interrupted(Exception):
    """A call of the library was stopped, since nobody waits for its result any more."""


class Engine:
    """A SEED language model or an image tokenizer, how many rows it runs at once, and what it draws in.

    Unless it `draws`, no image decoder is loaded; else it is at once, so that a checkpoint without one is found when
    the server starts. Of one thread at a time.
    """

    def __init__(
        self, model: SeedLM | SeedTokenizer, batch: int = 16, drawing_dtype: torch.dtype | None = None,
        draws: bool = True,
    ):  # fmt: skip
        self.batch, self.drawing_dtype, self.draws = batch, drawing_dtype, draws
        self._lm, self.seed = (model, model.seed) if isinstance(model, SeedLM) else (None, model)
        self.square = self.seed.config.embedder.vision.square
        self.code_count = self.seed.config.embedder.qformer.queries
        self.codebook_size = self.seed.config.codebook.size
        self.codebook_id = self.seed.codebook_id
        self.encoder = self.seed.encoder_fingerprint
        self._is_unwanted: Callable[[], bool] | None = None
        if self.writes and not draws:
            raise ConfigError("a language model that does not draw; expected draws=False with an image tokenizer alone")
        if self.writes:
            self.model.joint.before_states.append(self._before_forward)
            self.model.joint.lm.register_forward_pre_hook(self._before_forward)  # for transformers' `generate`
        if draws:
            self.seed.image_decoder.pipeline.unet.register_forward_pre_hook(self._before_forward)

    @property
    def writes(self) -> bool:
        """Whether it has a language model."""
        return self._lm is not None

    @property
    def model(self) -> SeedLM:
        """The language model, of an engine that `writes`."""
        assert self._lm is not None
        return self._lm

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
        seed, codes, warnings = self.seed, [], []
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
            made += self.seed.decode(codes[some], steps, guidance, noise, self.drawing_dtype)
        return made

    @torch.no_grad()
    def nearest_codes(self, code: int, count: int) -> list[tuple[int, float]]:
        """The codes whose vectors are nearest to that of `code`, itself first, with their Euclidean distances."""
        table = self.seed.codebook.weight.float()
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
