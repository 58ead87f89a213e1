"""The kinds of work that clients ask for. Those with equal `group` run in one call of the library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from PIL import Image

from seedtok.lm.decoding import Sampling
from seedtok.lm.native import Template
from seedtok.lm.prompts import drawing_prompt, question_prompt, written
from seedtok.serving.engine import Engine

OnPart = Callable[[str | Image.Image], None]  # a piece of text, or a picture
Turns = tuple[tuple[str | Image.Image, ...], ...]  # alternating, of user and model; the user's first and last


@dataclass(frozen=True)
class Outcome:
    """What a task gave: texts and pictures in their order, or codes; and what the client should know of them."""

    parts: tuple[str | Image.Image, ...] = ()
    codes: tuple[int, ...] = ()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return " ".join(part for part in self.parts if isinstance(part, str))

    @property
    def pictures(self) -> list[Image.Image]:
        return [part for part in self.parts if isinstance(part, Image.Image)]


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """A piece of work."""

    rounds: ClassVar[int] = 1  # batches in one call; texts that are done make room for the next within it

    @property
    def is_alone(self) -> bool:
        """Whether it runs together with no other task."""
        return False

    @property
    def weight(self) -> int:
        """How many texts or pictures it makes."""
        return 1

    @property
    def group(self) -> Hashable:
        """Equal for tasks that can run together."""
        return (type(self), id(self)) if self.is_alone else (type(self), *self.settings)

    @property
    def settings(self) -> tuple[Any, ...]:
        """What tasks that run together have in common."""
        return ()

    def fitted(self, engine: Engine) -> Self:
        """This work as far as the model's context has room for it; raises InputError where its prompt has none."""
        return self

    @classmethod
    @abstractmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        """Does tasks of one group; raises InputError when one of them is wrong."""


class Writing(Task):
    """Work that writes text after a prompt, at most `max_new_tokens` tokens."""

    max_new_tokens: int

    @abstractmethod
    def prompt(self, template: Template) -> Turns:
        """The texts and pictures that the text follows."""

    def fitted(self, engine: Engine) -> Self:
        room = engine.model.room(self.prompt(engine.model.template))
        return replace(self, max_new_tokens=min(self.max_new_tokens, max(1, room)))


@dataclass(frozen=True, eq=False)
class Caption(Writing):
    """A caption of a picture (`SeedLM.caption`)."""

    picture: Image.Image
    num_beams: int = 5
    max_new_tokens: int = 30
    rerank: bool = False
    rounds: ClassVar[int] = 4

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_beams, self.max_new_tokens, self.rerank)

    def prompt(self, template: Template) -> Turns:
        return ((self.picture, template.caption),)

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        codes, warnings = engine.encode([task.picture for task in tasks])
        first = tasks[0]
        texts = engine.model.caption(
            codes, num_beams=first.num_beams, batch_size=engine.batch, max_new_tokens=first.max_new_tokens,
            rerank=first.rerank,
        )  # fmt: skip
        return [
            Outcome((text,), (), engine.length(task.prompt(engine.model.template)), engine.tokens(text), warned)
            for task, text, warned in zip(tasks, texts, warnings, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Answer(Writing):
    """A short answer to a question about a picture (`SeedLM.answer`)."""

    picture: Image.Image
    question: str
    num_beams: int = 5
    max_new_tokens: int = 10
    rounds: ClassVar[int] = 4

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_beams, self.max_new_tokens)

    def prompt(self, template: Template) -> Turns:
        return ((self.picture, question_prompt(self.question, template.question)),)

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        codes, warnings = engine.encode([task.picture for task in tasks])
        first = tasks[0]
        texts = engine.model.answer(
            codes, [task.question for task in tasks], num_beams=first.num_beams, batch_size=engine.batch,
            max_new_tokens=first.max_new_tokens,
        )  # fmt: skip
        return [
            Outcome(
                (text,), (), engine.length(task.prompt(engine.model.template)), engine.tokens(text),
                warned + engine.warned_words(task.question),
            )
            for task, text, warned in zip(tasks, texts, warnings, strict=True)
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Draw(Task):
    """Pictures of a prompt (`SeedLM.draw`): `count` of them, whose codes are sampled where `temperature` is above 0.

    Codes of all are sampled together, so that a seed gives the same ones whatever `Engine.batch` is; the image decoder,
    which needs most of the memory, draws so many at once.
    """

    prompt: str
    seed: int
    count: int = 1
    temperature: float = 0.0

    @property
    def is_alone(self) -> bool:
        return self.temperature > 0  # what is sampled would depend on what others ask for

    @property
    def weight(self) -> int:
        return self.count

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        first, draw = tasks[0], engine.model.template.draw
        codes = engine.model.draw_codes(
            [task.prompt for task in tasks for _ in range(task.count)],
            Sampling(first.temperature, 1.0, torch.Generator().manual_seed(first.seed)),
        )
        pictures = iter(engine.decode(codes, [task.seed for task in tasks for _ in range(task.count)]))
        return [
            Outcome(
                tuple(next(pictures) for _ in range(task.count)), (), engine.tokens(drawing_prompt(task.prompt, draw)),
                engine.picture_tokens * task.count, engine.warned_words(written(task.prompt, draw)),
            )
            for task in tasks
        ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Continue(Writing):
    """Goes on with turns of texts and pictures in any order, in texts and pictures (`SeedLM.chat`)."""

    turns: Turns
    seed: int
    max_new_tokens: int = 64
    max_images: int = 4
    temperature: float = 0.0
    top_p: float = 1.0
    on_part: OnPart | None = None

    @property
    def is_alone(self) -> bool:
        return True

    def prompt(self, template: Template) -> Turns:
        return self.turns

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        return [task._one(engine) for task in tasks]

    def _one(self, engine: Engine) -> Outcome:
        parts = [part for turn in self.turns for part in turn]
        codes, warned = engine.encode([part for part in parts if not isinstance(part, str)])
        rows = iter(codes)
        made = engine.model.chat(
            [[engine.plain(part) if isinstance(part, str) else next(rows) for part in turn] for turn in self.turns],
            generator=torch.Generator().manual_seed(self.seed),
            sampling=Sampling(self.temperature, self.top_p, torch.Generator().manual_seed(self.seed)),
            max_new_tokens=self.max_new_tokens,
            max_images=self.max_images,
            on_text=self.on_part,
            on_image=self.on_part,
            dtype=engine.drawing_dtype,
        )
        texts = [part for part in parts if isinstance(part, str)]
        warnings = {*(line for lines in warned for line in lines), *engine.warned_words(*texts)}
        return Outcome(tuple(made), (), engine.length(self.turns), engine.length([made]), tuple(sorted(warnings)))


@dataclass(frozen=True, eq=False)
class Encode(Task):
    """The codes of a picture (`SeedTokenizer.encode`)."""

    picture: Image.Image
    rounds: ClassVar[int] = 4

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        codes, warnings = engine.encode([task.picture for task in tasks])
        return [
            Outcome(codes=tuple(row), warnings=warned) for row, warned in zip(codes.tolist(), warnings, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Decode(Task):
    """The picture of codes (`SeedTokenizer.decode`)."""

    codes: tuple[int, ...]
    seed: int
    steps: int | None = None
    guidance: float | None = None

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.steps, self.guidance)

    @classmethod
    def run(cls, engine: Engine, tasks: Sequence[Self]) -> list[Outcome]:
        first = tasks[0]
        codes, seeds = [task.codes for task in tasks], [task.seed for task in tasks]
        pictures = engine.decode(codes, seeds, first.steps, first.guidance)
        return [Outcome((picture,)) for picture in pictures]
