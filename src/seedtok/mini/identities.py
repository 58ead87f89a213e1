"""Which models scores and predictions are of: they are made again once one of those is another."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seedtok.core.files import read_json
from seedtok.evaluation.foreign import identity_of
from seedtok.evaluation.predictions import SETTINGS
from seedtok.mini.parts import holds_checkpoint, result

NAME = "models"  # of the identities in a file of scores, by the names of parts
MADE_BY = "trained"  # of the same in the settings of predictions

Identities = dict[str, dict[str, str]]


def identities(out: Path, parts: Iterable[str]) -> Identities:
    """What tells the results of parts from others that may lie there later."""
    return {part: identity_of(result(out, part)) for part in parts}


def is_outdated(scores: Path, models: Mapping[str, Path]) -> bool:
    """Whether a file of scores is of another model than one of those in the folders, by the names that it has for them.

    Not where it does not say, as those of earlier versions do not, nor where a folder is gone: runs may be removed once
    they are measured.
    """
    found: Any = read_json(scores).get(NAME)
    if not isinstance(found, dict) or not all(map(holds_checkpoint, models.values())):
        return False
    return any(found.get(name) != identity_of(folder) for name, folder in models.items())


def remove_others(predictions: Path, of: Identities) -> None:
    """Empties a folder of predictions, with those below it, where some are of other models."""
    if any(read_json(path).get(MADE_BY) != of for path in predictions.rglob(SETTINGS)):
        shutil.rmtree(predictions)
