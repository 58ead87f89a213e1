"""`seedtok data`: shards of scenes, or of people's own pictures."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli_support import err, fail, say
from seedtok.progress import progress

if TYPE_CHECKING:
    from seedtok.data.tars import ShardReport

app = typer.Typer(help="Write WebDataset shards to train on.", no_args_is_help=True)


class SplitName(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"


Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for the shards.", show_default=False)]
ShardSize = Annotated[int, typer.Option(min=1, help="Samples a shard.")]


@app.command()
def scenes(
    out: Out,
    split: Annotated[SplitName, typer.Option(help="No caption of one is in another.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, show_default=False)],
    size: Annotated[int, typer.Option(help="Pixels a side: 64 or 128.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    shard_size: ShardSize = 1000,
) -> None:
    """Write scenes of the mini world; the same arguments give the same bytes."""
    from seedtok.data.shards import write_scene_shards

    with progress("scenes", count, "scenes") as done:
        report = write_scene_shards(out, split.value, count, size, seed, shard_size, done)
    _report(report, out)


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A folder, a .csv, .tsv, .jsonl or .json table, or a COCO captions .json."
        ),
    ],
    out: Out,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Where a table's images are.")] = None,
    captions: Annotated[Path | None, typer.Option(metavar="FILE", help="A folder's table of captions.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Reduce the shorter side to so many pixels.")] = None,
    shard_size: ShardSize = 1000,
) -> None:
    """Write your own pictures and captions."""
    from seedtok.data import shards

    with progress("pack", None) as done:
        report = shards.pack(
            source, out, captions=captions, images=images, size=size, shard_size=shard_size, progress=done
        )
    _report(report, out)


def _report(report: ShardReport, out: Path) -> None:
    say(f"{report.written} written to {len(report.shards)} shards in {out}; {len(report.skipped)} skipped")
    for name, reason in report.skipped:
        err.print(f"skipped: {name}: {reason}", soft_wrap=True, markup=False)
    if report.skipped:
        fail(f"{len(report.skipped)} skipped; the others are written")
        raise typer.Exit(1)
