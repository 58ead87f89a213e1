"""The commands of SEED-OPT that ask once: caption, ask and draw."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.inputs import encoded, list_image_files, report
from seedtok.cli.support import (
    Device,
    Dtype,
    Overwrite,
    Precision,
    check_free,
    check_image_name,
    generators,
    quiet,
    say,
    write_image,
)
from seedtok.cli.tokenizer import Decoder, Guidance, LcmLora, Steps
from seedtok.core.errors import DataError, ImageError
from seedtok.core.progress import progress

if TYPE_CHECKING:
    from seedtok.lm.decoding import Sampling
    from seedtok.lm.seed_lm import SeedLM

Model = Annotated[str, typer.Option(help="'mini', a folder of a SEED language model, or a hub id.")]
Base = Annotated[str | None, typer.Option(help="Folder or hub id of the base, instead of the one that MODEL names.")]
Tokenizer = Annotated[
    str | None, typer.Option(help="Folder or hub id of the image tokenizer, instead of the one that MODEL names.")
]
Chat = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="How MODEL is asked: plain, pretrained, vicuna, llama2, anygpt or anygpt-chat; by default as trained.",
    ),
]
Quantize = Annotated[
    str | None, typer.Option(help="8bit or 4bit: the language model's matrices in that, by bitsandbytes.")
]
Beams = Annotated[int, typer.Option(min=1, max=100, help="Beams of the beam search; 1 is greedy decoding.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of sampling and of the initial noise.")]
Temperature = Annotated[float, typer.Option(min=0, help="Sampling temperature; 0 is greedy decoding.")]
TopP = Annotated[float, typer.Option(help="Nucleus sampling: cumulative probability of the tokens to sample from.")]


def load_lm(
    model: str, dtype: str, device: str, base: str | None = None, tokenizer: str | None = None,
    template: str | None = None, quantize: str | None = None,
) -> SeedLM:  # fmt: skip
    """Loads a SEED language model by name, folder or hub id; the others override what its config names."""
    quiet()
    from seedtok.lm.native import template_named
    from seedtok.lm.seed_lm import SeedLM

    return SeedLM.from_pretrained(
        model, base=base, seed=tokenizer, dtype=dtype, device=device,
        template=template_named(template), quantize=quantize,
    )  # fmt: skip


def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES_OR_FOLDERS", show_default=False)],
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    beams: Beams = 5,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Of all beams' captions the one that best explains the image: slower.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help='Print {"image", "caption"} as JSON.')] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in each batch.")] = 16,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Caption images, one line per image; with --json, one JSON object per line."""
    bad: list[ImageError] = []
    paths = list_image_files(images, bad)
    lm = load_lm(model, dtype.value, device, base, tokenizer, template, quantize)
    with progress("caption", len(paths), shown=not sys.stdout.isatty()) as done:
        for names, codes in encoded(lm.seed, paths, batch_size, bad, done):
            for name, text in zip(names, lm.caption(codes, beams, rerank=rerank), strict=True):
                line = json.dumps({"image": str(name), "caption": text}, ensure_ascii=False)
                print(line if as_json else f"{name}\t{text}")
            sys.stdout.flush()
    report(bad)


def ask(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", show_default=False)],
    questions: Annotated[list[str] | None, typer.Argument(metavar="QUESTION...", show_default=False)] = None,
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    beams: Beams = 5,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Answer questions about an image, one line per question."""
    if not questions:
        raise DataError("no question; expected an image and questions: seedtok ask IMAGE QUESTION...")
    if not all(question.strip() for question in questions):
        raise DataError("an empty question: ask something")
    lm = load_lm(model, dtype.value, device, base, tokenizer, template, quantize)
    codes = lm.seed.encode(image).expand(len(questions), -1)
    for text in lm.answer(codes, questions, num_beams=beams):
        say(text)


def draw(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The image file to write.", show_default=False)],
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    count: Annotated[int, typer.Option(min=1, help="Number of images, written to FILE, FILE-2 and so on.")] = 1,
    seed: Seed = 0,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="Sampling temperature of codes; by default 0, or 1 for several images."),
    ] = None,
    top_p: TopP = 1.0,
    steps: Steps = None,
    guidance_scale: Guidance = None,
    image_decoder: Decoder = None,
    lcm_lora: LcmLora = None,
    dtype: Dtype = Precision.float32,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Draw images from a prompt: the language model generates codes, and the image decoder draws them."""
    check_image_name(out)
    if not prompt.strip():
        raise DataError("an empty prompt: say what to draw")
    paths = [out, *(out.with_stem(f"{out.stem}-{number}") for number in range(2, count + 1))]
    check_free(paths, overwrite)
    if temperature is None:
        temperature = 0.0 if count == 1 else 1.0
    sampling = sampling_of(temperature, top_p, seed)
    lm = load_lm(model, dtype.value, device, base, tokenizer, template, quantize)
    lm.seed.draw_by(image_decoder, lcm_lora)
    with progress("draw", count) as done:
        for start in range(0, count, 8):
            batch = paths[start : start + 8]
            codes = lm.draw_codes([prompt] * len(batch), sampling)
            drawn = lm.seed.decode(codes, steps, guidance_scale, generators(len(batch), seed))
            for path, image in zip(batch, drawn, strict=True):
                write_image(image, path)
            done(start + len(batch))
    for path in paths:
        say(f"drawn: {path}")


def sampling_of(temperature: float, top_p: float, seed: int) -> Sampling:
    """How the language model's tokens are chosen, with a generator of this seed."""
    quiet()
    import torch

    from seedtok.lm.decoding import Sampling

    return Sampling(temperature, top_p, torch.Generator().manual_seed(seed))
