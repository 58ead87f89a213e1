"""The checkpoints that a run stands on: which ones they were when it began, and whether they still are."""

import json
from pathlib import Path

from seedtok.core.atomic import atomic_file
from seedtok.core.files import hash_of_files, read_json
from seedtok.core.hub import MINI
from seedtok.training.config import RunConfig

FILE = "sources.json"  # hashes of checkpoints, by the settings that name their folders


def write_sources(config: RunConfig, out: Path) -> None:
    """Writes OUT/sources.json, when a run begins."""
    with atomic_file(out / FILE) as temporary:
        temporary.write_text(json.dumps(_hashes(config), indent=1))


def replaced_sources(config: RunConfig, out: Path) -> list[str]:
    """A line for each checkpoint that is another than when the run began; none where that was not written.

    Raises CheckpointError where what was written cannot be read.
    """
    before = read_json(out / FILE) if (out / FILE).is_file() else {}
    return [
        f"{key}: {getattr(config.stage, key.removeprefix('stage.'))} is another checkpoint than when the run began"
        for key, found in _hashes(config).items()
        if before.get(key, found) != found
    ]


def _hashes(config: RunConfig) -> dict[str, str]:
    values = {f"stage.{name}": getattr(config.stage, name) for name in type(config.stage).model_fields}
    folders = {key: Path(value) for key, value in values.items() if isinstance(value, str | Path) and value != MINI}
    return {key: hash_of_files(folder) for key, folder in folders.items() if folder.is_dir()}
