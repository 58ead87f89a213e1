"""The demo: everything once, on scenes that no training saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seedtok.cli.support import (
    Device,
    DrawingDtype,
    Dtype,
    Overwrite,
    Precision,
    check_free,
    drawing_beside,
    generators,
    load_tokenizer,
    say,
    write_image,
)
from seedtok.cli.tokenizer import Model, Seed, draw_captions
from seedtok.core.progress import progress

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from seedtok.lm.seed_lm import SeedLM
    from seedtok.mini.world.scenes import Scene
    from seedtok.tokenizer.seed import SeedTokenizer

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
    drawing: DrawingDtype = None,
) -> None:
    """See test scenes as codes, draw them back, draw captions; then caption, answer and draw by SEED-OPT."""
    lm = "mini" if lm is None and model == "mini" else lm
    check_free([out / name for name in FILES[: 2 if lm is None else 3]], overwrite)
    tokenizer = load_tokenizer(model, dtype.value, device)
    drawn_in = drawing_beside(drawing, dtype, tokenizer.device)
    from seedtok.core.images import grid
    from seedtok.lm.seed_lm import SeedLM
    from seedtok.mini.world.scenes import VARIED, caption, unique_scenes

    language = None
    if lm is not None:
        language = SeedLM.from_pretrained(lm, seed=tokenizer, dtype=tokenizer.dtype, device=tokenizer.device)
    scenes = unique_scenes("test", count + DRAWN + PROMPTS, seed, VARIED)
    seen, captioned, asked = scenes[:count], scenes[count : count + DRAWN], scenes[count + DRAWN :]
    files = {"original | reconstruction": (FILES[0], _reconstructions(tokenizer, seen, seed, drawn_in))}
    captions = [caption(scene) for scene in captioned]
    say("\nCaptions, drawn by the image decoder:\n")
    for text in captions:
        say(text)
    drawn = draw_captions(tokenizer, captions, None, None, seed, drawn_in)
    files["from captions, in order"] = (FILES[1], grid(drawn, columns=4))
    if language is not None:
        say(f"\nThe first scene, read by the language model {lm!r} (its instructed one) from its codes alone:\n")
        sheet = _language(language, seen[0], [caption(scene) for scene in asked], seed, drawn_in)
        files["from prompts, in order"] = (FILES[2], sheet)
    for name, picture in files.values():
        write_image(picture, out / name)
    say("")
    for what, (name, _) in files.items():
        say(f"{what + ':':<27}{out / name}")


def _reconstructions(
    tokenizer: SeedTokenizer, scenes: list[Scene], seed: int, dtype: torch.dtype | None
) -> Image.Image:
    """Says the codes of scenes, and draws them back, each beside its original."""
    from PIL import Image

    from seedtok.core.images import side_by_side
    from seedtok.mini.world.scenes import caption, render

    originals = [Image.fromarray(render(scene)) for scene in scenes]
    say("Scenes that no training saw, and their codes:\n")
    codes = [row for image in originals for row in tokenizer.encode_pixels(tokenizer.pixels(image)).tolist()]
    for scene, row in zip(scenes, codes, strict=True):
        say(f"{caption(scene)}\n  {' '.join(map(str, row))}")
    back: list[Image.Image] = []
    with progress("draw", len(codes)) as done:
        for start in range(0, len(codes), 8):
            batch = codes[start : start + 8]
            back += tokenizer.decode(batch, generator=generators(len(batch), seed), dtype=dtype)
            done(len(back))
    return side_by_side(originals, [picture.resize(originals[0].size) for picture in back], pairs=3)


def _language(model: SeedLM, scene: Scene, prompts: list[str], seed: int, dtype: torch.dtype | None) -> Image.Image:
    """Says what is in a scene, answers two questions about it, and draws the prompts."""
    import numpy as np
    from PIL import Image

    from seedtok.core.images import grid
    from seedtok.mini.world.questions import questions
    from seedtok.mini.world.scenes import render

    codes = model.seed.encode_pixels(model.seed.pixels(Image.fromarray(render(scene))))
    say(f"caption: {model.caption(codes)[0]}")
    asked = [question.text for question in questions(scene, np.random.default_rng(seed), 2)]
    for question, answer in zip(asked, model.answer(codes.expand(2, -1), asked), strict=True):
        say(f"{question} {answer}")
    say("\nPrompts, drawn by the language model:\n")
    for prompt in prompts:
        say(prompt)
    drawn = model.draw(prompts, generator=generators(len(prompts), seed), dtype=dtype)
    return grid(drawn, columns=len(drawn))
