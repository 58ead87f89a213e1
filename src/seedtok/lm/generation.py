"""What a SEED language model says and draws (section 3.2): captions, answers, pictures, and any mixture of them.

An image span is 32 codes and the end of the image by construction: within one only the visual head is asked, for codes
alone, and its end is not asked for at all.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from seedtok.core.errors import InputError, SeedTokWarning
from seedtok.core.image_search import SUFFIXES
from seedtok.core.images import ImageSource
from seedtok.lm.beams import Search, text_by_beams
from seedtok.lm.decoding import Rows, span, span_by_beams
from seedtok.lm.packing import GREEDY, Sampling, check_length, left_padded, pad_of, sequence, start, text_of
from seedtok.lm.prompts import ANSWER_LENGTH, CAPTION, CAPTION_LENGTH, drawing_prompt, question_prompt
from seedtok.tokenizer.unknown_words import warn_of_unknown_words

if TYPE_CHECKING:
    from seedtok.lm.seed_lm import SeedLM

# the models whose attention takes any mask and any positions, and the options of `generate`, that our beam search knows
SEARCHED_MODELS = {"opt", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"}
SEARCHED = {"min_new_tokens", "length_penalty"}
NEUTRAL = {  # of a model's settings for `generate`, those that a beam search does not heed
    "_from_model_config", "bos_token_id", "do_sample", "eos_token_id", "max_length", "output_attentions",
    "output_hidden_states", "pad_token_id", "temperature", "top_k", "top_p", "transformers_version", "use_cache",
}  # fmt: skip

# ---------------------------------------------------------------- texts


@torch.no_grad()
def write(
    model: SeedLM,
    rows: Sequence[Sequence[int]],
    max_new_tokens: int = 30,
    num_beams: int = 1,
    on_text: Callable[[str], None] | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> list[str]:
    """Goes on with prompts of ids, in words alone; `options` are those of transformers' `generate`.

    `batch_size` prompts at a time, all by default. `on_text` gets the text as it comes, of one greedy or sampled
    prompt.
    """
    _check_batch_size(batch_size)
    if num_beams < 1:
        raise InputError(f"{num_beams} beams: give 1 or more")
    if not rows:
        return []
    for row in rows:
        check_length(model, len(row), max_new_tokens)
    options = {name: value for name, value in options.items() if value is not None}
    size = batch_size or len(rows)
    if num_beams > 1 and max_new_tokens > 0 and on_text is None and _plain(model, rows, max_new_tokens, options):
        search = Search(num_beams, max_new_tokens, ends=_ends(model), **options)
        texts: Sequence[Any] = text_by_beams(model, rows, search, size)
    else:
        streamer = None if on_text is None else _Streamer(model, on_text)
        options = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "streamer": streamer} | options
        batches = (rows[i : i + size] for i in range(0, len(rows), size))
        texts = [text for batch in batches for text in _by_generate(model, batch, **options)]
    whole = [_until(ids, _ends(model)) for ids in texts]
    return [text.strip() for text in model.text_tokenizer.batch_decode(whole, skip_special_tokens=True)]


def _until(ids: Sequence[int] | Tensor, ends: Sequence[int]) -> list[int]:
    """What is before the first of the ids that end a text, and all where there is none."""
    given = list(map(int, ids))
    return given[: next((at for at, token in enumerate(given) if token in ends), len(given))]


def _check_batch_size(batch_size: int | None) -> None:
    if batch_size is not None and batch_size < 1:
        raise InputError(f"a batch size of {batch_size}: give 1 or more")


def _by_generate(model: SeedLM, rows: Sequence[Sequence[int]], **options: Any) -> Int[Tensor, "b n"]:
    ids, mask = left_padded(rows, model.device)
    defaults = {"do_sample": False, "pad_token_id": pad_of(model.text_tokenizer), "eos_token_id": _ends(model) or None}
    options = defaults | options
    return model.lm.generate(inputs_embeds=model.embed(ids), attention_mask=mask, **options)  # type: ignore[operator]


def _plain(model: SeedLM, rows: Sequence[Sequence[int]], max_new_tokens: int, options: dict[str, Any]) -> bool:
    """Whether our beam search does all that `generate` would; nothing of a sequence may have left a sliding window."""
    config, settings = model.lm.config.get_text_config(), model.lm.generation_config.to_diff_dict()
    window = getattr(config, "sliding_window", None)
    fits = window is None or max(map(len, rows)) + max_new_tokens <= window
    known = config.model_type in SEARCHED_MODELS and fits
    return known and options.keys() <= SEARCHED and settings.keys() <= NEUTRAL


def _ends(model: SeedLM) -> list[int]:
    """The ids that end a text: those that the LM's generation settings name, and the text tokenizer's own."""
    ends = model.lm.generation_config.eos_token_id
    named = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    own = cast(int | None, model.text_tokenizer.eos_token_id)
    return named if own is None or own in named else [*named, own]


class _Streamer:
    """What `generate` hands tokens to: passes on whole words as soon as they cannot change."""

    def __init__(self, model: SeedLM, on_text: Callable[[str], None]):
        self.model, self.on_text = model, on_text
        self.ids: list[int] = []
        self.shown = 0

    def put(self, value: Tensor) -> None:
        self.ids += value.flatten().tolist()
        text = text_of(self.model, self.ids)
        self._show(text, text.rfind(" ") + 1)

    def end(self) -> None:
        text = text_of(self.model, self.ids)
        self._show(text, len(text))

    def _show(self, text: str, until: int) -> None:
        if until > self.shown:
            self.on_text(text[self.shown : until])
            self.shown = until


def _codes(model: SeedLM, images: Any, batch_size: int) -> Int[Tensor, "b n"]:
    """Of pictures, as `SeedTokenizer.encode` takes them; an int64 tensor (B, 32) is codes already."""
    _check_batch_size(batch_size)
    if isinstance(images, Tensor) and images.ndim == 2 and images.dtype == torch.int64:
        return images
    return model.seed.encode(images, batch_size)


def caption(model: SeedLM, images: Any, num_beams: int = 5, batch_size: int = 32, **options: Any) -> list[str]:
    """Captions of pictures or of their codes (B, 32): projected codes, then "A photo of" (beams 5, 8 to 30 tokens).

    `batch_size` pictures are at work at once; one that is done makes room for the next. No pictures have no captions.
    """
    rows = [sequence(model, [codes, CAPTION]) for codes in _codes(model, images, batch_size)]
    settings: dict[str, Any] = {"num_beams": num_beams, "batch_size": batch_size} | CAPTION_LENGTH | options
    if "min_new_tokens" not in options:  # a caption may be asked to be shorter
        settings["min_new_tokens"] = min(settings["min_new_tokens"], settings["max_new_tokens"])
    return write(model, rows, **settings)


def answer(
    model: SeedLM, images: Any, questions: Sequence[str], num_beams: int = 5, batch_size: int = 32, **options: Any
) -> list[str]:
    """Short answers to a question a picture, or its codes (beams 5, at most 10 tokens, length penalty 0).

    `batch_size` as for `caption`. Raises InputError for an empty question, or another number of questions than of
    pictures.
    """
    codes = _codes(model, images, batch_size)
    if len(codes) != len(questions):
        raise InputError(f"{len(questions)} questions about {len(codes)} pictures; give one a picture")
    if not all(question.strip() for question in questions):
        raise InputError("an empty question: ask something")
    warn_of_unknown_words(model.text_tokenizer, questions)
    rows = [sequence(model, [c, question_prompt(q)]) for c, q in zip(codes, questions, strict=True)]
    settings: dict[str, Any] = {"num_beams": num_beams, "batch_size": batch_size} | ANSWER_LENGTH | options
    return write(model, rows, **settings)


# ---------------------------------------------------------------- pictures


@torch.no_grad()
def draw_codes(
    model: SeedLM, prompts: Sequence[str], sampling: Sampling = GREEDY, num_beams: int = 1
) -> Int[Tensor, "b n"]:
    """Codes (B, 32) of what prompts ask for: "Generate an image" and the prompt, then 32 codes; (0, 32) for none.

    Raises InputError for an empty prompt, one too long for the LM, or beams together with sampling.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise InputError("an empty prompt: say what to draw")
    if num_beams < 1:
        raise InputError(f"{num_beams} beams: give 1 or more")
    if num_beams > 1 and sampling.temperature:
        raise InputError("beams and a temperature exclude each other; drop one")
    if not prompts:
        return torch.zeros(0, model.vocabulary.config.span, dtype=torch.int64, device=model.device)
    warn_of_unknown_words(model.text_tokenizer, prompts)
    rows = [[*sequence(model, [drawing_prompt(prompt)]), model.vocabulary.begin] for prompt in prompts]
    for row in rows:
        check_length(model, len(row), model.vocabulary.config.span)
    grown = Rows(model, rows)
    return span(grown, sampling) if num_beams == 1 else span_by_beams(grown, num_beams)


