"""The demo: everything once, on scenes that no training saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.pictures import Model, Seed, imagined
from seedtok.cli.support import (
    Device,
    DrawingDtype,
    DrawingPrecision,
    Dtype,
    Overwrite,
    Precision,
    check_free,
    drawing_dtype,
    generators,
    load_tokenizer,
    say,
    write_picture,
)
from seedtok.core.progress import progress

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from seedtok.lm.seed_lm import SeedLM
    from seedtok.mini.world.scenes import Scene

DRAWN = 4  # captions for the image decoder
PROMPTS = 2  # for the language model
FILES = ("reconstructions.png", "drawings.png", "prompts.png")  # the last only with a language model


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for the pictures.")] = Path("demo"),
    count: Annotated[int, typer.Option(min=1, help="Scenes to see and draw.")] = 6,
    seed: Seed = 0,
    model: Model = "mini",
    lm: Annotated[
        str | None, typer.Option(help="A SEED language model on this tokenizer; the mini one's own by default.")
    ] = None,
    overwrite: Overwrite = False,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    drawing: DrawingDtype = DrawingPrecision.auto,
) -> None:
    """See test scenes as codes, draw them back, draw captions; then caption, answer and draw by SEED-OPT."""
    lm = "mini" if lm is None and model == "mini" else lm
    check_free([out / name for name in FILES[: 2 if lm is None else 3]], overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device)
    drawn_in = drawing_dtype(drawing, tokenizer.device) if dtype == Precision.float32 else None
    from PIL import Image

    from seedtok.core.pictures import grid, side_by_side
    from seedtok.lm.seed_lm import SeedLM
    from seedtok.mini.world.scenes import caption, render, unique_scenes

    language = (
        None
        if lm is None
        else SeedLM.from_pretrained(lm, seed=tokenizer, dtype=tokenizer.dtype, device=tokenizer.device)
    )
    scenes = unique_scenes("test", count + DRAWN + PROMPTS, seed)
    seen, drawn, asked = scenes[:count], scenes[count : count + DRAWN], scenes[count + DRAWN :]
    originals = [Image.fromarray(render(scene)) for scene in seen]
    say("Scenes that no training saw, and their codes:\n")
    codes = [row for image in originals for row in tokenizer.encode_pixels(tokenizer.pixels(image)).tolist()]
    for scene, row in zip(seen, codes, strict=True):
        say(f"{caption(scene)}\n  {' '.join(map(str, row))}")
    back: list[Image.Image] = []
    with progress("draw", count) as done:
        for start in range(0, count, 8):
            batch = codes[start : start + 8]
            back += tokenizer.decode(batch, generator=generators(len(batch), seed), dtype=drawn_in)
            done(len(back))
    back = [picture.resize(originals[0].size) for picture in back]
    captions = [caption(scene) for scene in drawn]
    say("\nCaptions, drawn by the image decoder:\n")
    for text in captions:
        say(text)
    files = {
        "original | reconstruction": (FILES[0], side_by_side(originals, back, pairs=3)),
        "from captions, in order": (
            FILES[1],
            grid(imagined(tokenizer, captions, None, None, seed, drawn_in), columns=4),
        ),
    }
    if lm is not None and language is not None:
        files |= _language(language, lm, seen[0], originals[0], [caption(scene) for scene in asked], seed, drawn_in)
    for name, picture in files.values():
        write_picture(picture, out / name)
    say("")
    for what, (name, _) in files.items():
        say(f"{what + ':':<27}{out / name}")


def _language(
    model: SeedLM,
    name: str,
    scene: Scene,
    picture: Image.Image,
    prompts: list[str],
    seed: int,
    dtype: torch.dtype | None,
) -> dict[str, tuple[str, Image.Image]]:
    """Says what is in a picture, answers two questions about it, draws the prompts; returns the pictures to write."""
    import numpy as np

    from seedtok.core.pictures import grid
    from seedtok.mini.world.questions import questions

    say(f"\nThe first scene, read by the language model {name!r} (its instructed one) from its codes alone:\n")
    codes = model.seed.encode_pixels(model.seed.pixels(picture))
    say(f"caption: {model.caption(codes)[0]}")
    asked = [question.text for question in questions(scene, np.random.default_rng(seed), 2)]
    for question, answer in zip(asked, model.answer(codes.expand(2, -1), asked), strict=True):
        say(f"{question} {answer}")
    say("\nPrompts, drawn by the language model:\n")
    for prompt in prompts:
        say(prompt)
    drawn = model.draw(prompts, generator=generators(len(prompts), seed), dtype=dtype)
    return {"from prompts, in order": (FILES[2], grid(drawn, columns=len(drawn)))}
