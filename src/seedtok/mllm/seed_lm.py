"""SEED-OPT: a frozen causal LM of transformers, LoRA inside it, visual codes beside its words (section 3, Figure 4)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from seedtok.errors import CheckpointError
from seedtok.files import load_strictly, read_json, read_tensors, whole_folder
from seedtok.hub import shipped
from seedtok.mllm import generation
from seedtok.mllm.base import alike, cache_argument, head, load_base, sample, words
from seedtok.mllm.head import logit_map
from seedtok.mllm.sequences import Packed, packed
from seedtok.mllm.vocabulary import Vocabulary, VocabularyConfig
from seedtok.tokenizer.seed import SeedTokenizer

VERSION = 1


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on every linear layer of the LM but its head; the successor's values."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


class SeedLM(nn.Module):
    """Any causal LM of transformers, with a `SeedTokenizer`'s codes in its vocabulary.

    Only LoRA and the visual layers train; the LM's own weights, tied or not, stay as they were.
    """

    def __init__(
        self,
        lm: PreTrainedModel | PeftModel,
        text_tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
        seed: SeedTokenizer,
        base: str = "",
    ):
        super().__init__()
        self.adapter = lm
        self.text_tokenizer = text_tokenizer
        self.vocabulary = vocabulary
        self._seed = [seed]  # in a list, so that it is no part of this module's state
        self.base = base
        self.logit_map = logit_map(self.lm)

    # ------------------------------------------------------------ parts

    @property
    def lm(self) -> PreTrainedModel:
        """The LM itself, with LoRA in its layers where there is any."""
        return cast(
            PreTrainedModel, self.adapter.get_base_model() if isinstance(self.adapter, PeftModel) else self.adapter
        )

    @property
    def seed(self) -> SeedTokenizer:
        return self._seed[0]

    @property
    def device(self) -> torch.device:
        return self.vocabulary.codebook.device

    @property
    def context(self) -> int:
        """The longest sequence the LM takes."""
        return int(getattr(self.lm.config, "max_position_embeddings", 1 << 20))

    def train(self, mode: bool = True) -> SeedLM:
        """Training mode is for LoRA's dropout and the visual layers; the frozen LM stays in eval mode."""
        super().train(mode)
        if mode:
            for name, module in self.adapter.named_modules():
                module.training = "lora_" in name
        return self

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((n, p) for n, p in self.named_parameters() if p.requires_grad)

    # ------------------------------------------------------------ Figure 4, in tensors

    def embed(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t width"]:
        """Ids of texts and pictures -> the LM's input embeddings."""
        return self.vocabulary.embed(ids, words(self.lm))

    def states(
        self,
        embeddings: Float[Tensor, "b t width"],
        mask: Tensor | None = None,
        position_ids: Int[Tensor, "b t"] | None = None,
        cache: Any = None,
    ) -> Float[Tensor, "b t hidden"]:
        """What both heads read. `mask`: (B, T so far) of ones and zeros, or boolean (B, 1, T, T so far)."""
        if mask is not None and mask.dtype == torch.bool:  # some models add it to their scores
            lowest = torch.finfo(embeddings.dtype).min
            mask = torch.zeros_like(mask, dtype=embeddings.dtype).masked_fill(~mask, lowest)
        decoder = self.lm.base_model
        out = decoder(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=position_ids, use_cache=cache is not None,
            **{cache_argument(type(decoder)): cache},
        )  # fmt: skip
        return out.last_hidden_state

    def text_logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b text"]:
        """The LM's own logits, scaled or capped as it does itself."""
        return self.logit_map.logits(states, head(self.lm))

    def logits(self, states: Float[Tensor, "*b hidden"]) -> Float[Tensor, "*b all"]:
        """Over texts and codes together."""
        return self.vocabulary.joint_logits(self.text_logits(states), states)

    def loss(self, rows: Packed, weights: Float[Tensor, " n"] | None = None) -> Float[Tensor, ""]:
        """Mean next-token cross-entropy over what is learnt of packed rows, weighted where `weights` are given.

        A sequence sees itself alone, and counts its positions from 0.
        """
        mask, positions = packed(rows.segments)
        states = self.states(self.embed(rows.ids), mask, positions)
        logits = self.logits(rows.before(states)).float()
        if weights is None:
            return F.cross_entropy(logits, rows.targets)
        return F.cross_entropy(logits, rows.targets, reduction="none") @ weights / weights.sum()

    # ------------------------------------------------------------ what it says and draws

    def caption(self, images: Any, num_beams: int = 5, **options: Any) -> list[str]:
        """Captions of pictures, one or many; see `generation.caption`."""
        return generation.caption(self, images, num_beams, **options)

    def answer(self, images: Any, questions: str | Sequence[str], num_beams: int = 5, **options: Any) -> list[str]:
        """Short answers, one question a picture; see `generation.answer`."""
        questions = [questions] if isinstance(questions, str) else questions
        return generation.answer(self, images, questions, num_beams, **options)

    def draw(self, prompts: str | Sequence[str], **options: Any) -> list[Image.Image]:
        """Pictures of prompts; see `generation.draw`."""
        return generation.draw(self, [prompts] if isinstance(prompts, str) else prompts, **options)

    def generate(
        self, segments: Sequence[Any], generator: torch.Generator | None = None, **options: Any
    ) -> list[str | Image.Image]:
        """Goes on with texts and pictures in any order, in texts and pictures; see `generation.generate`.

        `generator` is the image decoder's.
        """
        made = generation.generate(self, segments, **options)
        return [part if isinstance(part, str) else self.seed.decode(part, generator=generator)[0] for part in made]

    # ------------------------------------------------------------ files

    @classmethod
    def build(
        cls, base: str | Path, seed: SeedTokenizer, lora: LoraSettings | None = None, dtype: torch.dtype = torch.float32
    ) -> SeedLM:
        """A new SEED LM over a base, a folder or hub id of any causal LM: LoRA without effect yet, new visual layers.

        Raises CheckpointError when the base cannot be loaded.
        """
        lm, text_tokenizer = load_base(base, dtype)
        vocabulary = Vocabulary(_vocabulary_config(lm, seed))
        embeddings = words(lm)
        count, device = embeddings.num_embeddings, embeddings.weight.device
        with torch.no_grad():
            some = embeddings(torch.arange(0, count, max(1, count // 1024), device=device))
            vocabulary.initialise(seed.codebook.weight.detach(), some)
        adapted = lora_on(lm, lora or LoraSettings())
        return cls(adapted, text_tokenizer, vocabulary, seed, str(base)).eval()

    def save_pretrained(self, folder: str | Path, merged: bool = False) -> None:
        """Writes the adapter and the visual layers; the base stays where it is, unless `merged` writes it too.

        A merged folder has the LM with LoRA in its weights as a folder of transformers' own, `base`.
        """
        with whole_folder(Path(folder)) as new:
            base = self.base
            if merged:
                lm = self.adapter.merge_and_unload() if isinstance(self.adapter, PeftModel) else self.adapter
                lm.save_pretrained(new / "base")
                self.text_tokenizer.save_pretrained(str(new / "base"))
                base = "base"
            elif isinstance(self.adapter, PeftModel):
                self.adapter.save_pretrained(str(new / "adapter"))
            record = {
                "format": "seedtok.lm", "version": VERSION, "base": base, "base_sample": sample(self.lm),
                "tokenizer": self.seed.name, "vocabulary": asdict(self.vocabulary.config),
            }  # fmt: skip
            (new / "config.json").write_text(json.dumps(record, indent=1))
            save_file(self.vocabulary.saved(), new / "visual.safetensors")

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = "mini",
        *,
        base: str | Path | None = None,
        seed: SeedTokenizer | str | Path | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        trainable: bool = False,
    ) -> SeedLM:
        """Loads "mini" (shipped with the package) or a folder; `base` and `seed` in place of those it names.

        With `trainable`, LoRA and the visual layers are as they were in training.

        Raises CheckpointError for a broken folder, an adapter made for another base, or another codebook.
        """
        folder = shipped("lm") if str(name) == "mini" else Path(name)
        record = read_json(folder / "config.json")
        if record.get("format") != "seedtok.lm" or record.get("version") != VERSION:
            raise CheckpointError(f"{folder} is not a SEED language model of version {VERSION}")
        named = base or record["base"]
        beside = folder / str(named)
        lm, text_tokenizer = load_base(beside if beside.is_dir() else named, dtype)
        if not isinstance(seed, SeedTokenizer):
            seed = SeedTokenizer.from_pretrained(seed or record.get("tokenizer", "mini"), dtype=dtype)
        try:
            vocabulary = Vocabulary(VocabularyConfig(**record["vocabulary"]))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / 'config.json'} has no sizes of a vocabulary: {error}") from None
        if not alike(record.get("base_sample"), sample(lm)):
            raise CheckpointError(f"{folder} was made for another base than {named}: pass the one it was trained on")
        load_strictly(vocabulary, read_tensors(folder / "visual.safetensors"), str(folder))
        if not _same_codebook(vocabulary.codebook, seed.codebook.weight):
            raise CheckpointError(f"{folder} was made for another codebook than this image tokenizer's")
        adapted: PreTrainedModel | PeftModel = lm
        if (folder / "adapter").is_dir():
            try:
                adapted = PeftModel.from_pretrained(lm, str(folder / "adapter"), is_trainable=trainable)
            except (RuntimeError, ValueError, OSError) as error:
                raise CheckpointError(f"{folder / 'adapter'}: {str(error).splitlines()[0]}") from None
        if isinstance(adapted, PeftModel) and not trainable:
            adapted.merge_adapter()  # twice as fast; the adapter itself is kept, and can be saved
        model = cls(adapted, text_tokenizer, vocabulary, seed, str(named))
        if trainable:
            model.vocabulary.train_near()
        model.vocabulary.to(dtype).requires_grad_(trainable)
        return model.eval().to(device)


def lora_on(lm: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """A frozen LM with LoRA that has no effect yet."""
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    return cast(PeftModel, get_peft_model(lm, settings))


def _vocabulary_config(lm: PreTrainedModel, seed: SeedTokenizer) -> VocabularyConfig:
    read, write = words(lm).weight, head(lm).weight
    size, dim = seed.codebook.weight.shape
    span = seed.config.embedder.qformer.queries
    return VocabularyConfig(read.shape[0], read.shape[1], write.shape[1], size, dim, span)


def _same_codebook(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float().to(one.device), rtol=0.01, atol=1e-4)
