"""Batches of pictures and captions, each a function of (split, seed, position) alone, so that runs resume exactly."""

import itertools
import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from seedtok.core.errors import DataError, SeedTokError
from seedtok.data.held_out import Part
from seedtok.data.mixtures import MixedSamples
from seedtok.data.samples import Sample
from seedtok.data.shards import ShardSamples
from seedtok.data.skipping import SkipLimits
from seedtok.data.text import clean_caption


@dataclass(frozen=True)
class Batch:
    """Images with their captions, and what else their source knows of them.

    `pixels` (B, 3, H, W) uint8; `captions`, one wording each; `canonical`, for each image the one wording whose text
    features are learned; `metadata`, for each image the JSON object that was stored with it. `codes` (B, 32) int64
    where the images were tokenized before, by the tokenizer with the id `codes_of`.
    """

    pixels: Tensor
    captions: list[str]
    canonical: list[str]
    metadata: list[dict[str, Any]] | None = None
    codes: Tensor | None = None
    codes_of: str = ""

    def to(self, device: torch.device) -> Self:
        codes = None if self.codes is None else self.codes.to(device)
        return replace(self, pixels=self.pixels.to(device), codes=codes)

    def right_captions(self, said: Sequence[str]) -> list[bool]:
        """Which of these captions of the first images are right: here, those equal to the canonical wording."""
        return [text == right for text, right in zip(said, self.canonical[: len(said)], strict=True)]

    def question(self, index: int, rng: np.random.Generator) -> tuple[str, str] | None:
        """A question about an image and its answer, drawn from "questions" in its metadata; None where it has none.

        That field is a list of objects with "question" and "answer".
        """
        stored = self.metadata[index].get("questions") if self.metadata else None
        if not isinstance(stored, list) or not stored:
            return None
        match stored[int(rng.integers(len(stored)))]:
            case {"question": str(question), "answer": str(answer)}:
                return question, answer
            case other:
                raise DataError(f"expected question and answer in a sample's questions, not {str(other)[:80]}")


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


Shards = Path | Mapping[str, float]  # a folder, or several with their weights


def shard_batches(
    shards: Shards,
    batch_size: int,
    *,
    size: int,
    seed: int = 0,
    shuffle: bool = True,
    crop: float | None = None,
    flip: bool = False,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    part: Part | None = None,
    limits: SkipLimits | None = None,
) -> Iterator[Batch]:
    """Endless batches of WebDataset shards, stretched to size x size, captions cleaned.

    Of a `part`, its samples alone. With `crop`, a random part of each picture is taken, of at least that share of its
    area; with `flip`, half of them are mirrored. `start` counts samples over all ranks. The canonical wording is
    "canonical" in a sample's JSON, or else its caption. `workers` processes read ahead, the same batches in the same
    order. Samples that cannot be read are left out up to `limits`, as `ShardSamples` does. Raises DataError as it does.
    """
    samples = _samples(shards, seed, shuffle, part, limits)
    if start % world_size:
        raise DataError(f"cannot start at sample {start}: not a multiple of {world_size} ranks")
    read = partial(_read, samples, batch_size, size, seed, crop, flip, start + rank, world_size)
    return _read_ahead(read, workers) if workers else read(0, 1)


def _samples(
    shards: Shards, seed: int, shuffle: bool, part: Part | None, limits: SkipLimits | None
) -> ShardSamples | MixedSamples:
    if isinstance(shards, Mapping):
        return MixedSamples(shards, seed=seed, shuffle=shuffle, part=part, limits=limits)
    return ShardSamples(shards, seed=seed, shuffle=shuffle, part=part, limits=limits)


def shard_batches_once(
    shards: Shards,
    batch_size: int,
    count: int,
    *,
    size: int,
    rank: int = 0,
    world_size: int = 1,
    part: Part | None = None,
    limits: SkipLimits | None = None,
) -> Iterator[Batch]:
    """At most `count` batches of shards in the order they were written, in which no sample comes twice.

    Every rank has as many, of the same size: see `even_batches`. Raises DataError as it and `shard_batches` do.
    """
    samples = _samples(shards, 0, False, part, limits)
    count, batch_size = even_batches(samples.epoch_size, batch_size, count, world_size)
    places = list(islice(samples.once(), count * batch_size * world_size))[rank::world_size]
    return islice(_shard_batches(zip(places, samples.at(places), strict=True), batch_size, size, 0, None, False), count)


