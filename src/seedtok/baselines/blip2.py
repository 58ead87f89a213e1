"""The BLIP-2-style baseline of Table 3: a Q-Former's continuous embeddings, through one FC layer, into a frozen LM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import CheckpointError
from seedtok.core.files import assign_strictly, built_for, load_strictly, read_json, read_tensors
from seedtok.core.hub import locate, named_part, recorded, shipped
from seedtok.core.notices import quietly
from seedtok.lm.base import load_base
from seedtok.lm.head import logit_map
from seedtok.lm.packing import end_of, left_padded, pad_of
from seedtok.lm.prompts import ANSWER_LENGTH, CAPTION, CAPTION_LENGTH, question_prompt
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder, shared_vision

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSION = 1
PROJECTION_FILE = "language_projection.safetensors"  # of a converted BLIP-2: the FC layer to its language model


class Blip2LM(nn.Module):
    """BLIP-2's second stage (Li et al. 2023): the Q-Former and the FC layer learn, ViT and LM stay frozen."""

    def __init__(
        self, embedder: ImageTextEmbedder, lm: PreTrainedModel, text_tokenizer: PreTrainedTokenizerBase, base: str = ""
    ):
        super().__init__()
        self.embedder, self.lm, self.text_tokenizer, self.base = embedder, lm, text_tokenizer, base
        self.read = nn.Linear(embedder.config.qformer.width, self._words.embedding_dim)
        self.logit_map = logit_map(lm)

    @property
    def _words(self) -> nn.Embedding:
        return cast(nn.Embedding, self.lm.get_input_embeddings())

    # ------------------------------------------------------------ tensors

    def prefix(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n width"]:
        """Normalised pixels -> what the LM reads in place of words: 32 embeddings a picture."""
        return self.read(self.embedder.qformer(self.embedder.patch_features(pixels)))

    def loss(
        self, pixels: Float[Tensor, "b 3 h w"], ids: Int[Tensor, "b t"], learnt: Bool[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """Mean cross-entropy of the `learnt` among the ids that follow each picture; right-padded rows."""
        seen = self.prefix(pixels)
        embeddings = torch.cat([seen, self._words(ids).to(seen.dtype)], dim=1)
        states = self.lm.base_model(inputs_embeds=embeddings).last_hidden_state[:, seen.shape[1] - 1 : -1]
        # of all positions, so that shapes do not depend on which are learnt
        logits = self.logit_map.logits(states, cast(nn.Module, self.lm.get_output_embeddings())).float()
        return F.cross_entropy(logits.flatten(0, 1), ids.masked_fill(~learnt, -100).flatten())

    # ------------------------------------------------------------ texts

    @torch.no_grad()
    def write(self, pixels: Float[Tensor, "b 3 h w"], prompts: Sequence[str], **options: Any) -> list[str]:
        """Goes on with a prompt a picture, by transformers' `generate`; `options` are its own."""
        ids, mask = left_padded(self._ids(prompts), pixels.device)
        seen = self.prefix(pixels)
        # padding stands between picture and words; masked, it takes no position
        out = self.lm.generate(  # type: ignore[operator]
            inputs_embeds=torch.cat([seen, self._words(ids).to(seen.dtype)], dim=1),
            attention_mask=torch.cat([mask.new_ones(seen.shape[:2]), mask], dim=1),
            pad_token_id=pad_of(self.text_tokenizer),
            **({"do_sample": False} | options),
        )
        return [text.strip() for text in self.text_tokenizer.batch_decode(out, skip_special_tokens=True)]

    def caption(self, pixels: Float[Tensor, "b 3 h w"], num_beams: int = 5) -> list[str]:
        return self.write(pixels, [CAPTION] * len(pixels), num_beams=num_beams, **CAPTION_LENGTH)

    def answer(self, pixels: Float[Tensor, "b 3 h w"], questions: Sequence[str], num_beams: int = 5) -> list[str]:
        prompts = [question_prompt(question) for question in questions]
        return self.write(pixels, prompts, num_beams=num_beams, **ANSWER_LENGTH)

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return cast(list[list[int]], self.text_tokenizer(list(texts), add_special_tokens=False).input_ids)

    def rows(self, prompts: Sequence[str], said: Sequence[str]) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Prompts and what is to be said after them, as ids and which of them to learn: for `loss`."""
        end = end_of(self.text_tokenizer)
        asked, told = self._ids(prompts), [[*ids, end] for ids in self._ids([f" {text}" for text in said])]
        ids = [torch.tensor(a + t) for a, t in zip(asked, told, strict=True)]
        learnt = [torch.arange(len(a + t)) >= len(a) for a, t in zip(asked, told, strict=True)]
        return pad_sequence(ids, batch_first=True), pad_sequence(learnt, batch_first=True)

    # ------------------------------------------------------------ files

    @classmethod
    @quietly("transformers")
    def build(cls, base: str | Path, qformer: str | Path) -> Blip2LM:
        """A new one over a base LM and a folder of a bidirectional `ImageTextEmbedder`.

        Where `seedtok convert` kept a published FC layer in that folder, it starts from that. Raises CheckpointError
        where it is of another LM.
        """
        embedder = ImageTextEmbedder.from_pretrained(qformer)
        source = locate(base, "opt")
        lm, text_tokenizer = load_base(source, torch.float32)
        model = cls(embedder, lm, text_tokenizer, source)
        scale = float(model._words.weight.square().mean().sqrt())
        nn.init.normal_(model.read.weight, std=scale * embedder.config.qformer.width**-0.5)
        nn.init.zeros_(model.read.bias)
        trained = Path(qformer) / PROJECTION_FILE
        if trained.is_file():
            load_strictly(model.read, read_tensors(trained), f"{trained}, for the language model {base},")
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ViT, Q-Former and FC layer; a base in a folder stays there, and is named relative to `folder`."""
        with checkpoint_folder(Path(folder)) as new:
            record = {
                "format": "seedtok.blip2", "version": VERSION, "base": recorded(self.base, "opt", Path(folder), new),
                "embedder": asdict(self.embedder.config),
            }  # fmt: skip
            (new / "config.json").write_text(json.dumps(record, indent=1))
            tensors = {k: v.contiguous() for k, v in self.state_dict().items() if not k.startswith("lm.")}
            save_file(tensors, new / "model.safetensors")

    @classmethod
    @quietly("transformers")
    def from_pretrained(cls, folder: str | Path | None = None) -> Blip2LM:
        """Reads what `save_pretrained` wrote, the shipped one by default; raises CheckpointError for anything else."""
        folder = shipped("blip2") if folder is None else Path(folder)
        record = read_json(folder / "config.json")
        if record.get("format") != "seedtok.blip2" or record.get("version") != VERSION:
            raise CheckpointError(f"{folder} is not a BLIP-2 baseline of version {VERSION}")
        source = locate(named_part(record, "base", folder), "opt", folder)
        lm, text_tokenizer = load_base(source, torch.float32)
        shared = shared_vision(folder, record, "embedder.vision.")
        with built_for(record.get("embedder"), folder / "model.safetensors"):
            embedder = ImageTextEmbedder(EmbedderConfig.from_dict(record.get("embedder")))
        model = cls(embedder, lm, text_tokenizer, source)
        kept = {f"lm.{name}": tensor for name, tensor in lm.state_dict().items()}
        tensors = read_tensors(folder / "model.safetensors") | shared | kept
        assign_strictly(model, tensors, str(folder), {"": torch.float32})
        return model.eval()
