"""The prompts by which models are asked for captions and answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from seedtok.core.errors import ConfigError
from seedtok.lm.prompts import CAPTION, QUESTION, question_prompt

T = TypeVar("T")


@dataclass(frozen=True)
class Prompts:
    """The prompts after an image: "{}" stands for the question, which `lower` puts in lower case."""

    caption: str = CAPTION
    question: str = QUESTION
    lower: bool = False

    def asked(self, question: str) -> str:
        return question_prompt(question.lower() if self.lower else question, self.question)


PAPER = Prompts()  # sections 3.1 and 3.2
LAVIS = Prompts("a photo of", "Question: {} Short answer:", lower=True)  # as the paper's numbers of BLIP-2 were made


def recorded(values: Mapping[str, T]) -> T | dict[str, T]:
    """What the record says of a setting of each model: the one that all have, or each one's by its row."""
    first, *others = values.values()
    return dict(values) if any(other != first for other in others) else first


def prompts_named(name: str | None) -> Prompts | None:
    """The prompts "paper" or "lavis", or else the text itself, in which "{}" is where a question goes.

    None, each model's own, is None. Raises ConfigError for an empty one.
    """
    if name is None:
        return None
    known = {"paper": PAPER, "lavis": LAVIS}
    if name in known:
        return known[name]
    if not name.strip():
        raise ConfigError('an empty prompt: give paper, lavis, or a text such as "Question: {} Answer:"')
    return Prompts(caption=name, question=name)