def even_batches(available: int, batch_size: int, count: int, world_size: int) -> tuple[int, int]:
    """How many batches of what size each rank takes of so many samples, so that none is taken twice.

    At most `count` of `batch_size`; of fewer samples than one such batch a rank, one smaller batch. Raises DataError
    for fewer samples than ranks.
    """
    if available < world_size:
        raise DataError(f"{available} samples to validate on are too few for {world_size} ranks")
    whole = min(count, available // (batch_size * world_size))
    return (whole, batch_size) if whole else (1, available // world_size)


def _read(
    samples: ShardSamples | MixedSamples, batch_size: int, size: int, seed: int, crop: float | None, flip: bool,
    first: int, step: int, worker: int, of: int,
) -> Iterator[Batch]:  # fmt: skip
    """Each of-th batch from that of `worker` on, of the samples at every step-th place from `first` on."""
    batches = itertools.count(worker, of)
    places = (first + (batch * batch_size + i) * step for batch in batches for i in range(batch_size))
    here, there = itertools.tee(places)
    return _shard_batches(zip(here, samples.at(there), strict=True), batch_size, size, seed, crop, flip)


def _read_ahead(read: Callable[[int, int], Iterator[Batch]], workers: int) -> Iterator[Batch]:
    loader = DataLoader(_Batches(read), batch_size=None, num_workers=workers, worker_init_fn=_leave_signals_to_parent)
    for batch in loader:
        if isinstance(batch, SeedTokError):
            raise batch
        yield batch


def _leave_signals_to_parent(_: int) -> None:
    """Ctrl-C and SIGTERM reach a whole group of processes; a worker ends with its parent, which stops in order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class _Batches(IterableDataset[Batch | SeedTokError]):
    """Every worker of a loader makes each of-th batch; the loader takes them in turn."""

    def __init__(self, read: Callable[[int, int], Iterator[Batch]]) -> None:
        self.read = read

    def __iter__(self) -> Iterator[Batch | SeedTokError]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.read(info.id, info.num_workers)
        except SeedTokError as error:  # as it is: the loader would raise one with a traceback in its message
            yield error


def _shard_batches(
    samples: Iterator[tuple[int, Sample]], batch_size: int, size: int, seed: int, crop: float | None, flip: bool
) -> Iterator[Batch]:
    while True:
        batch = list(islice(samples, batch_size))
        squares = []
        for index, sample in batch:
            if crop is None and not flip:
                squares.append(_stretched(sample.image, size))
            else:
                squares.append(_augmented(sample.image, size, np.random.default_rng([13, seed, index]), crop, flip))
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in squares])).permute(0, 3, 1, 2)
        yield worded(pixels, [s.caption for _, s in batch], [s.metadata for _, s in batch])


def worded(pixels: Tensor, captions: list[str], metadata: list[dict[str, Any]]) -> Batch:
    """A batch with its captions cleaned; canonical wordings are "canonical" in the metadata, or else the captions."""
    cleaned = [clean_caption(text) for text in captions]
    stored = [known.get("canonical") for known in metadata]
    canonical = [text if isinstance(text, str) else said for text, said in zip(stored, cleaned, strict=True)]
    return Batch(pixels, cleaned, canonical, metadata)


def _stretched(image: Image.Image, size: int) -> Image.Image:
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC)


def _augmented(image: Image.Image, size: int, rng: np.random.Generator, crop: float | None, flip: bool) -> Image.Image:
    """A random part of a picture, of an aspect from 3:4 to 4:3, at size x size; the whole where none fits."""
    box = None
    if crop is not None:
        for _ in range(10):
            area = image.width * image.height * rng.uniform(crop, 1)
            aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
            width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if width <= image.width and height <= image.height:
                left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
                box = (int(left), int(top), int(left) + width, int(top) + height)
                break
    cut = image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip and rng.random() < 0.5 else cut
