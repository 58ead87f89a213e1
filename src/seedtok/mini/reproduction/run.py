"""A whole reproduction: every part trained, every table measured, one report."""

from dataclasses import dataclass
from pathlib import Path

import torch

from seedtok.core.errors import ConfigError
from seedtok.core.files import read_json
from seedtok.core.locks import locked
from seedtok.mini.parts import Part, keep_same, result
from seedtok.mini.reproduction.jobs import Job, Report, run_jobs
from seedtok.mini.reproduction.parts import PARTS, TABLES, Table
from seedtok.mini.reproduction.report import write_report
from seedtok.mini.reproduction.tables import table_file
from seedtok.training.checkpoints import holds_run
from seedtok.training.config import with_overrides
from seedtok.training.runs import HARMLESS, differences, read_config, with_precision_of

COMPARISONS = "comparisons.json"  # what the comparisons of a folder have in common


@dataclass(frozen=True)
class Place:
    """Where a reproduction lies, an absolute path, and how its jobs run: `workers` at once, on a device."""

    out: Path
    smoke: bool = False
    device: str = "cpu"
    workers: int = 2

    def check(self) -> None:
        """Raises ConfigError where `out` is of a smoke test and this is none, or the other way round."""
        keep_same(self.out / "reproduction.json", {"smoke": self.smoke})


def reproduce(out: Path, say: Report, smoke: bool = False, device: str = "cpu", workers: int = 2) -> Path:
    """Trains every part of the mini size from nothing and measures every table; returns the report's path.

    What an earlier call finished in `out` stays, and what it began goes on. On a CPU, `workers` threads run at
    once. Raises TrainingError where a part fails, BusyError where another process works in `out`, and ConfigError
    where `out` is of a smoke test and this is none, or the other way round, or stands on the package's parts.
    """
    place = Place(out.absolute(), smoke, device, workers)
    with locked(place.out):
        place.check()
        comparisons = place.out / COMPARISONS
        if comparisons.is_file() and read_json(comparisons).get("shipped"):
            raise ConfigError(f"{out} stands on the package's parts: reproduce them in another folder")
        jobs = [training_job(part, place) for part in PARTS]
        jobs += [_measuring(table, name, place) for table in TABLES for name in table.sets]
        run_jobs(jobs, workers, say)
        return write_report(place.out)


def training_job(part: Part, place: Place) -> Job:
    """The job that trains a part: a new run, or its run in this folder, with its inputs where they now lie.

    Raises ConfigError where that run has other settings than a new one would have.
    """
    out, folder = place.out, place.out / "runs" / part.name
    arguments = ["seedtok", "train", part.recipe().recipe, "--out", str(folder), "--device", place.device]
    check_settings(part, place)
    arguments += part.overrides(out, place.smoke)
    log = out / "logs" / f"{part.name}.txt"
    return Job(part.name, tuple(arguments), tuple(part.inputs.values()), result(out, part.name), log, run=folder)


def check_settings(part: Part, place: Place) -> None:
    """Raises ConfigError for a run that would now learn from other settings, but for where its inputs lie."""
    folder = place.out / "runs" / part.name
    if not holds_run(folder):
        return
    before = read_config(folder, [part.recipe()])
    now = with_precision_of(before, with_overrides(part.recipe(), part.overrides(place.out, place.smoke)))
    for name, old, new in differences(before, now):
        if name not in (*part.inputs, *HARMLESS):
            raise ConfigError(
                f"{folder} was begun with {name}={old}, and would now be with {new}: choose another folder, or remove "
                "that run and what stands on it"
            )


def _measuring(table: Table, name: str, place: Place) -> Job:
    out, count = place.out, table.smoke_count if place.smoke else table.count
    arguments = ("seedtok.mini.reproduction.tables", str(out), table.name, name, str(count), place.device)
    log = out / "logs" / f"{table.name}-{name}.txt"
    models = tuple((part, result(out, part)) for part in table.needs)
    made = table_file(out, table.name, name)
    return Job(f"{table.name} ({name})", arguments, table.needs, made, log, models=models)


def device_of(where: str) -> str:
    """The device of "cpu" or "gpu", which takes any GPU there is."""
    if where == "cpu":
        return "cpu"
    return "mps" if not torch.cuda.is_available() and torch.backends.mps.is_available() else "cuda"
