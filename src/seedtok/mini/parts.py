"""Training runs that need one another's results, in the folder that holds all of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import ConfigError
from seedtok.core.files import read_json
from seedtok.training.config import RunConfig

SMOKE = (
    "optimization.steps=12", "optimization.warmup_steps=4", "optimization.batch_size=8", "log_every=4",
    "validate_every=12", "validate_batches=1", "checkpoint_every=1000",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """A training run: a recipe, which of its settings are the results of other parts, and which differ from it."""

    name: str
    recipe: Callable[[], RunConfig]
    inputs: dict[str, str] = field(default_factory=dict)  # a setting -> the part whose result it is
    smoke: tuple[str, ...] = ()  # settings of the smoke test, beside those of `SMOKE`
    settings: tuple[str, ...] = ()  # in place of the recipe's

    def overrides(self, out: Path, smoke: bool) -> list[str]:
        """The settings of this run in that folder."""
        inputs = [f"{key}={result(out, part)}" for key, part in self.inputs.items()]
        return [*inputs, *(SMOKE + self.smoke if smoke else ()), *self.settings]


def result(out: Path, part: str) -> Path:
    """Where the result of a part lies in the folder of all of them."""
    return out / "runs" / part / "final"


def holds_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a whole checkpoint: the file that is written last is there."""
    return any((folder / name).is_file() for name in ("config.json", "model_index.json"))


def check_same(path: Path, settings: dict[str, Any]) -> None:
    """Compares what a chain of runs is begun with to what `keep_same` has written into a file, if it is there.

    Raises ConfigError where the file says otherwise; of settings that it does not name it says nothing.
    """
    before = read_json(path) if path.is_file() else settings
    for name, value in settings.items():
        if before.get(name, value) != value:
            raise ConfigError(
                f"{path.parent} was begun with {name} {json.dumps(before.get(name))}, not {json.dumps(value)}: go on "
                "like that, or choose another folder"
            )


def keep_same(path: Path, settings: dict[str, Any]) -> None:
    """Writes what a chain of runs is begun with into a file; raises as `check_same` does.

    To be called last of all that can refuse to begin: it makes the folder one of these settings.
    """
    check_same(path, settings)
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(settings, indent=1))
