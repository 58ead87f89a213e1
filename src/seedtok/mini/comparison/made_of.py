"""What the runs behind scores were trained with and on, kept with the scores: runs may be removed once measured."""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from json import loads
from pathlib import Path
from typing import Any

from seedtok.core.errors import ConfigError
from seedtok.core.files import hash_of_files, read_json
from seedtok.mini.comparison.runs import FOUNDATIONS
from seedtok.mini.parts import Part, holds_checkpoint, result
from seedtok.training.config import with_overrides
from seedtok.training.runs import HARMLESS
from seedtok.training.settings import settings_json

SETTINGS, ON = "settings", "foundations"  # in a file of scores: by the names of runs, and of what they stand on
FOUNDATION_NAMES = frozenset(part.name for part in FOUNDATIONS)


def made_of(out: Path, names: Iterable[str], parts: Mapping[str, Part]) -> dict[str, Any]:
    """The settings of runs in a folder and of those they stand on, and a hash of the weights of each foundation.

    Of what has been removed from the folder it says nothing.
    """
    settings, foundations, left = {}, {}, list(names)
    while left:
        name = left.pop()
        config = out / "runs" / name / "config.json"
        if name in FOUNDATION_NAMES:
            if holds_checkpoint(result(out, name)):
                foundations[name] = _weights(result(out, name))
        elif name not in settings and config.is_file():
            settings[name] = _settings(read_json(config), parts[name])
            left += parts[name].inputs.values()
    return {SETTINGS: settings, ON: foundations}


def check_made_of(files: Iterable[Path], out: Path, parts: Mapping[str, Part], smoke: bool) -> None:
    """Raises ConfigError where scores are of a run with other settings than it would now have, or of other foundations.

    Of a setting, or a foundation, that one of the two does not have it says nothing: earlier versions kept neither.
    """
    remedy = "choose another folder, or remove that file"

    @cache  # several files are of one run, and most of one foundation
    def settings_now(name: str) -> dict[str, Any]:
        part = parts.get(name)
        if part is None:  # of another version of this package
            return {}
        return _settings(loads(settings_json(with_overrides(part.recipe(), part.overrides(out, smoke)))), part)

    @cache
    def weights_now(name: str) -> str | None:
        return _weights(result(out, name)) if holds_checkpoint(result(out, name)) else None

    for scores in files:
        found = read_json(scores)
        for name, before in found.get(SETTINGS, {}).items():
            now = settings_now(name)
            for key in before.keys() & now.keys():
                if before[key] != now[key] and (key, now[key]) != ("precision", "auto"):
                    raise ConfigError(
                        f"{scores} is of {name} with {key}={before[key]}, which would now be {now[key]}: {remedy}"
                    )
        for name, before in found.get(ON, {}).items():
            if weights_now(name) not in (None, before):
                raise ConfigError(f"{scores} is of runs on another {name} than {result(out, name)}: {remedy}")


def _weights(folder: Path) -> str:
    return hash_of_files(folder, "*.safetensors")  # a later version may write the same weights with another config.json


def _settings(record: Mapping[str, Any], part: Part) -> dict[str, Any]:
    """What a run learns from, by dotted names: without where its inputs lie and what changes nothing."""
    return {key: value for key, value in _flat(record) if key not in (*part.inputs, *HARMLESS)}


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
