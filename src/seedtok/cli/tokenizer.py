"""The commands of the image tokenizer: encode, tokenize, decode, reconstruct and imagine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.inputs import check_codebook, codes_of_file, encoded, list_image_files, report, typed_codes
from seedtok.cli.support import (
    Device,
    DrawingPrecision,
    Dtype,
    EncodingDtype,
    Overwrite,
    Precision,
    check_free,
    check_image_name,
    generators,
    load_encoder,
    load_tokenizer,
    png_paths,
    quiet,
    say,
    write_image,
)
from seedtok.core.errors import ConfigError, DataError, ImageError, SeedTokError
from seedtok.core.notices import warn
from seedtok.core.progress import progress
from seedtok.core.text import one_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from seedtok.data.codes import TokenizeReport
    from seedtok.tokenizer.seed import SeedTokenizer


class Engine(StrEnum):
    local = "local"
    ray = "ray"


Model = Annotated[str, typer.Option(help="'mini', a checkpoint folder, or a hub id.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Denoising steps; by default those of the checkpoint.")]
Guidance = Annotated[
    float | None,
    typer.Option(min=0, help="Scale of classifier-free guidance; by default the checkpoint's, or 1.5 in few steps."),
]
Decoder = Annotated[
    str | None,
    typer.Option("--image-decoder", help="Folder or hub id of an image decoder, instead of the one that MODEL names."),
]
LcmLora = Annotated[
    str | None,
    typer.Option(
        "--lcm-lora", help="An LCM-LoRA of the image decoder: 'mini', a folder, or a hub id. It draws in 4 steps."
    ),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the initial noise.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in each batch.")]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGES_OR_FOLDERS", help="Image files, or folders of them.", show_default=False)
]
CodesFile = Annotated[
    Path | None, typer.Argument(metavar="FILE|-", help="Output of `encode --json`, or codes that `tokenize` wrote.")
]
NoCaptions = Annotated[
    bool, typer.Option("--no-captions", help="Images need no caption: one without is not counted as unreadable.")
]
ShardsPart = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Encode every N-th shard from the I-th on, beside jobs of the other parts."),
]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the PNG files.", show_default=False)]


def encode(
    images: Images,
    model: Model = "mini",
    as_json: Annotated[
        bool, typer.Option("--json", help='Print {"image", "codes", "codebook", "encoder"} as JSON.')
    ] = False,
    batch_size: BatchSize = 32,
    dtype: EncodingDtype = DrawingPrecision.float32,
    device: Device = "auto",
) -> None:
    """Encode images as codes, one line per image; with --json, one JSON object per line."""
    bad: list[ImageError] = []
    paths = list_image_files(images, bad)
    tokenizer = load_tokenizer(model, dtype.value, device)
    made_by = {"codebook": tokenizer.codebook_id, "encoder": tokenizer.encoder_fingerprint}
    with progress("encode", len(paths), shown=not sys.stdout.isatty()) as done:
        for names, codes in encoded(tokenizer, paths, batch_size, bad, done):
            for name, row in zip(names, codes.tolist(), strict=True):
                line = json.dumps({"image": str(name), "codes": row, **made_by})
                print(line if as_json else f"{one_line(str(name))}\t{' '.join(map(str, row))}")
            sys.stdout.flush()
    report(bad)


def tokenize(
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A folder of .tar shards.", show_default=False)],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the Parquet files.", show_default=False)],
    model: Model = "mini",
    batch_size: BatchSize = 32,
    dtype: EncodingDtype = DrawingPrecision.float32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of another shard or tokenizer.")
    ] = False,
    bad_share: Annotated[
        float, typer.Option(min=0, max=1, help="Fraction of the images that may be unreadable; they are skipped.")
    ] = 0.01,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes of one thread each; 1: this process alone.")] = 1,
    engine: Annotated[
        Engine, typer.Option(help="local: this process. ray: a process a core or GPU of a Ray cluster.")
    ] = Engine.local,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster; by default all of this machine.", show_default=False)
    ] = None,
    no_captions: NoCaptions = False,
    part: ShardsPart = None,
) -> None:
    """Encode the images of shards as codes, one Parquet file per shard; complete files are kept."""
    from seedtok.core.hub import source_of
    from seedtok.data.bulk import maker_of
    from seedtok.data.codes import tokenize_shards
    from seedtok.data.ray_engine import RayEngine
    from seedtok.data.shard_parts import ShardPart, locked_part
    from seedtok.data.skipping import SkipLimits
    from seedtok.data.tars import count_samples, shard_paths
    from seedtok.data.workers import tokenize_in_processes

    if address is not None and engine == Engine.local:
        raise ConfigError("--address is of a Ray cluster: give --engine ray with it")
    if workers > 1 and engine == Engine.ray:
        raise ConfigError("--workers is of the local engine: Ray has a process for each core or GPU")
    quiet()
    chosen = None if part is None else ShardPart.of(part)
    paths = shard_paths(shards) if chosen is None else chosen.shards(shards)
    if not paths:
        say(f"part {part} has none of the {len(shard_paths(shards))} shards in {shards}")
        return
    source = shards if chosen is None else paths
    limits = SkipLimits(bad_share, needs_caption=not no_captions)
    with locked_part(out, chosen), progress("tokenize", sum(map(count_samples, paths))) as done:
        if engine == Engine.ray:
            load = partial(load_encoder, source_of(model, "tokenizer"), dtype.value)
            report = RayEngine(load, address, device).tokenize(source, out, batch_size, done, overwrite, limits)
        elif workers > 1:
            load = partial(load_encoder, model, dtype.value, device)
            report = tokenize_in_processes(load, workers, source, out, batch_size, done, overwrite, limits)
        else:
            encoder = load_encoder(model, dtype.value, device)
            report = tokenize_shards(source, out, encoder, maker_of(encoder), batch_size, done, overwrite, limits)
            report = replace(report, far=encoder.far)
    _say_tokenized(report, out)


def _say_tokenized(report: TokenizeReport, out: Path) -> None:
    from seedtok.data.skipping import without_captions

    say(
        f"{report.images} images in {len(report.written) + len(report.kept)} files in {out}; "
        f"{len(report.kept)} existed before"
    )
    if report.skipped:
        say(f"{len(report.skipped)} skipped: listed in {out}/*.skipped.jsonl")
        for hint in {without_captions(reason).removeprefix("; ") for *_, reason in report.skipped} - {""}:
            say(hint)
    if report.far:
        warn(f"{report.far} of them are far from the images that this model was trained on")


def decode(
    out: Folder,
    file: CodesFile = None,
    codes: Annotated[str | None, typer.Option(help="The codes of one image, instead of FILE.")] = None,
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    image_decoder: Decoder = None,
    lcm_lora: LcmLora = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    count: Annotated[int | None, typer.Option(min=1, help="Only the first of FILE; by default all.")] = None,
) -> None:
    """Decode codes to images."""
    if (codes is not None and file is not None) or (codes is None and file is None and sys.stdin.isatty()):
        raise DataError("expected codes: a FILE of `seedtok encode --json` (- for stdin) or `tokenize`, or --codes")
    rows = typed_codes(codes) if codes is not None else codes_of_file(file or Path("-"), count)
    paths = png_paths([name for _, name, *_ in rows], out)
    check_free(paths, overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device, image_decoder, lcm_lora)
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
            for path, image in zip(paths[start : start + len(batch)], drawn, strict=True):
                write_image(image, path)
            done(start + len(batch))
    say(f"{len(paths)} drawn: {paths[0] if len(paths) == 1 else out}")


def reconstruct(
    images: Images,
    out: Folder,
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    image_decoder: Decoder = None,
    lcm_lora: LcmLora = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Encode images and decode their codes; write each original beside its reconstruction."""
    bad: list[ImageError] = []
    paths = list_image_files(images, bad)
    targets = dict(zip(paths, png_paths([str(path) for path in paths], out), strict=True))
    check_free(list(targets.values()), overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device, image_decoder, lcm_lora)
    from PIL import Image

    from seedtok.core.images import load_image, side_by_side

    written = 0
    with progress("reconstruct", len(paths)) as done:
        for names, codes in encoded(tokenizer, paths, batch_size, bad, done):
            drawn = tokenizer.decode(codes, steps, guidance_scale, generators(len(codes), seed))
            for name, image in zip(names, drawn, strict=True):
                original = load_image(name).resize(image.size, Image.Resampling.BICUBIC)
                write_image(side_by_side([original], [image], pairs=1), targets[name])
                written += 1
    say(f"{written} reconstructed: {out if len(paths) > 1 else targets[paths[0]]}")
    report(bad)


