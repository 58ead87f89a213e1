"""A model for lmms-eval, imported by it alone: any `Reader` behind its interface.

`lmms-eval --model seedtok --model_args pretrained=mini,dtype=bfloat16 --tasks ...`; each task brings its own prompts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

from seedtok.core.device import device_named, dtype_named
from seedtok.core.errors import ConfigError, InputError
from seedtok.evaluation.readers import SeedReader, load_reader
from seedtok.lm.prompts import TextSettings

NEW_TOKENS = 64  # where a task does not say how many
IMAGE = "<image>"  # stands in some tasks' prompts for the picture, which comes first here


class LmmsReader(lmms):
    """A SEED language model, SEED-LLaMA, the BLIP-2-style baseline or a BLIP-2 of transformers.

    Args:
        pretrained: "mini", a folder or a hub id.
        tokenizer: the image tokenizer in place of the one that the model names.
        base: the base language model, likewise.
        prompt: the text after the picture; `{}` is the task's own prompt.
        dtype: of the weights.
        device: as `device_named` takes it; by default a GPU where there is one.
        batch_size: requests that are answered together.
        max_batch_size: not used; lmms-eval gives it.
    """

    def __init__(
        self, pretrained: str = "mini", tokenizer: str | None = None, base: str | None = None, prompt: str = "{}",
        dtype: str = "float32", device: str | None = None, batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError("this model answers in one process: start lmms-eval without a launcher")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"a batch size of {batch_size}: give a number, such as 16")
        if "{}" not in prompt:
            raise ConfigError(f'the prompt {prompt!r} has no place for the task\'s own: write "{{}}" there')
        place = device_named(device or "auto")
        self.reader = load_reader(pretrained, dtype_named(dtype), place, base, tokenizer)
        self.prompt, self.batch_size = prompt, int(batch_size)

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The answer to each request, which is about one picture; up to the first text at which its task ends it."""
        answers: list[str | None] = [None] * len(requests)
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(repr(sorted(request.args[1].items())), []).append(number)
        for numbers in alike.values():
            for start in range(0, len(numbers), self.batch_size):
                chosen = numbers[start : start + self.batch_size]
                for number, text in zip(chosen, self._answers([requests[i].args for i in chosen]), strict=True):
                    answers[number] = text
        return [text for text in answers if text is not None]

    def _answers(self, requests: Sequence[tuple[Any, ...]]) -> list[str]:
        options = requests[0][1]
        pictures, prompts = [], []
        for context, _, visuals_of, number, task, split in requests:
            visuals = visuals_of(self.task_dict[task][split][number])
            if len(visuals) != 1:
                raise InputError(f"{task}, sample {number}: {len(visuals)} pictures; this model is asked about one")
            pictures.append(visuals[0].convert("RGB"))
            prompts.append([self.prompt.replace("{}", context.replace(IMAGE, "").strip())])
        new = options.get("max_new_tokens") or NEW_TOKENS
        if isinstance(self.reader, SeedReader):  # tasks leave more room for an answer than a short context has
            asked = zip(pictures, prompts, strict=True)
            new = max(1, min(new, *(self.reader.model.room([[picture, text]]) for picture, (text,) in asked)))
        decoding = TextSettings(options.get("num_beams") or 1, new)
        return [_until(text, options.get("until") or ()) for text in self.reader.write(pictures, prompts, decoding)]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        raise ConfigError("this model answers by generating: choose tasks of output_type generate_until")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise ConfigError("this model answers in one round: choose tasks of output_type generate_until")


def _until(text: str, ends: str | Sequence[str]) -> str:
    """A text up to the first of the texts that end it."""
    for end in [ends] if isinstance(ends, str) else ends:
        text = text.partition(end)[0] if end else text
    return text.strip()
