"""A language model that reads an image as a prefix of vectors, through one FC layer: the baselines of Table 3.

With the embeddings of a bidirectional Q-Former it is the BLIP-2-style baseline; with the codes of an image tokenizer
that of the pilot (section 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from seedtok.baselines.image_vectors import ImageVectors, QFormerVectors, load_codes
from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, read_config, write_checkpoint
from seedtok.core.files import assign_strictly, built_for, load_strictly, read_tensors
from seedtok.core.hub import locate, named_part, recorded
from seedtok.core.images import Images
from seedtok.core.kinds import PREFIX_LM
from seedtok.core.notices import quietly
from seedtok.lm.adapter import AdaptedLM, LoraSettings, add_lora, has_lora
from seedtok.lm.base import end_id, load_base, output_head, pad_id, start_ids, word_embedding
from seedtok.lm.checkpoint import read_lora, write_lora
from seedtok.lm.logit_map import measure_logit_map
from seedtok.lm.packing import left_pad
from seedtok.lm.prompts import ANSWERING, CAPTION, CAPTIONING, TextSettings, question_prompt
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder, shared_vision
from seedtok.tokenizer.vision import normalized_pixels

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
ADAPTER = "adapter"  # the folder of LoRA in that of a checkpoint
PROJECTION_FILE = "language_projection.safetensors"  # of a converted BLIP-2: the FC layer to its language model


class PrefixLM(AdaptedLM):
    """A frozen LM, with or without LoRA, after the vectors of an image and one FC layer.

    BLIP-2's second stage (Li et al. 2023) has no LoRA, and trains the Q-Former with the FC layer.
    """

    def __init__(
        self, images: ImageVectors, network: PreTrainedModel | PeftModel, text_tokenizer: PreTrainedTokenizerBase,
        base: str = "",
    ):  # fmt: skip
        super().__init__()
        self.images, self.text_tokenizer, self.base = images, text_tokenizer, base
        self.network = network  # the LM, in peft's wrapper where it has LoRA
        self.starts = True  # prompts begin with the LM's start token; not so in models of earlier versions
        self.language_projection = nn.Linear(images.width, word_embedding(self.lm).embedding_dim)
        self.logit_map = measure_logit_map(self.lm)

    def pixels(self, images: Images) -> Float[Tensor, "b 3 h w"]:
        """Images, as for `normalized_pixels` -> normalised pixels, in the size, dtype and device of this model."""
        weight = self.language_projection.weight
        return normalized_pixels(images, self.images.square, weight.dtype, weight.device)

    # ------------------------------------------------------------ tensors

    def prefix(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n width"]:
        """Normalised pixels -> the input embeddings of the LM that stand for an image."""
        return self.language_projection(self.images(pixels).to(self.language_projection.weight.dtype))

    def loss(
        self, pixels: Float[Tensor, "b 3 h w"], ids: Int[Tensor, "b t"], targets: Bool[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy over those of the ids after each image that are targets; rows are padded on the right."""
        prefix = self.prefix(pixels)
        embeddings = torch.cat([prefix, word_embedding(self.lm)(ids).to(prefix.dtype)], dim=1)
        states = self.lm.base_model(inputs_embeds=embeddings).last_hidden_state[:, prefix.shape[1] - 1 : -1]
        # at all positions, so that shapes do not depend on which are targets
        logits = self.logit_map.logits(states, output_head(self.lm)).float()
        return F.cross_entropy(logits.flatten(0, 1), ids.masked_fill(~targets, -100).flatten())

    # ------------------------------------------------------------ texts

    @torch.no_grad()
    def complete(self, pixels: Float[Tensor, "b 3 h w"], prompts: Sequence[str], settings: TextSettings) -> list[str]:
        """The text after each image and its prompt, by transformers' `generate`."""
        ids, mask = left_pad(self._prompts(prompts), pixels.device)
        prefix = self.prefix(pixels)
        # padding is between image and prompt; it is masked and takes no position
        out = self.lm.generate(  # type: ignore[operator]
            inputs_embeds=torch.cat([prefix, word_embedding(self.lm)(ids).to(prefix.dtype)], dim=1),
            attention_mask=torch.cat([mask.new_ones(prefix.shape[:2]), mask], dim=1),
            pad_token_id=pad_id(self.text_tokenizer),
            **settings.arguments(),
        )
        return [text.strip() for text in self.text_tokenizer.batch_decode(out, skip_special_tokens=True)]

    def caption(self, pixels: Float[Tensor, "b 3 h w"], num_beams: int = 5) -> list[str]:
        """Captions of images, by the same prompt and search as SEED-OPT's."""
        return self.complete(pixels, [CAPTION] * len(pixels), replace(CAPTIONING, num_beams=num_beams))

    def answer(self, pixels: Float[Tensor, "b 3 h w"], questions: Sequence[str], num_beams: int = 5) -> list[str]:
        """Short answers to one question an image, by the same prompt and search as SEED-OPT's."""
        prompts = [question_prompt(question) for question in questions]
        return self.complete(pixels, prompts, replace(ANSWERING, num_beams=num_beams))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return cast(list[list[int]], self.text_tokenizer(list(texts), add_special_tokens=False).input_ids)

    def _prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """The token ids of prompts, which follow an image: as in BLIP-2, the LM's start token comes first."""
        first = start_ids(self.text_tokenizer) if self.starts else []
        return [first + ids for ids in self._ids(prompts)]

    def rows(self, prompts: Sequence[str], texts: Sequence[str]) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Prompts and the texts to learn after them -> ids and which of them are targets, for `loss`."""
        end = end_id(self.text_tokenizer)
        before, after = self._prompts(prompts), [[*ids, end] for ids in self._ids([f" {text}" for text in texts])]
        ids = [torch.tensor(b + a) for b, a in zip(before, after, strict=True)]
        targets = [torch.arange(len(b + a)) >= len(b) for b, a in zip(before, after, strict=True)]
        return pad_sequence(ids, batch_first=True), pad_sequence(targets, batch_first=True)

    # ------------------------------------------------------------ files

    @classmethod
    @quietly("transformers")
    def build(cls, base: str | Path, images: ImageVectors, lora: LoraSettings | None = None) -> PrefixLM:
        """A new one over a base LM, with LoRA in it where `lora` is given.

        The FC layer is random, and its outputs are as large as the LM's word embeddings, whatever vectors it is given.
        """
        source = locate(base, "opt")
        lm, text_tokenizer = load_base(source, torch.float32)
        model = cls(images, lm if lora is None else add_lora(lm, lora), text_tokenizer, source)
        scale = float(word_embedding(lm).weight.square().mean().sqrt())
        nn.init.normal_(model.language_projection.weight, std=scale / images.norm())
        nn.init.zeros_(model.language_projection.bias)
        return model.eval()

    @classmethod
    def on_qformer(cls, base: str | Path, qformer: str | Path, lora: LoraSettings | None = None) -> PrefixLM:
        """As `build`, on the embeddings of an `ImageTextEmbedder` in a folder.

        Where `seedtok convert` has put a published FC layer into that folder, it starts from that. Raises
        CheckpointError where that is for another LM.
        """
        model = cls.build(base, QFormerVectors(ImageTextEmbedder.from_pretrained(qformer)), lora)
        published = Path(qformer) / PROJECTION_FILE
        if published.is_file():
            where = f"{published}, for the language model {base},"
            load_strictly(model.language_projection, read_tensors(published), where)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes FC layer, LoRA and Q-Former; base and image tokenizer stay where they are, named relative to it."""
        with checkpoint_folder(Path(folder)) as new:
            base = recorded(self.base, "opt", Path(folder), new)
            config = {"base": base, "start_id": self.starts, **self.images.record(Path(folder), new)}
            layer = self.images.folded(self.language_projection)
            projection = {f"language_projection.{name}": tensor for name, tensor in layer.items()}
            if has_lora(self.network):
                write_lora(cast("PeftModel", self.network), new / ADAPTER)
            write_checkpoint(new, PREFIX_LM, VERSION, config, self.images.stored() | projection)

    @classmethod
    @quietly("transformers")
    def from_pretrained(cls, folder: str | Path) -> PrefixLM:
        """Reads what `save_pretrained` wrote; raises CheckpointError for anything else."""
        folder = Path(folder)
        config = read_config(folder, PREFIX_LM, VERSION)
        source = locate(named_part(config, "base", folder), "opt", folder)
        lm, text_tokenizer = load_base(source, torch.float32)
        network: Any = lm
        if (folder / ADAPTER).is_dir():
            network = read_lora(lm, folder / ADAPTER, trainable=False)
            network.merge_adapter()
        stored, others = nn.ModuleDict(), {}
        images: ImageVectors
        if "tokenizer" in config:
            images = load_codes(named_part(config, "tokenizer", folder), folder)
        else:
            others = shared_vision(folder, config, "embedder.vision.")
            with built_for(config.get("embedder"), folder / WEIGHTS):
                stored["embedder"] = embedder = ImageTextEmbedder(EmbedderConfig.from_dict(config.get("embedder")))
            images = QFormerVectors(embedder)
        model = cls(images, network, text_tokenizer, source)
        model.starts = config.get("start_id") is True
        stored["language_projection"] = model.language_projection
        tensors = {_renamed(name): tensor for name, tensor in read_tensors(folder / WEIGHTS).items()}
        assign_strictly(stored, tensors | others, str(folder), {"": torch.float32})
        return model.eval()


def _renamed(name: str) -> str:
    """The name of a stored tensor in `PrefixLM`: the FC layer was once called "read"."""
    layer, dot, rest = name.partition(".")
    return f"language_projection{dot}{rest}" if layer == "read" else name
