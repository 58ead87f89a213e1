"""The commands of `seedtok data`: write shards of scenes, of your own images, or of public data sets."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.support import Overwrite, check_folder, check_free, err, fail, say
from seedtok.core.errors import ConfigError, DataError
from seedtok.core.progress import progress

if TYPE_CHECKING:
    from seedtok.data.shard_writer import ShardReport

app = typer.Typer(help="Write data to train on and to evaluate on.", no_args_is_help=True)


class SetName(StrEnum):
    train = "train"
    validation = "validation"
    test = "test"
    unseen_hands = "test-unseen-hands"
    all_hands = "test-all-hands"
    near_misses = "test-near-misses"
    unseen_near_misses = "test-unseen-hands-near-misses"


class WorldName(StrEnum):
    classic = "classic"
    varied = "varied"


class Format(StrEnum):
    shards = "shards"
    coco = "coco"
    flickr30k = "flickr30k"
    nocaps = "nocaps"
    vqav2 = "vqav2"
    gqa = "gqa"


Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the shards.", show_default=False)]
ShardSize = Annotated[int, typer.Option(min=1, help="Samples in each shard.")]


@app.command()
def scenes(
    out: Out,
    split: Annotated[
        SetName, typer.Option(help="No caption of train, validation and test is in another of them.")
    ] = SetName.test,
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    size: Annotated[int, typer.Option(help="Width and height in pixels: 64 or 128.")] = 128,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    shard_size: ShardSize = 1000,
    world: Annotated[
        WorldName, typer.Option(help="Many hands' drawings in varied looks, or one drawing of a thing, on a grid.")
    ] = WorldName.varied,
    form: Annotated[
        Format, typer.Option("--format", help="Or the files that a data set's publisher gives.")
    ] = Format.shards,
) -> None:
    """Write scenes of the mini world; equal arguments give equal files."""
    from seedtok.data.shard_writer import holds_shards
    from seedtok.mini.world.shards import write_scene_shards

    classic = world is WorldName.classic
    if form is not Format.shards:
        _export(out, split, count, size, seed, classic, form)
        return
    check_folder(out, holds_shards, "shards")
    with progress("scenes", count, "scenes") as done:
        report = write_scene_shards(out, split.value, count, size, seed, shard_size, done, classic)
    _report(report, out)


def _export(out: Path, split: str, count: int, size: int, seed: int, classic: bool, form: str) -> None:
    """Writes scenes as a publisher's files, and says how to prepare them and how often a blind guess is right."""
    import shlex

    from seedtok.mini.world.export import export_scenes
    from seedtok.mini.world.sets import scene_set

    check_folder(out, lambda _: False, "export")
    scenes = scene_set(split, count, seed, classic)
    with progress("scenes", count, "scenes") as done:
        made = export_scenes(scenes, out, form, split, size=size, seed=seed, progress=done)
    given = made.published
    what = f"{len(given.asked):,} questions" if given.asked else f"{given.captions:,} captions"
    say(f"{count:,} pictures with {what} written to {out}")
    if made.prior:
        rates = ", ".join(f"{kind} {percent:.1f} %" for kind, percent in made.prior.items())
        say(f"answered right without the picture: {rates}")
    annotations, images = (shlex.quote(str(out / path)) for path in (given.annotations, given.images))
    say(f"seedtok data prepare {form} --annotations {annotations} --images {images} --split {given.split} --out DIR")


@app.command()
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE", help="A folder, a .csv, .tsv, .jsonl or .json table, or a COCO captions .json."
        ),
    ],
    out: Out,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder of a table's images.")] = None,
    captions: Annotated[Path | None, typer.Option(metavar="FILE", help="The table of captions of a folder.")] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Reduce the shorter side to this many pixels.")] = None,
    shard_size: ShardSize = 1000,
    no_captions: Annotated[
        bool, typer.Option("--no-captions", help="Images need no caption: one without is not skipped.")
    ] = False,
) -> None:
    """Write shards of your own images and captions."""
    from seedtok.data.pack import pack as write
    from seedtok.data.shard_writer import holds_shards

    check_folder(out, holds_shards, "shards")
    with progress("pack", None) as done:
        report = write(
            source, out, captions=captions, images=images, size=size, shard_size=shard_size, progress=done,
            needs_caption=not no_captions,
        )  # fmt: skip
    _report(report, out)


@app.command()
def prepare(
    name: Annotated[str, typer.Argument(metavar="SET", help="coco, flickr30k, cc3m, unsplash, nocaps, vqav2 or gqa.")],
    annotations: Annotated[Path, typer.Option(metavar="PATH", help="The published annotations.", show_default=False)],
    split: Annotated[str, typer.Option(help="The published name of the split.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the result.", show_default=False)],
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder of its images; without it, they are downloaded."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=1, help="Reduce the shorter side to this many pixels; downloads to 256 by default."),
    ] = None,
    shard_size: ShardSize = 1000,
    overwrite: Overwrite = False,
) -> None:
    """Prepare a public data set for training or evaluation.

    Training splits become shards. Evaluation splits become a list of images, which stay where they are, with their
    captions or questions, for `seedtok evaluate ... --data DIR`.
    """
    from seedtok.data import public_sets
    from seedtok.data.pack import pack_pairs
    from seedtok.data.prepared import holds_prepared
    from seedtok.data.shard_writer import holds_shards

    public = public_sets.public_set(name, split)
    if images is None:
        _fetch(name, annotations, out, size or 256, shard_size)
        return
    published = public.splits[split]
    if split not in public.training:
        if size is not None:
            raise ConfigError(f"--size is of shards; the pictures of {name} {split} stay as they are: leave it out")
        _prepare_evaluation(name, annotations, images, split, out, overwrite)
        return
    if holds_prepared(out):
        raise DataError(f"{out} has an evaluation set: choose another folder for shards")
    check_folder(out, holds_shards, "shards")
    pairs = public_sets.as_pairs(public_sets.read_public(name, annotations, split), images)
    with progress(name, published["pictures"], "pictures") as done:
        report = pack_pairs(pairs, out, str(annotations), size=size, shard_size=shard_size, progress=done)
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


def _fetch(name: str, annotations: Path, out: Path, size: int, shard_size: int) -> None:
    """Downloads the images of a list of URLs into shards, by img2dataset."""
    from tempfile import TemporaryDirectory

    from seedtok.core.locks import locked
    from seedtok.data.public_sets import url_list
    from seedtok.data.shard_writer import holds_shards

    check_folder(out, holds_shards, "shards")
    with TemporaryDirectory() as scratch:
        urls = Path(scratch) / "urls.tsv"
        count = url_list(name, annotations, urls)
        try:
            from img2dataset import download  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise DataError("img2dataset is not installed: pip install img2dataset, or give --images") from None
        say(f"{count:,} URLs")
        with locked(out):
            download(
                url_list=str(urls), input_format="tsv", url_col="url", caption_col="caption",
                output_format="webdataset", output_folder=str(out), image_size=size,
                number_sample_per_shard=shard_size, resize_mode="keep_ratio", resize_only_if_bigger=True,
            )  # fmt: skip


def _report(report: ShardReport, out: Path) -> None:
    """Prints the numbers of written and of skipped samples; exits with 1 if any was skipped."""
    say(f"{report.written} written to {len(report.shards)} shards in {out}; {len(report.skipped)} skipped")
    for name, reason in report.skipped:
        err.print(f"skipped: {name}: {reason}", soft_wrap=True, markup=False)
    if report.skipped:
        fail(f"{len(report.skipped)} skipped; the others are written")
        raise typer.Exit(1)
