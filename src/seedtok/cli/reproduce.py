"""`seedtok reproduce`: every part of the mini size trained from nothing, every table measured, one report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from seedtok.cli.support import check_folder, quiet, say
from seedtok.core.errors import ConfigError


class Where(StrEnum):
    cpu = "cpu"
    gpu = "gpu"


Size = Annotated[str, typer.Argument(metavar="SIZE", help="mini: the paper's own size takes a cluster.")]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of runs, tables and report.")]
Smoke = Annotated[bool, typer.Option("--smoke", help="Take a few steps of everything: it runs, and shows nothing.")]
On = Annotated[Where, typer.Option("--on", help="What computes.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Jobs at once; by default one a free core, or one on a GPU.")]
Compare = Annotated[
    str | None,
    typer.Option(metavar="QUESTION", help="One of table1, table2, table3, pilot, order, codebook, or all of them."),
]
Seeds = Annotated[int, typer.Option(min=1, help="Of --compare: runs of each row, with seeds from 1 on.")]
Scale = Annotated[float, typer.Option(min=0.0001, help="Of --compare: what the steps of each run are multiplied by.")]
Batch = Annotated[float, typer.Option(min=0.0001, help="Of --compare: what the batch of each run is multiplied by.")]
Rate = Annotated[float, typer.Option(min=0.0001, help="Of --compare: what the learning rate is multiplied by.")]
Shipped = Annotated[
    bool, typer.Option("--shipped", help="Of --compare: stand on the package's parts, in place of training them first.")
]


def reproduce(
    size: Size, folder: Folder, smoke: Smoke = False, where: On = Where.cpu, workers: Workers = None,
    compare: Compare = None, seeds: Seeds = 3, steps_scale: Scale = 1.0, batch_scale: Batch = 1.0,
    rate_scale: Rate = 1.0, shipped: Shipped = False,
) -> None:  # fmt: skip
    """Train every part of the mini size from nothing, measure every table, and write report.html.

    With --compare: train and measure the rows of a question of the paper instead, on equal terms, once a seed.

    What is finished in DIR stays: the same command resumes where an earlier one was stopped.
    """
    if size != "mini":
        raise ConfigError(f"no size {size!r} to reproduce, only mini; for the paper's size see docs/full_size.md")
    if compare is None and (seeds, steps_scale, batch_scale, rate_scale, shipped) != (3, 1.0, 1.0, 1.0, False):
        raise ConfigError(
            "--seeds, --steps-scale, --batch-scale, --rate-scale and --shipped are of --compare: name a question, or "
            "all"
        )
    quiet(loading=True)
    from seedtok.core.cores import spare_cores
    from seedtok.mini.reproduction.run import Place, device_of, reproduce

    check_folder(folder, lambda path: (path / "reproduction.json").is_file(), "reproduction")
    jobs = workers or (spare_cores() if where == Where.cpu else 1)
    if compare is None:
        say(f"report: {reproduce(folder, say, smoke, device_of(where), jobs)}")
        return
    from seedtok.mini.comparison.questions import QUESTIONS
    from seedtok.mini.comparison.run import compare as compared
    from seedtok.mini.comparison.runs import Terms

    names = list(QUESTIONS) if compare == "all" else [compare]
    place = Place(folder.absolute(), smoke, device_of(where), jobs)
    for table in compared(names, place, say, Terms(seeds, steps_scale, batch_scale, rate_scale, shipped)):
        say(f"table: {table}")
