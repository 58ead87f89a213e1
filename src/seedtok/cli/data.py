"""`seedtok data`: shards of scenes, or of people's own pictures."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.support import Overwrite, check_folder, check_free, err, fail, say
from seedtok.core.errors import DataError
from seedtok.core.progress import progress

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
    from seedtok.data.tars import holds_shards
    from seedtok.mini.world.shards import write_scene_shards

    check_folder(out, holds_shards, "shards")
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
    from seedtok.data.tars import holds_shards

    check_folder(out, holds_shards, "shards")
    with progress("pack", None) as done:
        report = shards.pack(
            source, out, captions=captions, images=images, size=size, shard_size=shard_size, progress=done
        )
    _report(report, out)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="SET", help="coco, flickr30k, cc3m, unsplash, nocaps, vqav2 or gqa.")],
    annotations: Annotated[Path, typer.Option(metavar="PATH", help="The publisher's file.", show_default=False)],
    split: Annotated[str, typer.Option(help="As the publisher calls it.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder for what is written.", show_default=False)],
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where its images are; without it, img2dataset fetches them.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Reduce the shorter side to so many pixels.")] = None,
    shard_size: ShardSize = 1000,
    overwrite: Overwrite = False,
) -> None:
    """Turn a public data set's own files into what `train` or `evaluate` reads.

    Splits to train on become shards. Those to evaluate on become a list of pictures, which stay where they are, with
    their captions or questions: `seedtok evaluate ... --data DIR`.
    """
    from seedtok.data import public_sets, shards
    from seedtok.data.prepared import holds_prepared
    from seedtok.data.tars import holds_shards

    public = public_sets.public_set(name, split)
    if images is None:
        _fetch(name, annotations, out, size)
        return
    published = public.splits[split]
    if split not in public.training:
        _prepare_evaluation(name, annotations, images, split, out, overwrite)
        return
    if holds_prepared(out):
        raise DataError(f"{out} holds a set to evaluate on: choose another folder for shards")
    check_folder(out, holds_shards, "shards")
    pairs = public_sets.as_pairs(public_sets.read_public(name, annotations, split), images)
    with progress(name, published["pictures"], "pictures") as done:
        report = shards.pack_pairs(pairs, out, str(annotations), size=size, shard_size=shard_size, progress=done)
    _compare(name, split, {"pictures": report.written}, published)
    _report(report, out)


def _prepare_evaluation(name: str, annotations: Path, images: Path, split: str, out: Path, overwrite: bool) -> None:
    from seedtok.data.prepared import ENTRIES, HEADER, holds_prepared
    from seedtok.data.prepared import prepare as write

    check_folder(out, holds_prepared, "evaluation set")
    check_free([out / HEADER, out / ENTRIES], overwrite)
    made = write(name, annotations, images, split, out)
    counted = ", ".join(f"{count:,} {what}" for what, count in made.info.counts.items() if count)
    say(f"{counted} written to {out}; {len(made.missing)} pictures missing")
    for path in made.missing[:10]:
        err.print(f"missing: {path}", soft_wrap=True, markup=False)
    _compare(name, split, made.info.counts, made.info.published)


def _compare(name: str, split: str, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    for what in published.keys() & found.keys():
        if found[what] != published[what]:
            say(f"{name} {split}: {found[what]:,} {what} here; its publisher has {published[what]:,}")


def _fetch(name: str, annotations: Path, out: Path, size: int | None) -> None:
    """Has img2dataset fetch the pictures of a list of addresses into shards."""
    from tempfile import TemporaryDirectory

    from seedtok.core.locks import locked
    from seedtok.data.public_sets import url_list
    from seedtok.data.tars import holds_shards

    check_folder(out, holds_shards, "shards")
    with TemporaryDirectory() as scratch:
        urls = Path(scratch) / "urls.tsv"
        count = url_list(name, annotations, urls)
        try:
            from img2dataset import download  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError("img2dataset is not installed: pip install img2dataset, or give --images") from None
        say(f"{count:,} addresses")
        with locked(out):
            download(
                url_list=str(urls), input_format="tsv", url_col="url", caption_col="caption",
                output_format="webdataset", output_folder=str(out), image_size=size or 256,
                resize_mode="keep_ratio", resize_only_if_bigger=True,
            )  # fmt: skip


def _report(report: ShardReport, out: Path) -> None:
    say(f"{report.written} written to {len(report.shards)} shards in {out}; {len(report.skipped)} skipped")
    for name, reason in report.skipped:
        err.print(f"skipped: {name}: {reason}", soft_wrap=True, markup=False)
    if report.skipped:
        fail(f"{len(report.skipped)} skipped; the others are written")
        raise typer.Exit(1)
