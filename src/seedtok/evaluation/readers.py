"""Models that say what is in pictures, behind one interface: SEED-OPT, the baselines of ours, BLIP-2 itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.core.hub import MINI
from seedtok.core.kinds import CAUSAL_LM, LM, PREFIX_LM
from seedtok.core.records import encodable
from seedtok.evaluation.foreign import load_foreign, load_preprocessing, load_words, loader_for
from seedtok.evaluation.preprocessing import Preprocessing, stretched
from seedtok.evaluation.prompts import PAPER, Prompts
from seedtok.lm.base import pad_id
from seedtok.lm.native import PLAIN, Template
from seedtok.lm.packing import left_pad
from seedtok.lm.prompts import CAPTIONING, TextSettings
from seedtok.lm.reranking import check_can_rerank, rerank
from seedtok.lm.seed_lm import SeedLM
from seedtok.lm.texts import complete

AT_ONCE = 32  # prompts that a model goes on with together


@runtime_checkable
class Reader(Protocol):
    """Continues prompts that follow images; `row` is the name of the model's row in the results."""

    row: str

    @property
    def prompts(self) -> Prompts:
        """How it is asked where the user does not say."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """How pictures are prepared, for the record."""
        ...

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        """What follows each prompt after its picture, without the prompt; a picture may have several prompts."""
        ...


class SeedReader:
    """A SEED language model, which reads pictures as their codes."""

    row = "seed_opt"

    def __init__(self, model: SeedLM) -> None:
        self.model = model

    @property
    def prompts(self) -> Prompts:
        """As the model was asked while it was trained."""
        return Prompts(self.model.template.caption, self.model.template.question)

    @property
    def settings(self) -> dict[str, Any]:
        seed = self.model.seed
        record = {"preprocessing": stretched(seed.config.embedder.vision.square), "codebook": seed.codebook_id}
        record |= self.model.template.entry()
        quantized = getattr(self.model.joint.lm.config, "quantization_config", None)
        return record if quantized is None else {**record, "quantization": quantized.to_diff_dict()}

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        _, rows = self.asked(pictures, prompts)
        return complete(self.model.joint, rows, self.own(decoding), AT_ONCE)

    def own(self, decoding: TextSettings) -> TextSettings:
        """The decoding of a model whose captions may be shorter than others', since it learnt from short ones."""
        least, own = decoding.min_new_tokens, self.model.template.caption_tokens
        if least is None or own >= PLAIN.caption_tokens:
            return decoding
        return replace(decoding, min_new_tokens=min(least, own))

    def asked(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]]
    ) -> tuple[list[Tensor], list[list[int]]]:
        """For each prompt the codes of its picture, and the ids that ask about it."""
        model = self.model
        codes = model.seed.encode_pixels(model.seed.pixels(list(pictures)))
        pairs = [(own, text) for own, texts in zip(codes, prompts, strict=True) for text in texts]
        return [own for own, _ in pairs], [model.sequence(list(pair)) for pair in pairs]


class DescribingReader(SeedReader):
    """A SEED language model that answers of its own caption of a picture, without the picture."""

    @property
    def settings(self) -> dict[str, Any]:
        first = {"prompt": self.prompts.caption, "decoding": CAPTIONING.arguments()}
        return {**super().settings, "describes_first": first}

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        described = super().write(pictures, [[self.prompts.caption]] * len(pictures), CAPTIONING)
        texts = [f"{said.strip()} {text}" for said, own in zip(described, prompts, strict=True) for text in own]
        return complete(self.model.joint, [self.model.sequence([text]) for text in texts], self.own(decoding), AT_ONCE)


class RerankingReader(SeedReader):
    """A SEED language model that chooses among the texts of its beams by how likely it draws the picture of each."""

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "reranked_by": self.model.template.draw}

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        codes, rows = self.asked(pictures, prompts)
        return rerank(self.model.joint, rows, torch.stack(codes), self.model.drawing_ids, self.own(decoding), AT_ONCE)


class PrefixReader:
    """A baseline of ours, which reads the embeddings of a Q-Former or the codes of an image tokenizer."""

    prompts = PAPER

    def __init__(self, model: PrefixLM) -> None:
        self.model, self.row = model, model.images.row

    @property
    def settings(self) -> dict[str, Any]:
        return {"preprocessing": stretched(self.model.images.square)}

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        every, texts = _repeated(self.model.pixels(list(pictures)), prompts)
        said: list[str] = []
        for pixels, some in zip(every.split(AT_ONCE), _split(texts), strict=True):
            said += self.model.complete(pixels, some, decoding)
        return said


