"""Training of the mini text encoder, in place of the CLIP's that Stable Diffusion is conditioned on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.mini.judge import NOTHING, labels
from seedtok.mini.naming import Naming
from seedtok.mini.text import clip_tokenizer
from seedtok.mini.world.concepts import PLACES
from seedtok.mini.world.source import scenes_of
from seedtok.training.config import StageSettings
from seedtok.training.distributed import sum_over_ranks
from seedtok.training.stage import Losses, Stage

SLOT = 32  # where the naming tokens begin: past the longest caption, in its padding


class TextSettings(StageSettings):
    width: int = 256
    layers: int = 3
    head_width: int = 64

    def build(self) -> "TextStage":
        return TextStage(self)


class TextStage(Stage):
    """Cross-entropy of what stands where in a caption, from ten tokens of its padding.

    One a place and one for the background. A CLIP's contrast alone learns slowly which thing is where, and what it does
    not need it leaves out of the token features, which are all that a diffusion model sees.
    """

    def __init__(self, settings: TextSettings) -> None:
        super().__init__()
        self.tokenizer = clip_tokenizer()
        sizes: dict[str, Any] = {
            "vocab_size": len(self.tokenizer), "hidden_size": settings.width, "intermediate_size": 4 * settings.width,
            "num_hidden_layers": settings.layers, "num_attention_heads": settings.width // settings.head_width,
            "max_position_embeddings": 77, "hidden_act": "gelu", "projection_dim": settings.width,
            "bos_token_id": self.tokenizer.bos_token_id, "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
        }  # fmt: skip
        self.text = CLIPTextModel(CLIPTextConfig(**sizes))
        self.text.set_attn_implementation("eager")  # on short sequences 1.5 times as fast on a CPU as the fused one
        self.naming = Naming(settings.width)
        # at transformers' 0.02 words and positions drown in the first attention's output, and places are never learnt
        for name, weight in self.text.named_parameters():
            if name.endswith(("token_embedding.weight", "position_embedding.weight")):
                nn.init.normal_(weight, std=0.5)

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if scenes_of(batch) is None:
            raise ConfigError("the mini text encoder trains on captions of scenes, not on others")

    def states(self, batch: Batch) -> Tensor:
        """The states of the ten naming tokens: (B, 10, width)."""
        tokens = self.tokenizer(
            batch.captions, padding="max_length", max_length=SLOT + len(PLACES) + 1, truncation=True,
            return_tensors="pt",
        ).to(batch.pixels.device)  # fmt: skip
        # EOS doubles as padding, and attention is causal: no mask is needed
        return self.text(input_ids=tokens.input_ids).last_hidden_state[:, SLOT:]

    def forward(self, batch: Batch) -> Losses:
        slots = self.states(batch)
        return {"loss": self.naming(slots[:, :-1], slots[:, -1], self._labels(batch))}

    def _labels(self, batch: Batch) -> tuple[Tensor, Tensor]:
        things, backgrounds = labels(scenes_of(batch) or [])
        return things.to(batch.pixels.device), backgrounds.to(batch.pixels.device)

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """In percent: things named in their places, and captions of which all is right."""
        counts = torch.zeros(4)
        for batch in batches:
            things, backgrounds = self._labels(batch)
            slots = self.naming.norm(self.states(batch))
            named = self.naming.things(slots[:, :-1]).argmax(-1) == things
            right = named.all(1) & (self.naming.background(slots[:, -1]).argmax(-1) == backgrounds)
            there = things != NOTHING
            counts += torch.tensor([*map(float, (named[there].sum(), there.sum(), right.sum(), len(right)))])
        found, there, right, captions = sum_over_ranks(counts).tolist()
        return {"things_right": 100 * found / max(1, there), "all_right": 100 * right / max(1, captions)}

    def export(self, folder: Path) -> None:
        with checkpoint_folder(folder) as new:
            self.text.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
