"""Where a run's samples come from: what it trains on, and what it is validated on, never the same images."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from seedtok.core.errors import ConfigError, DataError
from seedtok.core.images import Interpolation
from seedtok.data.batches import ALL_SAMPLES, Batch, Stride
from seedtok.data.code_batches import code_batches, code_batches_once
from seedtok.data.codes import code_files
from seedtok.data.held_out import Part
from seedtok.data.shard_batches import open_shards, shard_batches, shard_batches_once
from seedtok.data.skipping import SkipLimits
from seedtok.data.transforms import Transform
from seedtok.training.settings import Settings


class Data(Settings):
    """WebDataset shards, or codes of `seedtok tokenize`.

    `validation` says what a run is validated on and never trained on: a share above 0 and below 1 of the samples, held
    out by the hash of each image's identity; or a folder of other shards or codes.

    Other sources of samples are subclasses, which override `check`, `batches` and `held_out`.
    """

    shards: Path | dict[str, float] | None = None  # a folder, or several with their weights: {"cc3m": 3, "coco": 1}
    codes: Path | None = None  # for the language model's stages, which then compute no codes
    validation: Annotated[float, Field(gt=0, lt=1)] | Path | None = None
    size: int = Field(default=128, ge=1, le=8192)  # pixels a side
    crop: float | None = Field(default=None, gt=0, le=1)  # of shards: least share of an image's area in a random crop
    flip: bool = False  # of shards: mirror half of the images
    interpolation: Interpolation = "bicubic"  # of shards: how images are stretched, as the image encoder takes them
    workers: int = Field(default=0, ge=0)  # of shards: processes of each rank that read ahead
    bad_share: float = Field(default=0.01, ge=0, le=1)  # of shards: share of unreadable samples that is left out

    def check(self) -> None:
        """Raises ConfigError where it is open what to train or validate on, or where both are the same."""
        name = "data.codes" if self.codes is not None else "data.shards"
        source = self.codes if self.codes is not None else self.shards
        if source is None:
            raise ConfigError("no data to train on: give data.shards or data.codes")
        if self.codes is not None and self.shards is not None:
            raise ConfigError("data.codes and data.shards are both given: a run trains on one of them")
        if self.validation is None:
            raise ConfigError(
                f"{name} without data.validation: hold out a share of its pictures, such as data.validation=0.01, or "
                "name a folder of other shards or codes"
            )
        if isinstance(self.validation, Path):
            trained = [source] if isinstance(source, Path) else [Path(path) for path in source]
            used = {path.resolve() for folder in trained for path in data_files(folder)}
            if used.intersection(path.resolve() for path in data_files(self.validation)):
                raise ConfigError(
                    f"data.validation is what {name} trains on, {self.validation}: name another folder, or hold out a "
                    "share, such as data.validation=0.01"
                )

    def outline(self, batch_size: int, seed: int) -> Batch:
        """A batch of the run's sizes without pixels, on the meta device, and captions of twelve words: to plan with."""
        captions = ["a fox to the left of a cake on a pink background"] * batch_size
        pixels = torch.empty(batch_size, 3, self.size, self.size, dtype=torch.uint8, device="meta")
        return Batch(pixels, captions, captions)

    def batches(
        self, batch_size: int, seed: int, stride: Stride = ALL_SAMPLES, skipped: Path | None = None
    ) -> Iterator[Batch]:
        """Endless training batches of the samples of a stride.

        Samples that cannot be read are listed in the file `skipped`. Raises DataError as the readers of shards and
        codes do.
        """
        part = Part(self.validation, held_out=False) if isinstance(self.validation, float) else None
        if self.codes is not None:
            return code_batches(self.codes, batch_size, stride, seed=seed, part=part)
        assert self.shards is not None, "check() comes first"
        samples = open_shards(self.shards, seed=seed, part=part, limits=SkipLimits(self.bad_share, log=skipped))
        return shard_batches(
            samples, batch_size, Transform(self.size, self.crop, self.flip, self.interpolation), stride, self.workers
        )

    def first(self, batch_size: int, seed: int, count: int) -> Iterator[Batch]:
        """The first training batches of all ranks together, read by this process itself."""
        return islice(self.model_copy(update={"workers": 0}).batches(batch_size, seed), count)

    def held_out(self, batch_size: int, count: int, seed: int, stride: Stride = ALL_SAMPLES) -> list[Batch]:
        """What a rank validates on: at most `count` batches, as many and as large as every other rank's.

        Fewer where there are fewer samples; none comes twice. Ranks with 1/n of the batch each have together what one
        process has. Raises DataError where there is nothing to read.
        """
        if isinstance(self.validation, Path):
            part, (codes, shards) = None, _codes_or_shards(self.validation)
        else:
            assert self.validation is not None, "check() comes first"
            part, codes, shards = Part(self.validation, held_out=True), self.codes, self.shards
        if codes is not None:
            return list(code_batches_once(codes, batch_size, count, stride, part=part))
        assert shards is not None
        samples = open_shards(shards, shuffle=False, part=part, limits=SkipLimits(self.bad_share))
        transform = Transform(self.size, interpolation=self.interpolation)
        return list(shard_batches_once(samples, batch_size, count, transform, stride))


def data_files(source: Path) -> list[Path]:
    """The shards or files of codes of a folder, or the one file; the folder itself where it has none."""
    found = [*source.glob("*.tar"), *code_files(source)] if source.is_dir() else []
    return found or [source]


def _codes_or_shards(path: Path) -> tuple[Path | None, Path | None]:
    """A folder or file of codes, or one of shards, as (codes, shards)."""
    if path.suffix == ".parquet" and path.is_file():
        return path, None
    if path.suffix == ".tar" or next(path.glob("*.tar"), None):
        return None, path
    if path.is_dir() and code_files(path):
        return path, None
    raise DataError(f"data.validation: {path} has no shards (.tar) and no codes (.parquet of `seedtok tokenize`)")
