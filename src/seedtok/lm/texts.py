"""Text after prompts of ids (section 3.2): by our beam search if it supports model and settings, else `generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seedtok.core.errors import InputError
from seedtok.lm.beams import SearchSettings, search_texts
from seedtok.lm.model import JointLM
from seedtok.lm.packing import left_pad
from seedtok.lm.probe import supports_beam_search
from seedtok.lm.prompts import TextSettings

# settings of a generation config that do not change what a beam search finds; with any other, `generate` decodes
NEUTRAL_SETTINGS = {
    "_from_model_config", "bos_token_id", "do_sample", "eos_token_id", "max_length", "output_attentions",
    "output_hidden_states", "pad_token_id", "temperature", "top_k", "top_p", "transformers_version", "use_cache",
}  # fmt: skip


def check_batch_size(batch_size: int | None) -> None:
    """Raises InputError for a batch size below 1; None is any."""
    if batch_size is not None and batch_size < 1:
        raise InputError(f"a batch size of {batch_size}: give 1 or more")


@torch.no_grad()
def complete(
    model: JointLM,
    prompts: Sequence[Sequence[int]],
    settings: TextSettings,
    batch_size: int | None = None,
    on_text: Callable[[str], None] | None = None,
) -> list[str]:
    """The text that follows each prompt of ids.

    `batch_size` prompts are decoded at once, all by default. `on_text` gets the text of a single prompt as it grows,
    and excludes beams. Raises InputError for a prompt too long for the LM.
    """
    _check(model, prompts, settings, batch_size)
    if not prompts:
        return []
    size, ends = batch_size or len(prompts), model.end_ids
    if settings.num_beams > 1 and on_text is None and can_search(model, prompts, settings):
        best = search_texts(model, prompts, _search(model, settings), size)
        found = [texts[0].ids if texts else [] for texts in best]
    else:
        streamer = None if on_text is None else TextStreamer(model, on_text)
        batches = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        found = [ids for batch in batches for ids in _generate(model, batch, settings, streamer)]
    return _texts_of(model, found, ends)


@torch.no_grad()
def candidates(
    model: JointLM, prompts: Sequence[Sequence[int]], settings: TextSettings, batch_size: int | None = None
) -> list[list[tuple[str, float]]]:
    """As many texts after each prompt of ids as there are beams, and the log-probability of each; the best first.

    Raises InputError for a prompt too long for the LM, and where these settings or this LM need `generate`.
    """
    _check(model, prompts, settings, batch_size)
    if not prompts:
        return []
    if not can_search(model, prompts, settings):
        raise InputError(
            "with this language model, or these settings, only the best text is known, not those of all beams"
        )
    search, ends = _search(model, settings, settings.num_beams), model.end_ids
    found = search_texts(model, prompts, search, batch_size or len(prompts))
    texts = [_texts_of(model, [text.ids for text in own], ends) for own in found]
    return [[(t, f.log_prob) for t, f in zip(said, own, strict=True)] for said, own in zip(texts, found, strict=True)]


def _check(model: JointLM, prompts: Sequence[Sequence[int]], settings: TextSettings, batch_size: int | None) -> None:
    check_batch_size(batch_size)
    for prompt in prompts:
        model.check_length(len(prompt), settings.max_new_tokens)


def _search(model: JointLM, settings: TextSettings, kept: int = 1) -> SearchSettings:
    penalty = 1.0 if settings.length_penalty is None else settings.length_penalty
    least = settings.min_new_tokens or 0
    return SearchSettings(settings.num_beams, settings.max_new_tokens, least, penalty, model.end_ids, kept)


def _texts_of(model: JointLM, found: Sequence[list[int]], ends: Sequence[int]) -> list[str]:
    """The texts of ids, each until what ends it."""
    texts = model.text_tokenizer.batch_decode([_until_end(ids, ends) for ids in found], skip_special_tokens=True)
    return [text.strip() for text in texts]


def _until_end(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first that ends a text."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


def _generate(
    model: JointLM, prompts: Sequence[Sequence[int]], settings: TextSettings, streamer: TextStreamer | None
) -> list[list[int]]:
    """The ids that transformers' `generate` finds after prompts of ids."""
    ids, mask = left_pad(prompts, model.device)
    options: dict[str, Any] = {"pad_token_id": model.pad_id, "eos_token_id": model.end_ids or None}
    if model.adapter is None:  # the head of a plain language model has visual ids too
        others = range(model.vocabulary.text, model.lm.config.get_text_config().vocab_size)
        options["suppress_tokens"] = sorted({*others}.difference(model.end_ids))
    options |= settings.arguments()
    if options["num_beams"] == 1:
        options.pop("length_penalty", None)  # `generate` says that it has no effect
    found = model.lm.generate(  # type: ignore[operator]
        inputs_embeds=model.embed(ids), attention_mask=mask, streamer=streamer, **options
    )
    return found.tolist()


def can_search(model: JointLM, prompts: Sequence[Sequence[int]], settings: TextSettings) -> bool:
    """Whether our beam search finds what `generate` would, with these settings and the LM's own."""
    if settings.generate_options or max(model.end_ids, default=0) >= model.vocabulary.text:  # it scores text ids alone
        return False
    config, own = model.lm.config.get_text_config(), model.lm.generation_config
    if own is not None and not own.to_diff_dict().keys() <= NEUTRAL_SETTINGS:
        return False
    window = getattr(config, "sliding_window", None)  # our masks have none: no prompt may outgrow it
    if window is not None and max(map(len, prompts), default=0) + settings.max_new_tokens > window:
        return False
    return supports_beam_search(model)


class TextStreamer:
    """What `generate` hands its tokens to: passes whole words on as soon as they cannot change any more."""

    def __init__(self, model: JointLM, on_text: Callable[[str], None]):
        self.model, self.on_text = model, on_text
        self.ids: list[int] = []
        self.shown = 0  # characters

    def put(self, value: Tensor) -> None:
        """Takes the next ids."""
        self.ids += value.flatten().tolist()
        text = self.model.text_of(self.ids)
        self._show(text, text.rfind(" ") + 1)

    def end(self) -> None:
        """Passes the rest on; ids that follow are another text."""
        text = self.model.text_of(self.ids)
        self._show(text, len(text))
        self.ids, self.shown = [], 0

    def _show(self, text: str, until: int) -> None:
        if until > self.shown:
            self.on_text(text[self.shown : until])
            self.shown = until
