"""Predictions on disk, written as they are made, so that a run that was stopped goes on and can be scored again.

A folder holds `settings.json`, what the predictions were made by and of; `NAME.json`, the predictions of each model,
in the format of the official evaluations; `unreadable.json`, the pictures that could not be read; and `result.json`,
the scores. While predictions are made, those of each batch of pictures are a file of their own in `parts/NAME`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError
from seedtok.core.records import json_value

Record = dict[str, Any]  # a prediction, by the names of the official formats
SETTINGS, UNREADABLE, RESULT = "settings.json", "unreadable.json", "result.json"


def can_name(name: str) -> bool:
    """Whether predictions can be called so: it is the name of a file, and not of one that every folder has."""
    taken = f"{name}.json" in (SETTINGS, UNREADABLE, RESULT)
    return Path(name).name == name and name not in ("", "..") and "\\" not in name and not taken


class Predictions:
    """The predictions in a folder; `prepare` starts a run or resumes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ------------------------------------------------------------ settings

    def prepare(self, settings: Mapping[str, Any]) -> None:
        """Notes what the predictions are made by and of.

        Raises DataError where the folder has predictions by other settings, or something else; and for a model whose
        name cannot be that of a file.
        """
        for name in settings["models"]:
            if not can_name(name):
                raise DataError(f"no name for predictions: {name!r}; expected one without folders")
        path = self.folder / SETTINGS
        if path.is_file():
            self.check(settings)
            return
        if self.folder.exists() and any(not p.name.startswith(".") for p in self.folder.iterdir()):
            raise DataError(f"{self.folder} is not empty and holds no predictions: choose a new folder with --out")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raises DataError where the folder's settings are others."""
        there, wanted = self.settings(), json.loads(json.dumps(settings))
        for name in [*there, *wanted]:
            if there.get(name) != wanted.get(name):
                raise DataError(
                    f"{self.folder} has predictions made with {name} {_shown(there.get(name))}, not "
                    f"{_shown(wanted.get(name))}: choose another folder with --out"
                )

    def settings(self) -> dict[str, Any]:
        """Raises DataError where there are none."""
        settings = read_json_file(self.folder / SETTINGS)
        if not isinstance(settings, dict):
            raise DataError(f"{self.folder / SETTINGS}: expected an object")
        return settings

    # ------------------------------------------------------------ parts

    def part(self, name: str, number: int) -> Path:
        return self.folder / "parts" / name / f"{number:06}.jsonl"

    def write_part(self, name: str, number: int, records: Iterable[Record]) -> None:
        """The predictions for one batch, whole or not at all."""
        path = self.part(name, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary:
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            temporary.write_text("".join(lines), encoding="utf-8", errors="replace")

    def is_complete(self, name: str) -> bool:
        return (self.folder / f"{name}.json").is_file()

    def join(self, name: str, count: int) -> None:
        """Joins the parts of `count` batches into the predictions of a model."""
        if self.is_complete(name):
            return
        made: list[Record] = []
        unreadable: list[Record] = []
        for number in range(count):
            for line in lines_of(self.part(name, number).read_text(encoding="utf-8")):
                record = json.loads(line)
                (unreadable if "unreadable" in record else made).append(record)
        if not made:
            reason = f"; the first: {unreadable[0]['unreadable']}" if unreadable else ""
            raise DataError(f"none of {len(unreadable):,} pictures can be read{reason}")
        write_json(self.folder / UNREADABLE, unreadable)
        write_json(self.folder / f"{name}.json", made)
        shutil.rmtree(self.folder / "parts" / name, ignore_errors=True)

    # ------------------------------------------------------------ whole

    def read(self, name: str) -> list[Record]:
        """The predictions of a model; raises DataError where they are not complete."""
        path = self.folder / f"{name}.json"
        if not path.is_file():
            raise DataError(f"{self.folder} has no {path.name}: its evaluation was stopped; run it again to go on")
        return records_of(path)

    def every(self) -> dict[str, list[Record]]:
        """The predictions of all models, by their names in the settings."""
        return {name: self.read(name) for name in self.settings()["models"]}

    def unreadable(self) -> list[Record]:
        path = self.folder / UNREADABLE
        return read_json_file(path) if path.is_file() else []


def lines_of(text: str) -> list[str]:
    """The lines of JSON lines that are not blank; a string in one may have separators that `splitlines` splits at."""
    return [line for line in text.split("\n") if line.strip()]


def records_of(path: Path) -> list[Record]:
    """A JSON list of objects, or a JSON object a line; raises DataError for anything else."""
    try:
        text = path.read_text("utf-8-sig")
        records = json_value(text) if text.lstrip().startswith("[") else [
            json_value(line) for line in lines_of(text)
        ]  # fmt: skip
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); is it cut off?") from None
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise DataError(f"{path}: expected a list of predictions, each an object")
    return records


def read_json_file(path: Path) -> Any:
    """Raises DataError for a file that is missing or no JSON."""
    try:
        return json_value(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None


def write_json(path: Path, value: Any) -> None:
    """A list with an element a line, anything else indented."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        if isinstance(value, list):
            lines = (json.dumps(element, ensure_ascii=False) for element in value)
            file.write("[" + ",\n".join(lines) + "]\n")
        else:
            file.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def hash_of(settings: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that are alike for the same settings on any machine."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
