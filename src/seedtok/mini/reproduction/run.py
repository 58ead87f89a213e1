"""A whole reproduction: every part trained, every table measured, one report."""

import json
from pathlib import Path

import torch

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import ConfigError
from seedtok.core.files import read_json
from seedtok.core.locks import locked
from seedtok.mini.reproduction.jobs import Job, Report, run_jobs
from seedtok.mini.reproduction.parts import PARTS, TABLES, Part, Table, result
from seedtok.mini.reproduction.report import write_report
from seedtok.mini.reproduction.tables import table_file
from seedtok.training.checkpoints import holds_run


def reproduce(out: Path, say: Report, smoke: bool = False, device: str = "cpu", workers: int = 2) -> Path:
    """Trains every part of the mini size from nothing and measures every table; returns the report's path.

    What an earlier call finished in `out` stays, and what it began goes on. On a CPU, `workers` jobs of one thread run
    at once. Raises TrainingError where a part fails, BusyError where another process works in `out`, and ConfigError
    where `out` is of a smoke test and this is none, or the other way round.
    """
    out = out.absolute()
    with locked(out):
        _check_same(out, smoke)
        jobs = [_training(part, out, smoke, device) for part in PARTS]
        jobs += [_measuring(table, name, out, smoke, device) for table in TABLES for name in table.sets]
        run_jobs(jobs, workers, say)
        return write_report(out)


def _check_same(out: Path, smoke: bool) -> None:
    path = out / "reproduction.json"
    if path.is_file() and (was := read_json(path).get("smoke")) is not smoke:
        raise ConfigError(
            f"{out} was begun {'with' if was else 'without'} --smoke: go on like that, or choose another folder"
        )
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps({"smoke": smoke}))


def _training(part: Part, out: Path, smoke: bool, device: str) -> Job:
    folder = out / "runs" / part.name
    arguments = ["seedtok", "train", part.recipe().recipe, "--out", str(folder), "--device", device]
    arguments += ["--resume"] if holds_run(folder) else part.overrides(out, smoke)
    log = out / "logs" / f"{part.name}.txt"
    return Job(part.name, tuple(arguments), tuple(part.inputs.values()), result(out, part.name), log)


def _measuring(table: Table, name: str, out: Path, smoke: bool, device: str) -> Job:
    count = table.smoke_count if smoke else table.count
    arguments = ("seedtok.mini.reproduction.tables", str(out), table.name, name, str(count), device)
    log = out / "logs" / f"{table.name}-{name}.txt"
    return Job(f"{table.name} ({name})", arguments, table.needs, table_file(out, table.name, name), log)


def device_of(where: str) -> str:
    """The device of "cpu" or "gpu", which takes any GPU there is."""
    if where == "cpu":
        return "cpu"
    return "mps" if not torch.cuda.is_available() and torch.backends.mps.is_available() else "cuda"
