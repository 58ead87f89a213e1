"""The BLIP-2-style baseline of Table 3: a Q-Former's continuous embeddings, through one FC layer, into a frozen LM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, read_config, write_checkpoint
from seedtok.core.files import assign_strictly, built_for, load_strictly, read_tensors
from seedtok.core.hub import locate, named_part, recorded, shipped
from seedtok.core.kinds import BLIP2
from seedtok.core.notices import quietly
from seedtok.lm.base import end_id, load_base, output_head, pad_id, word_embedding
from seedtok.lm.logit_map import measure_logit_map
from seedtok.lm.packing import left_pad
from seedtok.lm.prompts import ANSWERING, CAPTION, CAPTIONING, TextSettings, question_prompt
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder, shared_vision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
PROJECTION_FILE = "language_projection.safetensors"  # of a converted BLIP-2: the FC layer to its language model


class Blip2LM(nn.Module):
    """BLIP-2's second stage (Li et al. 2023): Q-Former and FC layer are trained, the ViT and the LM are frozen."""

    def __init__(
        self, embedder: ImageTextEmbedder, lm: PreTrainedModel, text_tokenizer: PreTrainedTokenizerBase, base: str = ""
    ):
        super().__init__()
        self.embedder, self.lm, self.text_tokenizer, self.base = embedder, lm, text_tokenizer, base
        self.language_projection = nn.Linear(embedder.config.qformer.width, word_embedding(lm).embedding_dim)
        self.logit_map = measure_logit_map(lm)

    # ------------------------------------------------------------ tensors

    def prefix(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n width"]:
        """Normalised pixels -> the 32 input embeddings of the LM that stand for an image."""
        return self.language_projection(self.embedder.qformer(self.embedder.patch_features(pixels)))

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
        ids, mask = left_pad(self._ids(prompts), pixels.device)
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

    def rows(self, prompts: Sequence[str], texts: Sequence[str]) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Prompts and the texts to learn after them -> ids and which of them are targets, for `loss`."""
        end = end_id(self.text_tokenizer)
        before, after = self._ids(prompts), [[*ids, end] for ids in self._ids([f" {text}" for text in texts])]
        ids = [torch.tensor(b + a) for b, a in zip(before, after, strict=True)]
        targets = [torch.arange(len(b + a)) >= len(b) for b, a in zip(before, after, strict=True)]
        return pad_sequence(ids, batch_first=True), pad_sequence(targets, batch_first=True)

    # ------------------------------------------------------------ files

    @classmethod
    @quietly("transformers")
    def build(cls, base: str | Path, qformer: str | Path) -> Blip2LM:
        """A new one over a base LM and a folder of a bidirectional `ImageTextEmbedder`.

        Where `seedtok convert` has put a published FC layer into that folder, it starts from that. Raises
        CheckpointError where that is for another LM.
        """
        embedder = ImageTextEmbedder.from_pretrained(qformer)
        source = locate(base, "opt")
        lm, text_tokenizer = load_base(source, torch.float32)
        model = cls(embedder, lm, text_tokenizer, source)
        scale = float(word_embedding(lm).weight.square().mean().sqrt())
        nn.init.normal_(model.language_projection.weight, std=scale * embedder.config.qformer.width**-0.5)
        nn.init.zeros_(model.language_projection.bias)
        published = Path(qformer) / PROJECTION_FILE
        if published.is_file():
            where = f"{published}, for the language model {base},"
            load_strictly(model.language_projection, read_tensors(published), where)
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ViT, Q-Former and FC layer; a base in a folder stays there, and is named relative to `folder`."""
        with checkpoint_folder(Path(folder)) as new:
            base = recorded(self.base, "opt", Path(folder), new)
            config = {"base": base, "embedder": asdict(self.embedder.config)}
            tensors = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith("lm.")}
            write_checkpoint(new, BLIP2, VERSION, config, tensors)

    @classmethod
    @quietly("transformers")
    def from_pretrained(cls, folder: str | Path | None = None) -> Blip2LM:
        """Reads what `save_pretrained` wrote, the shipped one by default; raises CheckpointError for anything else."""
        folder = shipped("blip2") if folder is None else Path(folder)
        config = read_config(folder, BLIP2, VERSION)
        source = locate(named_part(config, "base", folder), "opt", folder)
        lm, text_tokenizer = load_base(source, torch.float32)
        vision = shared_vision(folder, config, "embedder.vision.")
        with built_for(config.get("embedder"), folder / WEIGHTS):
            embedder = ImageTextEmbedder(EmbedderConfig.from_dict(config.get("embedder")))
        model = cls(embedder, lm, text_tokenizer, source)
        base = {f"lm.{name}": tensor for name, tensor in lm.state_dict().items()}
        tensors = {_renamed(name): tensor for name, tensor in read_tensors(folder / WEIGHTS).items()}
        assign_strictly(model, tensors | vision | base, str(folder), {"": torch.float32})
        return model.eval()


def _renamed(name: str) -> str:
    """The name of a stored tensor in `Blip2LM`: the FC layer was once called "read"."""
    layer, dot, rest = name.partition(".")
    return f"language_projection{dot}{rest}" if layer == "read" else name
