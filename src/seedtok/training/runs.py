"""The configuration of a run on disk: written at the start, read to resume, and which settings may change then."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.training.config import RunConfig
from seedtok.training.settings import Settings, read_settings, settings_json

# What changes neither the steps of a run nor what they learn from.
HARMLESS = (
    "sharded", "data.workers", "log_every", "validate_every", "validate_batches", "checkpoint_every",
    "keep_checkpoints", "data.bad_share", "stage.usage_warning", "timeout_minutes",
)  # fmt: skip
# What a run may go on with otherwise, and is then shown. The first line is for a run whose loss was no longer a number.
# None of the others changes what a step learns from, as long as batch size, accumulation and ranks multiply to the
# same; but accumulation does in stages I and II, whose negatives and codebook are of micro-batches. More steps stretch
# the rest of the learning rate's cosine.
MAY_CHANGE = (
    "optimization.lr", "optimization.max_grad_norm", "precision", "frozen_precision",
    "optimization.steps", "optimization.batch_size", "optimization.accumulate", *HARMLESS,
)  # fmt: skip


def write_config(config: RunConfig, out: Path) -> None:
    """Writes the run as OUT/config.json."""
    with atomic_file(out / "config.json") as temporary:
        temporary.write_text(settings_json(config))


def read_config(out: Path, known: Iterable[RunConfig]) -> RunConfig:
    """The configuration of the run in a folder, with the settings classes of the one in `known` of the same recipe.

    Raises CheckpointError where there is none, where it is not what `write_config` writes, or of no recipe in `known`.
    """
    path = out / "config.json"
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: {path} is missing")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name = record["recipe"]
        if not isinstance(name, str):
            raise TypeError(f"recipe is {str(name)[:40]}")
        like = next((config for config in known if config.recipe == name), None)
        if like is not None:
            return read_settings(like, record)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path} is not the configuration of a run: {where}: {first['msg']}") from None
    except KeyError as error:
        raise CheckpointError(f"{path} is not the configuration of a run: it has no {error}") from None
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not the configuration of a run: {error}") from None
    raise CheckpointError(f"{path} is of a recipe {name[:40]!r}, which is neither shipped nor the one given")


def with_precision_of(before: RunConfig, now: RunConfig) -> RunConfig:
    """A run as it would now be, with precision "auto" resolved as it was when the run began."""
    return now.model_copy(update={"precision": before.precision}) if now.precision == "auto" else now


def changes(before: RunConfig, now: RunConfig) -> list[str]:
    """The settings that a resumed run changes, one a line; raises ConfigError, naming all, for those it may not.

    Data and checkpoints that a run stands on may lie elsewhere by now.
    """
    allowed, refused = [], []
    for key, old, new in differences(before, now):
        (allowed if key in MAY_CHANGE or _is_moved(key, old, new) else refused).append(
            f"{key} was {_shown(old)} and is {_shown(new)} now"
        )
    if refused:
        raise ConfigError(
            f"a run goes on as it began: {'; '.join(refused)}. Leave that out, or start another run; what may change: "
            f"{', '.join(MAY_CHANGE)}, and the folders of data and of checkpoints"
        )
    return allowed


def _is_moved(key: str, old: Any, new: Any) -> bool:
    """Whether a setting of a stage or of data has a path for a path, and is otherwise as it was."""
    if not key.startswith(("stage.", "data.")):
        return False
    if isinstance(old, tuple) and isinstance(new, tuple) and len(old) == len(new):
        return all(one == other or _is_moved(key, one, other) for one, other in zip(old, new, strict=True))
    if key == "data.shards" and isinstance(old, dict) and isinstance(new, dict):  # folders with their weights
        return list(old.values()) == list(new.values())
    return all(isinstance(one, Path) or (isinstance(one, str) and "/" in one) for one in (old, new))


def differences(before: Settings, now: Settings, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dotted name of each setting that differs, with both values."""
    for name in type(before).model_fields:
        old, new = getattr(before, name), getattr(now, name)
        if isinstance(old, Settings) and isinstance(new, Settings):
            yield from differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield f"{prefix}{name}", old, new


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)
