"""What a run learns from, and what it is validated on: never the same pictures."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from seedtok.core.errors import ConfigError, DataError
from seedtok.data.batches import (
    Batch,
    scene_batches,
    shard_batches,
    shard_batches_once,
)
from seedtok.data.code_batches import code_batches, code_batches_once
from seedtok.data.codes import code_files
from seedtok.data.held_out import Part
from seedtok.data.skipping import SkipLimits
from seedtok.mini.world.scenes import Split
from seedtok.training.config import Data, RunConfig


def check_data(data: Data) -> None:
    """Raises ConfigError for data that leave it open what to train or to validate on, or name the same for both."""
    name = "data.codes" if data.codes is not None else "data.shards"
    source = data.codes if data.codes is not None else data.shards
    if data.codes is not None and data.shards is not None:
        raise ConfigError("data.codes and data.shards are both given: a run trains on one of them")
    if source is not None and data.validation is None:
        raise ConfigError(
            f"{name} without data.validation: hold out a share of its pictures, such as data.validation=0.01, or name "
            "a folder of other shards or codes"
        )
    if source is None and isinstance(data.validation, float):
        raise ConfigError("data.validation is a share, and there are no data.shards or data.codes to hold it out of")
    if isinstance(data.validation, Path):
        trained = [source] if isinstance(source, Path) else [Path(path) for path in source or {}]
        if _files(data.validation) & set().union(*map(_files, trained)):
            raise ConfigError(
                f"data.validation is what {name} trains on, {data.validation}: name another folder, or hold out a "
                "share, such as data.validation=0.01"
            )


def _files(source: Path) -> set[Path]:
    """The shards or files of codes of a folder, or the one file; the folder itself where it has none."""
    found = [*source.glob("*.tar"), *code_files(source)] if source.is_dir() else []
    return {path.resolve() for path in found or [source]}


def batches(
    config: RunConfig, split: Split, start: int, rank: int, world_size: int, skipped: Path | None = None
) -> Iterator[Batch]:
    """A run's training data from sample `start` on, this rank's share, without end; of scenes, those of any split.

    Samples that cannot be read are listed in the file `skipped`.
    """
    size, data = config.optimization.batch_size, config.data
    part = Part(data.validation, held_out=False) if isinstance(data.validation, float) else None
    if data.codes is not None:
        return code_batches(
            data.codes, size, seed=config.seed, start=start, rank=rank, world_size=world_size, part=part
        )
    if data.shards is not None:
        return shard_batches(
            data.shards, size, size=data.size, seed=config.seed, crop=data.crop, flip=data.flip,
            start=start, rank=rank, world_size=world_size, workers=data.workers, part=part,
            limits=SkipLimits(data.bad_share, log=skipped),
        )  # fmt: skip
    return _scenes(config, split, start, rank, world_size)


def _scenes(config: RunConfig, split: Split, start: int, rank: int, world_size: int) -> Iterator[Batch]:
    return scene_batches(
        split, config.optimization.batch_size, size=config.data.size, seed=config.seed, group=config.data.group,
        random_phrasing=config.data.phrasing == "random", start=start, rank=rank, world_size=world_size,
    )  # fmt: skip


def held_out_batches(config: RunConfig, rank: int, world_size: int) -> list[Batch]:
    """What a run is validated on, this rank's part: at most `validate_batches` batches, equally many on every rank.

    Fewer where there are fewer samples; none comes twice. Ranks with 1/n of the batch each have together what one
    process has. Raises DataError where there is nothing to read.
    """
    size, count, data = config.optimization.batch_size, config.validate_batches, config.data
    if data.validation is None or data.validation == "scenes":
        return list(islice(_scenes(config, "validation", 0, rank, world_size), count))
    if isinstance(data.validation, Path):
        part, (codes, shards) = None, _folder(data.validation)
    else:
        part, codes, shards = Part(data.validation, held_out=True), data.codes, data.shards
    if codes is not None:
        return list(code_batches_once(codes, size, count, rank=rank, world_size=world_size, part=part))
    assert shards is not None
    return list(
        shard_batches_once(
            shards, size, count, size=data.size, rank=rank, world_size=world_size, part=part,
            limits=SkipLimits(data.bad_share),
        )
    )  # fmt: skip


def _folder(path: Path) -> tuple[Path | None, Path | None]:
    """A folder or file of codes, or one of shards, as (codes, shards)."""
    if path.suffix == ".parquet" and path.is_file():
        return path, None
    if path.suffix == ".tar" or next(path.glob("*.tar"), None):
        return None, path
    if path.is_dir() and code_files(path):
        return path, None
    raise DataError(f"data.validation: {path} has no shards (.tar) and no codes (.parquet of `seedtok tokenize`)")


def first_batches(config: RunConfig, count: int) -> Iterable[Batch]:
    """The first training batches of a run, read by this process itself."""
    alone = config.data.model_copy(update={"workers": 0})
    return islice(batches(config.model_copy(update={"data": alone}), "train", 0, 0, 1), count)
