"""The command chat: texts and images, line by line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedtok.cli.lm import Base, Chat, Model, Quantize, Seed, Temperature, Tokenizer, TopP, load_lm, sampling_of
from seedtok.cli.support import Device, Dtype, Precision, generators, say, write_image
from seedtok.cli.tokenizer import LcmLora
from seedtok.core.errors import DataError, InputError, SeedTokError
from seedtok.lm.prompts import drawing_in, question_in, question_prompt

if TYPE_CHECKING:
    import torch

    from seedtok.lm.decoding import Sampling
    from seedtok.lm.seed_lm import SeedLM

IMAGE_PREFIX = "@"  # of a path in a line
CHATTED = 512  # tokens of an answer in a chat
LEAST_ROOM = 128  # tokens of an answer that earlier turns leave room for


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
    of them in its own words instead. An empty line ends a chat at a terminal; from a pipe it is skipped.
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
        self.turns: list[list[Any]] = []

    def reply(self, segments: list[Any], generator: torch.Generator) -> list[Any]:
        """The answer to a turn of texts and paths; after an error the chat is as it was before."""
        turns = self._with_room([*self.turns, self._codes(segments)])
        made = self.lm.chat(turns, generator, CHATTED, sampling=self.sampling)
        self.turns = [*turns, self._codes(made)]
        return made

    def _codes(self, segments: list[Any]) -> list[Any]:
        return [part if isinstance(part, str) else self.lm.seed.encode(part)[0] for part in segments]

    def _with_room(self, turns: list[list[Any]]) -> list[list[Any]]:
        """The latest turns: the first ones are left out where they leave no room for an answer."""
        while len(turns) > 1:
            try:
                if self.lm.room(turns) >= LEAST_ROOM:
                    break
            except InputError:  # they do not even fit themselves
                pass
            turns = turns[2:]
        return turns


class _SingleTurns:
    """For models that were trained on single turns: each line is one, about the latest image."""

    def __init__(self, lm: SeedLM, sampling: Sampling) -> None:
        self.lm, self.sampling = lm, sampling
        self.image: Any = None  # its codes (1, 32)

    def reply(self, segments: list[Any], generator: torch.Generator) -> list[Any]:
        """The answer to a line of texts and paths."""
        lm = self.lm
        text = " ".join(part for part in segments if isinstance(part, str))
        paths = [part for part in segments if isinstance(part, Path)]
        prompt = drawing_in(text)
        if prompt is not None:
            made: list[Any] = lm.draw(prompt, self.sampling, generator=generator)
            self.image = lm.seed.encode(made)
            return made
        if paths:
            codes = lm.seed.encode(paths)
            self.image = codes[-1:]
        if self.image is None or len(paths) > 1:
            rows = iter(codes if paths else ())
            turn = [part if isinstance(part, str) else next(rows) for part in segments]
            return lm.generate(turn, generator, sampling=self.sampling)
        question = question_in(text)
        if self.sampling.temperature:
            words = lm.template.caption if question is None else question_prompt(question, lm.template.question)
            return lm.generate([self.image[0], words], generator, max_images=0, sampling=self.sampling)
        return lm.caption(self.image) if question is None else lm.answer(self.image, question)


def _lines() -> Iterator[str]:
    """The lines of stdin: on a terminal, with a prompt before each, up to an empty one; else all that are not empty."""
    on_terminal = sys.stdin.isatty()
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
    lexer = shlex.shlex(line, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "", '"'
    words: list[str] = []
    try:
        parts = list(lexer)
    except ValueError:
        raise DataError("a quote is not closed: add the closing quote") from None
    for part in parts:
        if not part.startswith(IMAGE_PREFIX):
            words.append(part)
            continue
        if part == IMAGE_PREFIX:
            raise DataError("@ without an image: write its path after it, as in @fox.png")
        segments += [" ".join(words)] * bool(words) + [Path(part[1:])]
        words = []
    return segments + [" ".join(words)] * bool(words)


def _free(folder: Path, number: int) -> tuple[int, Path]:
    """The next number, and a path with it in a folder that does not exist yet."""
    number += 1
    while (path := folder / f"{number:03}.png").exists():
        number += 1
    return number, path
