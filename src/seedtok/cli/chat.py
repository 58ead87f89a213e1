"""The command chat: texts and images, line by line."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedtok.cli.lm import Base, Chat, Model, Quantize, Seed, Temperature, Tokenizer, TopP, load_lm, sampling_of
from seedtok.cli.support import Device, Dtype, Precision, generators, say, write_image
from seedtok.cli.tokenizer import LcmLora
from seedtok.core.errors import DataError, SeedTokError
from seedtok.lm.messages import CHATTED, latest_turns, wish_of

if TYPE_CHECKING:
    import torch

    from seedtok.lm.decoding import Sampling
    from seedtok.lm.seed_lm import SeedLM

IMAGE = re.compile(r'(?<!\S)@(?:"(?P<quoted>[^"]*)"|(?P<plain>\S*))')


def chat(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of the drawn images.")] = Path("chat"),
    model: Model = "mini",
    base: Base = None,
    tokenizer: Tokenizer = None,
    template: Chat = None,
    quantize: Quantize = None,
    seed: Seed = 0,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    dtype: Dtype = Precision.float32,
    device: Device = "auto",
    lcm_lora: LcmLora = None,
) -> None:
    """Chat with text and images, line by line: @PATH inserts an image; drawn images are saved, and their paths printed.

    @fox.png alone is captioned; "@fox.png What color is the background?" and further lines ask about it; "Draw a fox"
    draws; several images, or words before any image, are continued. A model that was trained on chats gets all
    lines as they are, in the format that it was trained on. An empty line ends a chat at a terminal; from a pipe it is
    skipped.
    """
    sampling = sampling_of(temperature, top_p, seed)
    lm = load_lm(model, dtype.value, device, base, tokenizer, template, quantize)
    lm.seed.draw_by(lcm_lora=lcm_lora)
    from PIL import Image

    if sys.stdin.isatty():
        say("@PATH inserts an image, as in: @fox.png What is it? An empty line ends the chat.")
    answering = (_Chat if lm.template.chats else _SingleTurns)(lm, sampling)
    number, failed = 0, 0
    for line in _lines():
        try:
            made = answering.reply(_segments(line), generators(1, seed)[0])
        except (SeedTokError, OSError) as error:  # affects this line only
            say(f"error: {' '.join(str(error).split())}")
            failed += 1
            continue
        for part in made:
            if isinstance(part, Image.Image):
                number, path = _free(out, number)
                write_image(part, path)
                say(f"[{path}]")
            else:
                say(part)
    if failed and not sys.stdin.isatty():
        raise typer.Exit(1)


class _Chat:
    """For models that were trained on chats: the turns so far, with the codes of images, as far as there is room."""

    def __init__(self, lm: SeedLM, sampling: Sampling) -> None:
        self.lm, self.sampling = lm, sampling
        self.turns: Sequence[Any] = []

    def reply(self, segments: list[Any], generator: torch.Generator) -> list[Any]:
        """The answer to a turn of texts and paths; after an error the chat is as it was before."""
        turns = latest_turns(self.lm, [*self.turns, self._codes(segments)])
        made = self.lm.chat(turns, generator, CHATTED, sampling=self.sampling)
        self.turns = [*turns, self._codes(made)]
        return made

    def _codes(self, segments: list[Any]) -> list[Any]:
        return [part if isinstance(part, str) else self.lm.seed.encode(part)[0] for part in segments]


class _SingleTurns:
    """For models that were trained on single turns: each line is one, about the latest image."""

    def __init__(self, lm: SeedLM, sampling: Sampling) -> None:
        self.lm, self.sampling = lm, sampling
        self.image: Any = None  # its codes (1, 32)

    def reply(self, segments: list[Any], generator: torch.Generator) -> list[Any]:
        """The answer to a line of texts and paths."""
        made = self._made(segments, generator)
        if drawn := [part for part in made if not isinstance(part, str)]:
            self.image = self.lm.seed.encode(drawn[-1])
        return made

    def _made(self, segments: list[Any], generator: torch.Generator) -> list[Any]:
        lm, sampling = self.lm, self.sampling
        text = "\n".join(part for part in segments if isinstance(part, str))
        paths = [part for part in segments if isinstance(part, Path)]
        wish = wish_of(text, len(paths), self.image is not None)
        if wish.kind == "drawing":
            return lm.draw(wish.words, sampling, generator=generator)
        codes = iter(encoded := lm.seed.encode(paths))
        self.image = encoded[-1:] if paths else self.image
        if wish.kind == "continuation":
            turn = [part if isinstance(part, str) else next(codes) for part in segments]
            return lm.generate(turn, generator, wish.length, sampling=sampling)
        if sampling.temperature:
            turn = [self.image[0], wish.prompt(lm.template)]
            return lm.generate(turn, generator, wish.length, max_images=0, sampling=sampling)
        return lm.caption(self.image) if wish.kind == "caption" else lm.answer(self.image, wish.words)


def _lines() -> Iterator[str]:
    """The lines of stdin: on a terminal, with a prompt before each, up to an empty one; else all that are not empty."""
    on_terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # as file names are decoded
    while True:
        if on_terminal:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or (on_terminal and not line.strip()):
            return
        if line.strip():
            yield line.strip()


def _segments(line: str) -> list[Any]:
    """A line as texts and paths of images; paths with spaces are quoted, as in @"my fox.png".

    Raises DataError for an @ without a path and for an open quote.
    """
    segments: list[Any] = []
    end = 0
    for found in IMAGE.finditer(line):
        path = found["quoted"] or found["plain"]
        if path and path.startswith('"'):
            raise DataError("a quote is not closed: add the closing quote")
        if not path:
            raise DataError("@ without an image: write its path after it, as in @fox.png")
        segments += [line[end : found.start()].strip(), Path(path)]
        end = found.end()
    return [part for part in (*segments, line[end:].strip()) if part != ""]


def _free(folder: Path, number: int) -> tuple[int, Path]:
    """The next number, and a path with it in a folder that does not exist yet."""
    number += 1
    while (path := folder / f"{number:03}.png").exists():
        number += 1
    return number, path
