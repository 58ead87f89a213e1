"""SEED-OPT: a frozen causal LM of transformers, LoRA inside it, visual codes beside its words (section 3, Figure 4)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.device import CompositeModule, device_named
from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_json
from seedtok.core.hub import lm_card, locate, named_part, push, resolve
from seedtok.core.kinds import LM, check_kind
from seedtok.core.notices import quietly
from seedtok.lm import generation
from seedtok.lm.base import cache_argument, fingerprint, head, is_base_of, load_base, words
from seedtok.lm.checkpoint import VERSION, Parts, load_adapter, load_vocabulary, vocabulary_config, write_files
from seedtok.lm.head import logit_map
from seedtok.lm.packing import Packed, packed
from seedtok.lm.vocabulary import Vocabulary
from seedtok.tokenizer.seed import SeedTokenizer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on every linear layer of the LM but its head; the successor's values."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


class SeedLM(CompositeModule):
    """Any causal LM of transformers, with a `SeedTokenizer`'s codes in its vocabulary; both move and cast together.

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
        self.base = base  # its source: "mini", the path of a folder, or a hub id
        self.fingerprint: dict[str, Any] | None = None  # of the base as it was loaded
        self.logit_map = logit_map(self.lm)

    # ------------------------------------------------------------ parts

    @property
    def lm(self) -> PreTrainedModel:
        """The LM itself, with LoRA in its layers where there is any."""
        from peft import PeftModel

        adapter: Any = self.adapter
        return cast("PreTrainedModel", adapter.get_base_model() if isinstance(adapter, PeftModel) else adapter)

    @property
    def seed(self) -> SeedTokenizer:
        """The image tokenizer; it is where the LM is."""
        seed = self._seed[0]
        return seed if seed.device == self.device else seed.to(self.device)

    def unregistered_parts(self) -> list[Any]:
        return self._seed

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
    @quietly("transformers")
    def build(
        cls, base: str | Path, seed: SeedTokenizer, lora: LoraSettings | None = None, dtype: torch.dtype = torch.float32
    ) -> SeedLM:
        """A new SEED LM over any causal LM: LoRA without effect yet, new visual layers.

        `base` is "mini" (the shipped OPT), a folder, or a hub id.

        Raises CheckpointError when the base cannot be loaded.
        """
        source = locate(base, "opt")
        lm, text_tokenizer = load_base(source, dtype)
        vocabulary = Vocabulary(vocabulary_config(lm, seed))
        embeddings = words(lm)
        count, device = embeddings.num_embeddings, embeddings.weight.device
        with torch.no_grad():
            some = embeddings(torch.arange(0, count, max(1, count // 1024), device=device))
            vocabulary.initialise(seed.codebook.weight.detach(), some)
        identity = fingerprint(lm)
        model = cls(lora_on(lm, lora or LoraSettings()), text_tokenizer, vocabulary, seed, source)
        model.fingerprint = identity
        return model.eval()

    def save_pretrained(self, folder: str | Path, merged: bool = False, *, standalone: bool = False) -> None:
        """Writes the adapter and the visual layers.

        Base and image tokenizer stay where they are: those in folders are named relative to `folder`, and `standalone`
        copies them into it. `merged` writes the LM with LoRA in its weights, as a folder of transformers' own, `base`.
        """
        with checkpoint_folder(Path(folder)) as new:
            write_files(self, new, Path(folder), Parts(merged, standalone))

    def push_to_hub(
        self, repo_id: str, private: bool = False, token: str | None = None, *, base: str | None = None,
        tokenizer: str | None = None, license: str | None = None,
    ) -> str:  # fmt: skip
        """Uploads what `save_pretrained` writes to a model hub, with a model card; returns the commit's address.

        A base or an image tokenizer in a folder of this machine is uploaded too, unless `base` or `tokenizer` is the
        hub id of the same. `license` is an identifier of the hub's. A README.md that the repository has is kept.
        Raises CheckpointError where the hub is out of reach or refuses.
        """
        card = lm_card(repo_id, base or self.base, tokenizer or self.seed.source, license)
        with tempfile.TemporaryDirectory() as scratch:
            write_files(self, Path(scratch), Path(scratch), Parts(False, True, base, tokenizer))
            return push(Path(scratch), repo_id, card, private, token)

    @classmethod
    @quietly("transformers")
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
        """Loads "mini" (shipped with the package), a folder or a hub id; `base` and `seed` in place of those it names.

        `device`, as in `device_named`, is the image tokenizer's as well. With `trainable`, LoRA and the visual layers
        can be trained further.

        Raises CheckpointError for a broken folder, an adapter made for another base, or another codebook.
        """
        device, folder = device_named(device), resolve(name, "lm")
        check_kind(folder, LM)
        record = read_json(folder / "config.json")
        if record.get("format") != "seedtok.lm" or record.get("version") != VERSION:
            raise CheckpointError(f"{folder} is not a SEED language model of version {VERSION}")
        named = locate(base, "opt") if base else locate(named_part(record, "base", folder), "opt", folder)
        if not isinstance(seed, SeedTokenizer):
            own = seed or locate(named_part({"tokenizer": "mini"} | record, "tokenizer", folder), "tokenizer", folder)
            seed = SeedTokenizer.from_pretrained(own, dtype=dtype)
        lm, text_tokenizer = load_base(named, dtype)
        if not is_base_of(record, lm):
            raise CheckpointError(f"{folder} was made for another base than {named}: pass the one it was trained on")
        identity = record.get("base_fingerprint") or fingerprint(lm)
        vocabulary = load_vocabulary(folder, record, lm, seed)
        adapted: PreTrainedModel | PeftModel = lm
        if record.get("adapter", record["base"] != "base"):
            adapted = load_adapter(lm, folder / "adapter", trainable)
            if not trainable:
                adapted.merge_adapter()  # twice as fast; the adapter itself is kept, and can be saved
        model = cls(adapted, text_tokenizer, vocabulary, seed, named)
        model.fingerprint = identity
        model.vocabulary.to(dtype).requires_grad_(trainable)
        return model.eval().to(device)  # the image tokenizer too


def lora_on(lm: PreTrainedModel, lora: LoraSettings) -> PeftModel:
    """A frozen LM with LoRA that has no effect yet."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules="all-linear")
    return cast("PeftModel", get_peft_model(lm, settings))
