"""Batches of pictures and captions, each a function of (split, seed, position) alone, so that runs resume exactly."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from seedtok.data.codes import Codes, read_codes
from seedtok.data.grammar import same_scene
from seedtok.data.mixtures import MixedSamples
from seedtok.data.scenes import PHRASINGS, Scene, Split, caption, render, scene_stream
from seedtok.data.shards import Sample, ShardSamples
from seedtok.data.text import clean_caption
from seedtok.errors import DataError


@dataclass(frozen=True)
class Batch:
    """`pixels` (B, 3, H, W) uint8; `captions`, one wording each; `canonical`, what features are learnt of.

    `codes` (B, 32) int64, where the pictures were tokenised before, by the tokenizer `codes_of`.
    """

    pixels: Tensor
    captions: list[str]
    canonical: list[str]
    scenes: list[Scene] | None = None
    codes: Tensor | None = None
    codes_of: str = ""

    def to(self, device: torch.device) -> "Batch":
        codes = None if self.codes is None else self.codes.to(device)
        return replace(self, pixels=self.pixels.to(device), codes=codes)


def to_batch(scenes: list[Scene], size: int, phrasings: list[int] | None = None) -> Batch:
    """Renders scenes and words their captions; canonical wordings where `phrasings` is None."""
    pixels = torch.from_numpy(np.stack([render(scene, size) for scene in scenes])).permute(0, 3, 1, 2)
    canonical = [caption(scene) for scene in scenes]
    if phrasings is None:
        return Batch(pixels, canonical, canonical, scenes)
    return Batch(pixels, [caption(s, p) for s, p in zip(scenes, phrasings, strict=True)], canonical, scenes)


def right_captions(said: list[str], batch: Batch) -> list[bool]:
    """Which of the captions of a batch's first pictures say what is there: in any wording, where it has scenes."""
    if batch.scenes is None:
        return [text == right for text, right in zip(said, batch.canonical[: len(said)], strict=True)]
    return [same_scene(text, scene) for text, scene in zip(said, batch.scenes[: len(said)], strict=True)]


def scene_batches(
    split: Split,
    batch_size: int,
    *,
    size: int = 128,
    seed: int = 0,
    group: int = 1,
    random_phrasing: bool = True,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Endless batches rendered on the fly; `start` counts samples over all ranks."""
    stream = scene_stream(split, seed, start + rank, world_size, group)
    index = start + rank
    while True:
        scenes = [next(stream) for _ in range(batch_size)]
        phrasings = None
        if random_phrasing:
            indices = (index + i * world_size for i in range(batch_size))
            phrasings = [int(np.random.default_rng([7, seed, i]).integers(PHRASINGS)) for i in indices]
        index += batch_size * world_size
        yield to_batch(scenes, size, phrasings)


def shard_batches(
    shards: Path | Mapping[str, float],
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
) -> Iterator[Batch]:
    """Endless batches of WebDataset shards, stretched to size x size, captions cleaned.

    `shards` is a folder, or several with their weights. With `crop`, a random part of each picture is taken, of at
    least that share of its area; with `flip`, half of them are mirrored. `start` counts samples over all ranks. A batch
    all of whose samples are scenes has these as `scenes`, and their canonical wordings; else the canonical wordings are
    the captions. `workers` processes read ahead, the same batches in the same order. Raises DataError as `ShardSamples`
    does.
    """
    if isinstance(shards, Mapping):
        samples = MixedSamples(shards, seed=seed, shuffle=shuffle)
    else:
        samples = ShardSamples(shards, seed=seed, shuffle=shuffle, rank=rank, world_size=world_size)
    if start % world_size:
        raise DataError(f"cannot start at sample {start}: not a multiple of {world_size} ranks")
    read = partial(_read, samples, batch_size, size, seed, crop, flip, start + rank, world_size)
    return iter(DataLoader(_Batches(read), batch_size=None, num_workers=workers)) if workers else read(0, 1)


def _read(
    samples: ShardSamples | MixedSamples, batch_size: int, size: int, seed: int, crop: float | None, flip: bool,
    first: int, step: int, worker: int, of: int,
) -> Iterator[Batch]:  # fmt: skip
    """Each of-th batch from that of `worker` on, of the samples at every step-th place from `first` on."""
    batches = itertools.count(worker, of)
    places = (first + (batch * batch_size + i) * step for batch in batches for i in range(batch_size))
    here, there = itertools.tee(places)
    return _shard_batches(zip(here, samples.at(there), strict=True), batch_size, size, seed, crop, flip)


class _Batches(IterableDataset[Batch]):
    """Every worker of a loader makes each of-th batch; the loader takes them in turn."""

    def __init__(self, read: Callable[[int, int], Iterator[Batch]]) -> None:
        self.read = read

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        assert info is not None
        return self.read(info.id, info.num_workers)


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
        yield _worded(pixels, [s.caption for _, s in batch], [_scene_of(s.metadata) for _, s in batch])


def code_batches(
    source: Path,
    batch_size: int,
    *,
    seed: int = 0,
    shuffle: bool = True,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Endless batches of what `seedtok tokenize` wrote: codes and captions, without pixels (B, 3, 0, 0).

    Every epoch has its own order. `start` counts samples over all ranks. Raises DataError as `read_codes` does.
    """
    return _code_batches(read_codes(source), batch_size, seed if shuffle else None, start + rank, world_size)


def _code_batches(stored: Codes, batch_size: int, seed: int | None, index: int, step: int) -> Iterator[Batch]:
    count, epoch, rows = len(stored), -1, np.arange(len(stored))
    scenes = [_scene_of(record) for record in stored.metadata]
    codes = torch.from_numpy(stored.codes.astype(np.int64))
    while True:
        chosen = []
        for _ in range(batch_size):
            if index // count != epoch and seed is not None:
                epoch = index // count
                rows = np.random.default_rng([11, seed, epoch]).permutation(count)
            chosen.append(int(rows[index % count]))
            index += step
        pixels = torch.zeros(batch_size, 3, 0, 0, dtype=torch.uint8)
        batch = _worded(pixels, [stored.captions[i] for i in chosen], [scenes[i] for i in chosen])
        yield replace(batch, codes=codes[chosen], codes_of=stored.tokenizer)


def _worded(pixels: Tensor, captions: list[str], scenes: list[Scene | None]) -> Batch:
    """A batch with its captions cleaned; with scenes, and their canonical wordings, where all of it are scenes."""
    cleaned, known = [clean_caption(text) for text in captions], [scene for scene in scenes if scene is not None]
    if len(known) == len(scenes):
        return Batch(pixels, cleaned, [caption(scene) for scene in known], known)
    return Batch(pixels, cleaned, cleaned)


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


def _scene_of(metadata: dict[str, Any]) -> Scene | None:
    """The scene that `write_scene_shards` stored; None for anything else."""
    record = metadata.get("scene")
    try:
        return None if record is None else Scene.from_json(record)
    except DataError:
        return None  # somebody's own field of that name