def imagine(
    caption: Annotated[str, typer.Argument(metavar="CAPTION", help="What to draw.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The image file to write.", show_default=False)],
    model: Model = "mini",
    steps: Steps = None,
    guidance_scale: Guidance = None,
    image_decoder: Decoder = None,
    lcm_lora: LcmLora = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Draw an image from a caption with the image decoder alone, without codes."""
    check_image_name(out)
    check_free([out], overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device, image_decoder, lcm_lora)
    write_image(draw_captions(tokenizer, [caption], steps, guidance_scale, seed)[0], out)
    say(f"drawn: {out}")


def draw_captions(
    tokenizer: SeedTokenizer,
    captions: list[str],
    steps: int | None,
    guidance_scale: float | None,
    seed: int,
    dtype: torch.dtype | None = None,
) -> list[Image.Image]:
    """Images that the image decoder draws from captions; `dtype` is as for `ImageDecoder.draw`."""
    if not all(caption.strip() for caption in captions):
        raise DataError("an empty caption: say what to draw")
    from seedtok.tokenizer.unknown_words import warn_of_unknown_words

    decoder, config = tokenizer.image_decoder, tokenizer.config
    warn_of_unknown_words(decoder.pipeline.tokenizer, [caption.lower() for caption in captions])  # as in CLIP
    return decoder.draw(
        decoder.text_features(captions),
        num_inference_steps=steps or config.num_inference_steps,
        guidance_scale=config.guidance_scale if guidance_scale is None else guidance_scale,
        generator=generators(len(captions), seed),
        dtype=dtype,
    )