class ForeignBlip2Reader:
    """BLIP-2 as transformers has it, `Blip2ForConditionalGeneration`, on a decoder such as OPT."""

    row = "blip2"
    prompts = PAPER

    def __init__(self, model: Any, words: Any, preprocessing: Preprocessing) -> None:
        self.model, self.words, self.preprocessing = model, words, preprocessing
        if not model.config.use_decoder_only_language_model or model.config.image_token_index is None:
            raise CheckpointError(
                "this BLIP-2 has an encoder-decoder, or no token that stands for a picture: evaluate one on OPT, such "
                "as Salesforce/blip2-opt-2.7b"
            )

    @property
    def settings(self) -> dict[str, Any]:
        return {"preprocessing": self.preprocessing.settings}

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        every, texts = _repeated(self.preprocessing(pictures).to(self.model.device, self.model.dtype), prompts)
        said: list[str] = []
        for pixels, some in zip(every.split(AT_ONCE), _split(texts), strict=True):
            ids, mask = left_pad([self._ids(text) for text in some], self.model.device)
            out = self.model.generate(
                pixel_values=pixels, input_ids=ids, attention_mask=mask, pad_token_id=pad_id(self.words),
                **decoding.arguments(),
            )  # fmt: skip
            said += self.words.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in said]

    def _ids(self, text: str) -> list[int]:
        config = self.model.config
        return [config.image_token_index] * config.num_query_tokens + self.words(encodable(text)).input_ids


def prompts_of(models: Mapping[str, Reader], given: Prompts | None) -> dict[str, Prompts]:
    """How each model is asked, by its row: by the prompts that are given for all of them, or else by its own."""
    return {row: given or model.prompts for row, model in models.items()}


def with_second(readers: Mapping[str, Reader], suffix: str, second: type[SeedReader]) -> dict[str, Reader]:
    """Readers by their rows, and after each SEED language model the same as a reader of another kind, ROW_SUFFIX."""
    rows: dict[str, Reader] = {}
    for row, reader in readers.items():
        rows[row] = reader
        if isinstance(reader, SeedReader):
            rows[f"{row}_{suffix}"] = second(reader.model)
    return rows


def reranking(readers: Mapping[str, Reader], decoding: TextSettings) -> dict[str, Reader]:
    """Readers by their rows, and after each SEED language model, ROW_reranked, the same as a `RerankingReader`.

    Raises ConfigError where there is no SEED language model, InputError as `check_can_rerank` does.
    """
    rows = with_second(readers, "reranked", RerankingReader)
    if len(rows) == len(readers):
        raise ConfigError("none of these models draws: only captions of SEED language models can be reranked")
    for reader in rows.values():
        if isinstance(reader, RerankingReader):
            check_can_rerank(reader.model.joint, decoding)
    return rows


def load_reader(
    name: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
    base: str | Path | None = None, tokenizer: str | Path | None = None, quantize: Any = None,
    template: Template | None = None,
) -> Reader:  # fmt: skip
    """A model by its folder or hub id: a SEED language model, a baseline of ours, or a BLIP-2 of transformers.

    A SEED language model is all that `SeedLM.from_pretrained` loads, SEED-LLaMA too; `base`, `tokenizer` (its `seed`),
    `quantize` and `template` are as there, and for these models alone. Raises CheckpointError for other models,
    ConfigError for another one that is to be quantized.
    """

    def check_whole() -> None:
        if quantize is not None:
            raise ConfigError(f"{name} is no SEED language model, and of others none is quantized: leave out quantize")

    def seed_lm() -> Reader:
        model = SeedLM.from_pretrained(
            name, base=base, seed=tokenizer, dtype=dtype, device=device, template=template, quantize=quantize
        )
        return SeedReader(model)

    def baseline() -> Reader:
        check_whole()
        return PrefixReader(PrefixLM.from_pretrained(name).to(device, dtype))

    def blip2() -> Reader:
        check_whole()
        from transformers import Blip2ForConditionalGeneration

        model = load_foreign(Blip2ForConditionalGeneration, name, dtype, device)
        preprocessing = load_preprocessing(name, model.config.vision_config.image_size)
        return ForeignBlip2Reader(model, load_words(name), preprocessing)

    loaders = {MINI: seed_lm, LM: seed_lm, CAUSAL_LM: seed_lm, PREFIX_LM: baseline, "blip-2": blip2}
    return loader_for(name, loaders, "captioning and vqa")()


def _repeated(pixels: Tensor, prompts: Sequence[Sequence[str]]) -> tuple[Tensor, list[str]]:
    """Pixels once for each of their prompts, and these in a row."""
    counts = torch.tensor([len(texts) for texts in prompts], device=pixels.device)
    return pixels.repeat_interleave(counts, 0), [text for texts in prompts for text in texts]


def _split(texts: list[str]) -> list[list[str]]:
    return [texts[start : start + AT_ONCE] for start in range(0, len(texts), AT_ONCE)]
