"""The commands that see and draw pictures."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.inputs import check_codebook, codes_of_lines, encoded, list_pictures, report, typed_codes
from seedtok.cli.support import (
    Device,
    Dtype,
    Overwrite,
    Precision,
    check_free,
    check_picture_name,
    generators,
    load_tokenizer,
    say,
    targets,
    write_picture,
)
from seedtok.core.errors import DataError, ImageError, SeedTokError, SeedTokWarning
from seedtok.core.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL import Image

    from seedtok.tokenizer.seed import SeedTokenizer

Model = Annotated[str, typer.Option(help="'mini', a checkpoint folder, or a hub id.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps; the checkpoint's own unless given.")]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="Classifier-free guidance; the checkpoint's own unless given.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the noise that a drawing starts from.")]
BatchSize = Annotated[int, typer.Option(min=1)]
Images = Annotated[list[Path], typer.Argument(metavar="IMAGES_OR_FOLDERS", show_default=False)]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for the PNGs.", show_default=False)]


def encode(
    images: Images,
    model: Model = "mini",
    as_json: Annotated[bool, typer.Option("--json", help='One {"image", "codes", "codebook"} a line.')] = False,
    batch_size: BatchSize = 32,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """See pictures as codes, one line each."""
    bad: list[ImageError] = []
    paths = list_pictures(images, bad)
    tokenizer = load_tokenizer(model, dtype.value, device)
    codebook = tokenizer.codebook_id
    with progress("encode", len(paths), shown=not sys.stdout.isatty()) as done:
        for names, codes in encoded(tokenizer, paths, batch_size, bad, done):
            for name, row in zip(names, codes.tolist(), strict=True):
                line = json.dumps({"image": str(name), "codes": row, "codebook": codebook})
                print(line if as_json else f"{name}\t{' '.join(map(str, row))}")
            sys.stdout.flush()
    report(bad)


def tokenize(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder of .tar shards.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A folder for the Parquet files.", show_default=False)],
    model: Model = "mini",
    batch_size: BatchSize = 32,
    dtype: Dtype = Precision.float32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make files of another shard or tokenizer again.")
    ] = False,
    bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the pictures that may be unreadable; they are left out.")
    ] = 0.01,
    device: Device = "auto",
) -> None:
    """Turn shards into codes, once: a Parquet file a shard; what is finished stays."""
    from seedtok.core.locks import locked
    from seedtok.data.codes import tokenize_shards
    from seedtok.data.skipping import SkipLimits
    from seedtok.data.tars import count_samples, shard_paths
    from seedtok.tokenizer.familiarity import encode_and_check

    total = sum(map(count_samples, shard_paths(shards)))
    far = 0

    def codes_of(images: list[Image.Image]) -> np.ndarray:
        nonlocal far
        codes, is_far = encode_and_check(tokenizer, tokenizer.pixels(images))
        far += int(is_far.sum())
        return codes.cpu().numpy()

    with locked(out), progress("tokenize", total) as done:
        tokenizer = load_tokenizer(model, dtype.value, device)
        report = tokenize_shards(
            shards, out, codes_of, tokenizer.codebook_id, batch_size, done, overwrite, SkipLimits(bad_share)
        )
    say(
        f"{report.images} pictures in {len(report.written) + len(report.kept)} files in {out}; "
        f"{len(report.kept)} were there before"
    )
    if report.skipped:
        say(f"{len(report.skipped)} skipped: listed in {out}/*.skipped.jsonl")
    if far:
        warnings.warn(f"{far} of them are far from the pictures of training", SeedTokWarning, stacklevel=2)


def decode(
    out: Folder,
    file: Annotated[Path | None, typer.Argument(metavar="FILE|-", help="What `encode --json` prints.")] = None,
    codes: Annotated[str | None, typer.Option(help="One picture's codes, in place of FILE.")] = None,
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Draw pictures from codes."""
    if (codes is not None and file is not None) or (codes is None and file is None and sys.stdin.isatty()):
        raise DataError("expected codes: a FILE of `seedtok encode --json` (- for stdin), or --codes")
    rows = typed_codes(codes) if codes is not None else codes_of_lines(file or Path("-"))
    paths = targets([name for _, name, *_ in rows], out)
    check_free(paths, overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device)
    check_codebook(rows, tokenizer.codebook_id, model)
    for where, _, row, _ in rows:
        try:
            tokenizer.lookup(row)
        except SeedTokError as error:
            raise DataError(f"{where}: {error}") from None
    with progress("decode", len(rows)) as done:
        for start in range(0, len(rows), batch_size):
            batch = [row for _, _, row, _ in rows[start : start + batch_size]]
            drawn = tokenizer.decode(batch, steps, guidance_scale, generators(len(batch), seed))
            for path, picture in zip(paths[start : start + len(batch)], drawn, strict=True):
                write_picture(picture, path)
            done(start + len(batch))
    say(f"{len(paths)} drawn: {paths[0] if len(paths) == 1 else out}")


def reconstruct(
    images: Images,
    out: Folder,
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Draw pictures from their own codes: original | reconstruction, one PNG each."""
    bad: list[ImageError] = []
    paths = list_pictures(images, bad)
    places = dict(zip(paths, targets([str(path) for path in paths], out), strict=True))
    check_free(list(places.values()), overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device)
    from PIL import Image

    from seedtok.core.images import load_image, side_by_side

    written = 0
    with progress("reconstruct", len(paths)) as done:
        for names, codes in encoded(tokenizer, paths, batch_size, bad, done):
            drawn = tokenizer.decode(codes, steps, guidance_scale, generators(len(codes), seed))
            for name, picture in zip(names, drawn, strict=True):
                original = load_image(name).resize(picture.size, Image.Resampling.BICUBIC)
                write_picture(side_by_side([original], [picture], pairs=1), places[name])
                written += 1
    say(f"{written} reconstructed: {out if len(paths) > 1 else places[paths[0]]}")
    report(bad)


def imagine(
    caption: Annotated[str, typer.Argument(metavar="CAPTION", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the picture goes.", show_default=False)],
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Draw a picture from a caption, with the image decoder alone."""
    check_picture_name(out)
    check_free([out], overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device)
    write_picture(draw_captions(tokenizer, [caption], steps, guidance_scale, seed)[0], out)
    say(f"drawn: {out}")


def draw_captions(
    tokenizer: SeedTokenizer,
    captions: list[str],
    steps: int | None,
    guidance_scale: float | None,
    seed: int,
    dtype: torch.dtype | None = None,
) -> list[Image.Image]:
    if not all(caption.strip() for caption in captions):
        raise DataError("an empty caption: say what to draw")
    from seedtok.tokenizer.unknown_words import warn_of_unknown_words

    decoder, config = tokenizer.image_decoder, tokenizer.config
    warn_of_unknown_words(decoder.pipeline.tokenizer, [caption.lower() for caption in captions])  # as CLIP reads them
    return decoder.draw(
        decoder.text_features(captions),
        num_inference_steps=steps or config.num_inference_steps,
        guidance_scale=config.guidance_scale if guidance_scale is None else guidance_scale,
        generator=generators(len(captions), seed),
        dtype=dtype,
    )
