"""Published language models that have the codes as tokens of their own: SEED-LLaMA and AnyGPT.

They are causal LMs of transformers with a longer vocabulary. Which ids are codes is read from the names in their
tokenizer's files, and a prompt is the text of the names and words together, tokenized as one, as their authors do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from seedtok.core.errors import CheckpointError, InputError
from seedtok.core.records import from_record
from seedtok.lm.prompts import CAPTION, DRAW, QUESTION
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.given_codes import Codes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_TOKENIZER = "AILab-CVC/seed-tokenizer-2"  # whose codes both use
SEED_LLAMA_IDS = 32_000 + 8_192 + 2  # of Llama's text, codes, begin and end of an image


@dataclass(frozen=True)
class TokenNames:
    """How a tokenizer names begin and end of an image, and a code, whose number replaces {} or the like.

    `stops` are the names of further tokens that end what a model says.
    """

    begin: str
    end: str
    code: str
    stops: tuple[str, ...] = ()

    def image(self, codes: Sequence[int]) -> str:
        """Codes (32,) -> the names of an image: begin, codes, end."""
        return "".join([self.begin, *map(self.code.format, codes), self.end])


SEED_LLAMA = TokenNames("<img>", "</img>", "<img_{:05d}>")
ANYGPT = TokenNames("<soim>", "<eoim>", "<👀{}>", ("<eos>", "<eom>", "<eoh>"))


def find_layout(tokenizer: PreTrainedTokenizerBase, span: int = 32) -> tuple[Vocabulary, TokenNames] | None:
    """Which ids of a tokenizer are codes, begin and end of an image, and their names; None where none are.

    Raises CheckpointError where the codes are not consecutive ids.
    """
    ids = tokenizer.get_vocab()
    for names in (SEED_LLAMA, ANYGPT):
        first = ids.get(names.code.format(0))
        if first is None or names.begin not in ids or names.end not in ids:
            continue
        count = 1
        while (following := ids.get(names.code.format(count))) is not None:
            if following != first + count:
                raise CheckpointError(f"{names.code.format(count)} has the id {following}, not {first + count}")
            count += 1
        return Vocabulary(first, ids[names.begin], ids[names.end], count, span), names
    return None


@dataclass(frozen=True)
class Template:
    """How a model was asked while it was trained: what stands around the turns of a chat, and its prompts.

    A chat begins with `start`. A user's turn stands between `before` and `after`, the model's between `answer` and
    `between`. In `question` the question replaces {}; `caption` asks for a caption of the image before it, of at least
    `caption_tokens` tokens; `draw` asks for an image of the text after it, or of that which replaces {}, and `drawn` is
    what the model says before it.
    """

    before: str = ""
    after: str = ""
    between: str = ""
    caption: str = CAPTION
    question: str = QUESTION
    draw: str = DRAW
    caption_tokens: int = 8
    start: str = ""
    answer: str = ""
    drawn: str = ""

    @property
    def chats(self) -> bool:
        """Whether the model was trained on chats: something tells whose turn it is."""
        return bool(self.before or self.after)

    def wrap(self, turns: Sequence[Sequence[str | Codes]]) -> list[str | Codes]:
        """Turns of texts and codes, the user's and the model's alternately, the user's first and last -> one prompt.

        Raises InputError for an even number of turns.
        """
        if len(turns) % 2 == 0:
            raise InputError(f"{len(turns)} turns: give an odd number, the user's first and last")
        segments: list[str | Codes] = [self.start]
        for number, turn in enumerate(turns):
            around = (self.answer, self.between) if number % 2 else (self.before, self.after)
            segments += [around[0], *turn, around[1]]
        return [part for part in segments if not isinstance(part, str) or part]

    def entry(self) -> dict[str, Any]:
        """What a checkpoint's config.json says of this template: nothing of the paper's."""
        return {} if self == PLAIN else {"template": asdict(self)}

    @classmethod
    def of_entry(cls, config: Mapping[str, Any]) -> Template:
        """The template that a config.json tells by `entry`; raises CheckpointError for what is none."""
        record = config.get("template", {})
        return from_record(cls, asdict(PLAIN) | record if isinstance(record, dict) else record, "a template")


DESCRIBE = "Please provide an accurate and concise description of the given image."
BRIEFLY = "{} Please provide an accurate answer consisting of only one word or phrase."
PLAIN = Template()
PRETRAINED = Template(caption="", question="Question: {}\nAnswer:", draw="")  # caption after image, or before it
INSTRUCTED_8B = Template(  # each turn was tokenized alone, so that there is a space before the model's, and before "\n"
    "USER: ", "\nASSISTANT:", " \n", DESCRIBE, BRIEFLY, "Generate an image of {}.", answer=" ", drawn="Here's an image."
)
INSTRUCTED_14B = Template(
    "[INST] ", " [/INST]\n", "\n", DESCRIBE, BRIEFLY, "Generate an image of {}.", drawn="Here's an image."
)
ANYGPT_BASE = Template(
    "[Human]: ", "<eoh> [MMGPT]:", "<eos>\n", "Please describe the picture briefly.", f" {BRIEFLY}",
    "Generate an image. This is input: {}", answer=" ",
)  # fmt: skip
ANYGPT_CHAT = Template(
    "[Human]: ", "<eoh>\n[MMGPT]:", "<eos>\n", " Please describe the picture briefly.", f" {BRIEFLY}",
    "{}. Please generation an image.", answer=" ",  # as in its training
    start="You are an AI assistant named MMGPT who can understand and generate multimodal content, including text, "
    "speech, images and audio.\n",
)  # fmt: skip
TEMPLATES = {
    "plain": PLAIN, "pretrained": PRETRAINED, "vicuna": INSTRUCTED_8B, "llama2": INSTRUCTED_14B,
    "anygpt": ANYGPT_BASE, "anygpt-chat": ANYGPT_CHAT,
}  # fmt: skip


def template_named(name: str | None) -> Template | None:
    """One of `TEMPLATES`; None, a model's own, for None. Raises InputError for another name."""
    if name is None:
        return None
    if name not in TEMPLATES:
        raise InputError(f"no template {name!r}: choose {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def template_of(name: str, config: Any, names: TokenNames | None = SEED_LLAMA) -> Template:
    """The template of a published model by its name, as in the hub's cache too, its sizes and its names of codes.

    Of SEED-LLaMA's, only those whose name has "sft" are instructed; of AnyGPT's, that with "chat" is.
    """
    path = PurePath(name)
    own = (path.parts[-3] if "snapshots" in path.parts[-2:-1] else path.name).lower()  # models--ORG--NAME/snapshots/...
    if names == ANYGPT:
        return ANYGPT_CHAT if "chat" in own else ANYGPT_BASE
    if "sft" not in own:
        return PRETRAINED
    return INSTRUCTED_8B if int(config.get_text_config().hidden_size) <= 4096 else INSTRUCTED_14B
