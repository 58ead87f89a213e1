"""The paper's prompts (sections 3.1 and 3.2) and how its texts are decoded, once, for training and inference alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seedtok.core.errors import InputError
from seedtok.core.text import clean_words

CAPTION = "A photo of"
QUESTION = "Question: {} Short answer."
DRAW = "Generate an image"


def question_prompt(question: str, template: str = QUESTION) -> str:
    """The prompt that asks a question, which replaces `{}` in the template; the answer follows it."""
    return template.replace("{}", question.strip())


def drawing_prompt(caption: str, instruction: str = DRAW) -> str:
    """The prompt that asks for an image of a caption, which follows the instruction, or replaces `{}` in it.

    A full stop after `{}` is left out where the caption ends with one, or otherwise as a sentence does.
    """
    caption = written(caption, instruction)
    if "{}" not in instruction:
        return f"{instruction} {caption}".strip()
    place = "{}." if caption.endswith((".", "!", "?")) and "{}." in instruction else "{}"
    return instruction.replace(place, caption)


def written(caption: str, instruction: str = DRAW) -> str:
    """A caption that is to be drawn, after our training's instruction as captions were there, by `clean_words`."""
    return (" ".join(clean_words(caption)) if instruction == DRAW else "") or caption.strip()


@dataclass(frozen=True)
class TextSettings:
    """How a text is decoded, in the terms of transformers' `generate`: greedily unless there are several beams.

    None leaves a setting to the language model's own generation config. `generate_options` are further options of
    `generate`, such as `do_sample`; with any of them it is `generate` that decodes.
    """

    num_beams: int = 1
    max_new_tokens: int = 30
    min_new_tokens: int | None = None
    length_penalty: float | None = None
    generate_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise InputError(f"{self.num_beams} beams: give 1 or more")
        if self.max_new_tokens < 1:
            raise InputError(f"{self.max_new_tokens} new tokens: give 1 or more")

    def arguments(self) -> dict[str, Any]:
        """The settings as arguments of `generate`."""
        given: dict[str, Any] = {
            "num_beams": self.num_beams, "max_new_tokens": self.max_new_tokens,
            "min_new_tokens": self.min_new_tokens, "length_penalty": self.length_penalty,
        }  # fmt: skip
        given = {name: value for name, value in given.items() if value is not None}
        return {"do_sample": False} | given | dict(self.generate_options)


CAPTIONING = TextSettings(num_beams=5, min_new_tokens=8)
ANSWERING = TextSettings(num_beams=5, max_new_tokens=10, length_penalty=0.0)
