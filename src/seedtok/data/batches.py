"""A batch of images with captions, and which samples of a stream a rank's batches are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from seedtok.core.errors import DataError
from seedtok.core.records import encodable
from seedtok.core.text import clean_caption


@dataclass(frozen=True)
class Batch:
    """Images with their captions, and what else their source knows of them.

    `pixels` (B, 3, H, W) uint8; `captions`, one wording each; `canonical`, for each image the one wording whose text
    features are learned; `metadata`, for each image the JSON object that was stored with it. `codes` (B, 32) int64
    where the images were tokenized before, by the tokenizer with the id `codes_of`, and the fingerprint `encoder` where
    they have one.
    """

    pixels: Tensor
    captions: list[str]
    canonical: list[str]
    metadata: list[dict[str, Any]] | None = None
    codes: Tensor | None = None
    codes_of: str = ""
    encoder: str = ""

    def to(self, device: torch.device) -> Self:
        codes = None if self.codes is None else self.codes.to(device)
        return replace(self, pixels=self.pixels.to(device), codes=codes)

    def right_captions(self, said: Sequence[str]) -> list[bool]:
        """Which of these captions of the first images are right: here, those equal to the canonical wording."""
        return [text == right for text, right in zip(said, self.canonical[: len(said)], strict=True)]

    def questions(self, index: int, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        """Up to `count` questions about an image with their answers, drawn from "questions" in its metadata.

        That field is a list of objects with "question" and "answer"; without it there are none.
        """
        stored = self.metadata[index].get("questions") if self.metadata else None
        if not isinstance(stored, list):
            return []
        return [_question(stored[i]) for i in rng.permutation(len(stored))[:count]]

    def replayed(self, index: int, rng: np.random.Generator) -> list[tuple[str, bool]]:
        """A text for a language model that is not to forget its texts: parts, and which of them to learn."""
        return [(self.captions[index], True)]


def _question(stored: object) -> tuple[str, str]:
    match stored:
        case {"question": str(question), "answer": str(answer)}:
            return question, answer
    raise DataError(f"expected question and answer in a sample's questions, not {str(stored)[:80]}")


@dataclass(frozen=True)
class Stride:
    """Which samples of an endless stream a rank reads: every `world_size`-th, from number `start` + `rank` on."""

    start: int = 0  # samples that all ranks together have read before
    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> int:
        return self.start + self.rank


ALL_SAMPLES = Stride()


def even_batches(available: int, batch_size: int, count: int, world_size: int) -> tuple[int, int]:
    """The number of batches that each rank takes of so many samples, and their size, so that none is taken twice.

    At most `count` of `batch_size`; of fewer samples than one such batch a rank, one smaller batch. Raises DataError
    for fewer samples than ranks.
    """
    if available < world_size:
        raise DataError(f"{available} samples to validate on are too few for {world_size} ranks")
    whole = min(count, available // (batch_size * world_size))
    return (whole, batch_size) if whole else (1, available // world_size)


def worded(pixels: Tensor, captions: list[str], metadata: list[dict[str, Any]]) -> Batch:
    """A batch with its captions cleaned; canonical wordings are "canonical" in the metadata, or else the captions."""
    cleaned = [clean_caption(encodable(text)) for text in captions]
    stored = [known.get("canonical") for known in metadata]
    canonical = [encodable(text) if isinstance(text, str) else said for text, said in zip(stored, cleaned, strict=True)]
    return Batch(pixels, cleaned, canonical, metadata)
