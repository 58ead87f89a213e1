"""Messages of users: what one asks of a model of single turns, and as much of a chat as a model has room for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from seedtok.core.errors import InputError
from seedtok.lm.prompts import CAPTION, question_prompt

if TYPE_CHECKING:
    from seedtok.lm.native import Template
    from seedtok.lm.seed_lm import SeedLM

T = TypeVar("T", bound=Any)  # a turn of a chat
CAPTIONED, ANSWERED, CONTINUED, CHATTED = 30, 10, 64, 512  # the most tokens of each kind of text
LEAST_ROOM = 128  # tokens of an answer that earlier turns of a chat leave room for
DRAWING = re.compile(
    r"(?:please\s+)?(?:draw|paint|sketch|(?:generate|create|make)(?:\s+me)?\s+an?\s+(?:image|picture|drawing))\b"
    r"(?:\s+me\b)?(?:\s+an?\s+(?:image|picture|drawing)\b)?(?:\s+of\b)?[\s:]*(?P<prompt>.*)",
    re.IGNORECASE | re.DOTALL,
)
QUESTION = re.compile(r"Question:\s*(?P<question>.*?)\s*Short answer[.:]?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Wish:
    """What a message asks for; `words` are what is to be drawn, or the question."""

    kind: Literal["drawing", "caption", "question", "continuation"]
    words: str = ""

    @property
    def length(self) -> int:
        """The most tokens of the text that answers it."""
        return {"caption": CAPTIONED, "question": ANSWERED}.get(self.kind, CONTINUED)

    def prompt(self, template: Template) -> str:
        """What stands between an image and its caption, or the answer to the question about it."""
        return template.caption if self.kind == "caption" else question_prompt(self.words, template.question)


def wish_of(text: str, images: int, earlier: bool, draws: bool = True) -> Wish:
    """What a message of a text and so many images asks for; `earlier` says whether there was an image before it.

    "Draw ..." is a drawing, unless not `draws`. One image, or else the latest one before, is captioned where there are
    no words or those of `CAPTION`, and asked about where there are others. All else is continued.
    """
    found = DRAWING.fullmatch(text.strip()) if draws else None
    if found:
        return Wish("drawing", found["prompt"].strip())
    if images > 1 or not (images or earlier):
        return Wish("continuation")
    asked = QUESTION.fullmatch(text.strip())
    question = asked["question"] if asked else text.strip()
    return Wish("caption") if question.strip(" .:").lower() in ("", CAPTION.lower()) else Wish("question", question)


def latest_turns(lm: SeedLM, turns: Sequence[T]) -> Sequence[T]:
    """A chat without its first turns, where they would leave no room for an answer; its last turn is always there."""
    while len(turns) > 1 and not _has_room(lm, turns):
        turns = turns[2:]
    return turns


def _has_room(lm: SeedLM, turns: Sequence[Any]) -> bool:
    try:
        return lm.room(turns) >= LEAST_ROOM
    except InputError:  # not even for the turns
        return False
