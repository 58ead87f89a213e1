"""The command that converts published weights, and back."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import typer

from seedtok.cli.support import Overwrite, check_folder, check_free, load_tokenizer, quiet, say
from seedtok.core.errors import ConfigError


def convert(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...", help="Published SEED files, a BLIP-2 folder, or a tokenizer.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="A folder, or a .pth file for the published format.", show_default=False)
    ],
    image_decoder: Annotated[
        str | None, typer.Option(help="Folder or hub id of a Stable Diffusion to use instead of the checkpoint's.")
    ] = None,
    text_tokenizer: Annotated[
        str | None, typer.Option(metavar="FOLDER_OR_ID", help="BERT's tokenizer, for a checkpoint without one.")
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Attention heads of ViT, Q-Formers and decoders, if not 16,12,12.")
    ] = None,
    interpolation: Annotated[
        Literal["bicubic", "bilinear"] | None,
        typer.Option(help="Of images, to squares: bilinear as SEED-LLaMA's, bicubic as SEED's and AnyGPT's."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert published weights to a checkpoint of seedtok, or a tokenizer to the published format.

    seed_tokenizer.pth causal_qformer.pth eva_vit_g.pth, or the successor's seed_quantizer.pt with eva_vit_g.pth, become
    a tokenizer. A folder of blip2-itm-vit-g or blip2-opt-2.7b becomes the embedder that stage I starts from. With --out
    FILE.pth, a tokenizer is written in the published format.
    """
    quiet(loading=True)
    from seedtok.core.checkpoint import CONFIG
    from seedtok.core.kinds import holds_checkpoint
    from seedtok.core.locks import locked
    from seedtok.weights.convert import convert as read

    if out.suffix in (".pth", ".pt"):
        if len(sources) != 1:
            raise ConfigError(f"{len(sources)} sources; expected one tokenizer to write to {out.name}")
        reading = {
            "--heads": heads, "--text-tokenizer": text_tokenizer, "--image-decoder": image_decoder,
            "--interpolation": interpolation,
        }  # fmt: skip
        if unused := [option for option, given in reading.items() if given is not None]:
            raise ConfigError(f"{unused[0]} is of published weights that are read; {out.name} is written: leave it out")
        check_free([out], overwrite)
        _export(str(sources[0]), out)
        return
    check_folder(out, holds_checkpoint, "checkpoint of seedtok")
    check_free([out / CONFIG], overwrite)
    with locked(out):
        report = read(sources, out, _heads(heads), image_decoder, text_tokenizer, interpolation)
    say(f"{report.kind}: {report.tensors} tensors read, {report.parameters:,} parameters")
    for reason, count in Counter(report.left_out.values()).items():
        say(f"left out, {count}: {reason}")
    for note in report.notes:
        say(note)
    say(f"written: {out}")


def _export(tokenizer: str, out: Path) -> None:
    """Writes a tokenizer in the published format, and says which parts it leaves out."""
    from seedtok.weights.convert import export

    count, left_out = export(load_tokenizer(tokenizer), out)
    for part, names in groupby(left_out, lambda name: ".".join(name.split(".")[: 2 + name.startswith("embedder")])):
        say(f"left out, {len(list(names))}: {part}, which the published format does not have")
    say(f"written: {out}, {count} tensors")


def _heads(text: str | None):
    """The numbers of attention heads from the option; None where it is not given."""
    from seedtok.weights.official import Heads

    if text is None:
        return None
    try:
        vision, qformer, decoder = map(int, text.split(","))
    except ValueError:
        raise ConfigError(f"--heads {text}: expected three numbers, as in 16,12,12") from None
    if min(vision, qformer, decoder) < 1:
        raise ConfigError(f"--heads {text}: expected three numbers of one or more")
    return Heads(vision, qformer, decoder)
