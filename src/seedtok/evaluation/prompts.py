"""The prompts by which models are asked for captions and answers, and how they go on with them."""

from dataclasses import dataclass
from typing import Any

from seedtok.core.errors import ConfigError
from seedtok.lm.prompts import ANSWERING, CAPTION, CAPTIONING, TextSettings, question_prompt


@dataclass(frozen=True)
class Prompts:
    """What stands after a picture; "{}" is where a question goes, `lower` whether it is in lower case."""

    caption: str = CAPTION
    question: str = question_prompt("{}")
    lower: bool = False

    def asked(self, question: str) -> str:
        return self.question.replace("{}", question.strip().lower() if self.lower else question.strip())


PAPER = Prompts()  # sections 3.1 and 3.2
LAVIS = Prompts("a photo of", "Question: {} Short answer:", lower=True)  # as the paper's numbers of BLIP-2 were made


def prompts_named(name: str) -> Prompts:
    """The prompts "paper" or "lavis", or else the text itself, in which "{}" is where a question goes.

    Raises ConfigError for an empty one.
    """
    known = {"paper": PAPER, "lavis": LAVIS}
    if name in known:
        return known[name]
    if not name.strip():
        raise ConfigError('an empty prompt: give paper, lavis, or a text such as "Question: {} Answer:"')
    return Prompts(caption=name, question=name)


@dataclass(frozen=True)
class Decoding:
    """A beam search, as transformers' `generate` has it; of one beam, the likeliest token each time."""

    num_beams: int = 5
    min_new_tokens: int = 0
    max_new_tokens: int = 30
    length_penalty: float = 1.0

    def options(self) -> dict[str, Any]:
        """For `generate`, without what has no effect."""
        options: dict[str, Any] = {"num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens}
        if self.min_new_tokens:
            options["min_new_tokens"] = self.min_new_tokens
        if self.num_beams > 1 and self.length_penalty != 1:
            options["length_penalty"] = self.length_penalty
        return options

    @property
    def text_settings(self) -> TextSettings:
        """The same for our own models."""
        return TextSettings(**self.options())


def caption_decoding(num_beams: int = 5) -> Decoding:
    """As the paper's: 8 to 30 tokens."""
    return Decoding(num_beams, CAPTIONING.min_new_tokens or 0, CAPTIONING.max_new_tokens)


def answer_decoding(num_beams: int = 5) -> Decoding:
    """As the paper's: at most 10 tokens, shorter answers not put at a disadvantage."""
    return Decoding(num_beams, 0, ANSWERING.max_new_tokens, ANSWERING.length_penalty or 0.0)
