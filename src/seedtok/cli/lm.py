"""The commands of SEED-OPT: caption, ask, draw, chat."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedtok.cli.inputs import encoded, list_pictures, report
from seedtok.cli.support import (
    Device,
    Dtype,
    Overwrite,
    Precision,
    check_free,
    check_picture_name,
    generators,
    quiet,
    say,
    write_picture,
)
from seedtok.core.errors import DataError, ImageError, SeedTokError
from seedtok.core.progress import progress

if TYPE_CHECKING:
    from seedtok.lm.packing import Sampling
    from seedtok.lm.seed_lm import SeedLM

Model = Annotated[str, typer.Option(help="'mini', a folder of a SEED language model, or a hub id.")]
Base = Annotated[str | None, typer.Option(help="A folder or hub id of its base, in place of the one that it names.")]
Tokenizer = Annotated[
    str | None, typer.Option(help="A folder or hub id of its image tokenizer, in place of the one that it names.")
]
Beams = Annotated[int, typer.Option(min=1, max=100, help="Width of the beam search; 1 is greedy.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of what is drawn by chance.")]
Temperature = Annotated[float, typer.Option(min=0, help="0 takes the likeliest; above, sampled.")]
TopP = Annotated[float, typer.Option(help="Sample from the likeliest tokens of this much mass.")]
PICTURE = "@"  # marks a path in a chat line


def load_lm(model: str, dtype: str, device: str, base: str | None = None, tokenizer: str | None = None) -> SeedLM:
    """Loads a SEED language model by name, folder or hub id; `base` and `tokenizer` override those in its config."""
    quiet()
    import torch

    from seedtok.lm.seed_lm import SeedLM

    return SeedLM.from_pretrained(model, base=base, seed=tokenizer, dtype=getattr(torch, dtype), device=device)


def caption(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES_OR_FOLDERS", show_default=False)],
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    beams: Beams = 5,
    as_json: Annotated[bool, typer.Option("--json", help='One {"image": ..., "caption": ...} a line.')] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Say what is in pictures, one line each."""
    bad: list[ImageError] = []
    paths = list_pictures(images, bad)
    lm = load_lm(model, dtype.value, device, base, tokenizer)
    with progress("caption", len(paths), shown=not sys.stdout.isatty()) as done:
        for names, codes in encoded(lm.seed, paths, batch_size, bad, done):
            for name, text in zip(names, lm.caption(codes, num_beams=beams), strict=True):
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
    beams: Beams = 5,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Answer questions about a picture, one line each."""
    if not questions:
        raise DataError("a picture and a question are needed: seedtok ask IMAGE QUESTION...")
    if not all(question.strip() for question in questions):
        raise DataError("an empty question: ask something")
    lm = load_lm(model, dtype.value, device, base, tokenizer)
    codes = lm.seed.encode(image).expand(len(questions), -1)
    for text in lm.answer(codes, questions, num_beams=beams):
        say(text)


def draw(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", show_default=False)],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where the picture goes.", show_default=False)],
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, as FILE, FILE-2 and so on.")] = 1,
    seed: Seed = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, help="Of the codes; 0 for one picture, 1 for more, unless given.")
    ] = None,
    top_p: TopP = 1.0,
    dtype: Dtype = Precision.float32,
    overwrite: Overwrite = False,
    device: Device = "auto",
) -> None:
    """Draw pictures of a prompt: the language model writes codes, the image decoder draws them."""
    check_picture_name(out)
    if not prompt.strip():
        raise DataError("an empty prompt: say what to draw")
    paths = [out, *(out.with_stem(f"{out.stem}-{number}") for number in range(2, count + 1))]
    check_free(paths, overwrite)
    warmth = (0.0 if count == 1 else 1.0) if temperature is None else temperature
    sampling = _sampling(warmth, top_p, seed)
    lm = load_lm(model, dtype.value, device, base, tokenizer)
    with progress("draw", count) as done:
        for start in range(0, count, 8):
            batch = paths[start : start + 8]
            drawn = lm.draw([prompt] * len(batch), sampling=sampling, generator=generators(len(batch), seed))
            for path, picture in zip(batch, drawn, strict=True):
                write_picture(picture, path)
            done(start + len(batch))
    for path in paths:
        say(f"drawn: {path}")


def chat(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder for what is drawn.")] = Path("chat"),
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    seed: Seed = 0,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
) -> None:
    """Talk in words and pictures, a line at a time: @PATH shows a picture; what is drawn is saved and named.

    A line is a prompt of its own: `@fox.png A photo of`, `@fox.png Question: What color is the background? Short
    answer.`, `Generate an image a fox on a pink background`.
    """
    sampling = _sampling(temperature, top_p, seed)
    lm = load_lm(model, dtype.value, device, base, tokenizer)
    from PIL import Image

    if sys.stdin.isatty():
        say("@PATH shows a picture, as in: @fox.png A photo of. An empty line ends.")
    number = 0
    while line := _line():
        try:
            made = lm.generate(_segments(line), sampling=sampling, generator=generators(1, seed)[0])
        except (SeedTokError, OSError) as error:  # of this line alone; the chat goes on
            say(f"error: {' '.join(str(error).split())}")
            continue
        for part in made:
            if isinstance(part, Image.Image):
                number, path = _free(out, number)
                write_picture(part, path)
                say(f"[{path}]")
            else:
                say(part)


def _line() -> str:
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline().strip()


def _segments(line: str) -> list[Any]:
    """Texts and the pictures between them; a path with spaces is quoted, as in @"my fox.png".

    Raises DataError for a picture's mark without a picture.
    """
    segments: list[Any] = []
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "", '"'
    words: list[str] = []
    try:
        parts = list(lexer)
    except ValueError:
        raise DataError("a quote is open: close it") from None
    for part in parts:
        if not part.startswith(PICTURE):
            words.append(part)
            continue
        if part == PICTURE:
            raise DataError("@ without a picture: write its path after it, as in @fox.png")
        segments += [" ".join(words)] * bool(words) + [Path(part[1:])]
        words = []
    return segments + [" ".join(words)] * bool(words)


def _free(folder: Path, number: int) -> tuple[int, Path]:
    """The next name in a folder that nothing has yet."""
    number += 1
    while (path := folder / f"{number:03}.png").exists():
        number += 1
    return number, path


def _sampling(temperature: float, top_p: float, seed: int) -> Sampling:
    quiet()
    import torch

    from seedtok.lm.packing import Sampling

    return Sampling(temperature, top_p, torch.Generator().manual_seed(seed))
