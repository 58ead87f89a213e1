"""The checkpoints and the data that a run stands on: what they were when it began, and whether they still are."""

import hashlib
import json
from pathlib import Path
from typing import Any

from seedtok.core.atomic import atomic_file
from seedtok.core.files import hash_of_files, read_json
from seedtok.core.hub import MINI
from seedtok.training.config import RunConfig
from seedtok.training.source import data_files

FILE = "sources.json"  # hashes of checkpoints and of lists of files, by the settings that name their folders


def write_sources(config: RunConfig, out: Path) -> None:
    """Writes OUT/sources.json, when a run begins."""
    with atomic_file(out / FILE) as temporary:
        temporary.write_text(json.dumps(_hashes(config), indent=1))


def replaced_sources(config: RunConfig, out: Path) -> list[str]:
    """A line for each checkpoint, or folder of data, that is another than when the run began, as far as that is known.

    Raises CheckpointError where what was written cannot be read.
    """
    before = read_json(out / FILE) if (out / FILE).is_file() else {}
    return [
        f"{key}: {getattr(config.stage, key.removeprefix('stage.'))} is another checkpoint than when the run began"
        if key.startswith("stage.")
        else f"{key} holds files of other names or sizes than when the run began"
        for key, found in _hashes(config).items()
        if before.get(key, found) != found
    ]


def _hashes(config: RunConfig) -> dict[str, str]:
    values = {f"stage.{name}": getattr(config.stage, name) for name in type(config.stage).model_fields}
    folders = {key: Path(value) for key, value in values.items() if isinstance(value, str | Path) and value != MINI}
    checkpoints = {key: hash_of_files(folder) for key, folder in folders.items() if folder.is_dir()}
    data = {f"data.{name}": _folders(getattr(config.data, name)) for name in type(config.data).model_fields}
    return checkpoints | {key: _hash_of_names(found) for key, found in data.items() if found}


def _folders(value: Any) -> list[Path]:
    """The folders that a setting of data names: one, several, or each with its weight."""
    several = value if isinstance(value, dict | list | tuple) else [value]
    return [Path(item) for item in several if isinstance(item, str | Path) and Path(item).is_dir()]


def _hash_of_names(folders: list[Path]) -> str:
    """Tells the names and sizes of the files in folders of data from others, wherever the folders lie."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(path for path in data_files(folder) if path != folder):
            digest.update(f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n".encode(errors="replace"))
    return digest.hexdigest()[:16]