def draw(
    model: SeedLM,
    prompts: Sequence[str],
    sampling: Sampling = GREEDY,
    num_beams: int = 1,
    generator: torch.Generator | list[torch.Generator] | None = None,
    dtype: torch.dtype | None = None,
) -> list[Image.Image]:
    """Pictures of prompts; `generator` and `dtype` are the image decoder's, `sampling` has the LM's own."""
    return model.seed.decode(draw_codes(model, prompts, sampling, num_beams), generator=generator, dtype=dtype)


# ---------------------------------------------------------------- mixtures


@torch.no_grad()
def generate(
    model: SeedLM,
    segments: Sequence[str | ImageSource | Tensor],
    max_new_tokens: int = 64,
    max_images: int = 4,
    sampling: Sampling = GREEDY,
    on_text: Callable[[str], None] | None = None,
) -> list[str | Tensor]:
    """Goes on with any interleaving of texts and pictures; returns texts and codes (32,) in their order.

    A str is text; pictures are anything that `SeedTokenizer.encode` takes, or an int64 tensor of 32 codes. Ends with
    any of the LM's end tokens, or after `max_new_tokens` of text.
    """
    vocabulary = model.vocabulary
    texts = [segment for segment in segments if isinstance(segment, str)]
    for text in filter(_names_a_picture, texts):
        message = f"{text!r} is read as a text; for the picture of that name give pathlib.Path({text!r})"
        warnings.warn(message, SeedTokWarning, stacklevel=3)
    warn_of_unknown_words(model.text_tokenizer, [text for text in texts if not _names_a_picture(text)])
    ids = sequence(model, [_as_segment(model, s) for s in segments])
    if len(ids) == len(start(model)):
        raise InputError("an empty prompt: give a text or a picture")
    room = model.context - len(ids)
    grown, ends = Rows(model, [ids]), _ends(model)
    out: list[str | Tensor] = []
    words: list[int] = []
    images = used = written = 0

    def flush() -> None:
        if words:
            out.append(text_of(model, words).strip())
            words.clear()

    stream = None if on_text is None else _Streamer(model, on_text)
    while written < max_new_tokens and used < room:
        logits = model.logits(grown.states)
        picture_fits = images < max_images and used + vocabulary.config.span + 2 <= room
        logits[:, vocabulary.config.text : vocabulary.begin] = float("-inf")  # codes are for within a picture
        logits[:, vocabulary.end] = float("-inf")
        if not picture_fits:
            logits[:, vocabulary.begin] = float("-inf")
        token = int(sampling.pick(logits))
        if token == vocabulary.begin:
            flush()
            grown.append(torch.tensor([token], device=model.device))
            codes = span(grown, sampling)[0]
            out.append(codes)
            grown.append(codes[-1:] + vocabulary.config.text)
            grown.append(torch.tensor([vocabulary.end], device=model.device))
            images, used = images + 1, used + vocabulary.config.span + 2
            continue
        if token in ends:
            break
        words.append(token)
        if stream is not None:
            stream.put(torch.tensor([token]))
        written, used = written + 1, used + 1
        grown.append(torch.tensor([token], device=model.device))
    if stream is not None:
        stream.end()
    flush()
    return out


def _names_a_picture(text: str) -> bool:
    return text.lower().endswith(tuple(SUFFIXES)) and Path(text).is_file()


def _as_segment(model: SeedLM, segment: Any) -> str | Tensor:
    if isinstance(segment, str):
        return segment
    if isinstance(segment, Tensor) and segment.ndim == 1:
        return segment
    return model.seed.encode(segment)[0]
