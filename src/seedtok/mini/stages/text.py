"""Training of the mini text encoder, in place of the CLIP's that Stable Diffusion is conditioned on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.mini.judge import NOTHING
from seedtok.mini.naming import Naming, batch_labels
from seedtok.mini.text import clip_tokenizer
from seedtok.mini.world.concepts import PLACES
from seedtok.mini.world.source import scenes_of
from seedtok.training.config import StageSettings
from seedtok.training.distributed import sum_over_ranks
from seedtok.training.stage import Losses, Stage

SLOT = 32  # where the naming tokens begin: past the longest caption, in its padding


def text_sizes(tokenizer: CLIPTokenizer, width: int, layers: int, head_width: int, projection: int) -> dict[str, Any]:
    """The configuration of a text tower in CLIP's format."""
    return {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 4 * width,
        "num_hidden_layers": layers, "num_attention_heads": width // head_width, "max_position_embeddings": 77,
        "hidden_act": "gelu", "projection_dim": projection, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip


def enlarge_embeddings(text: nn.Module) -> None:
    """Draws the embeddings of words and positions of a text tower anew, with deviation 0.5.

    At transformers' 0.02 they drown in the first attention's output, and places are never learnt.
    """
    for name, weight in text.named_parameters():
        if name.endswith(("token_embedding.weight", "position_embedding.weight")):
            nn.init.normal_(weight, std=0.5)


def naming_tokens(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Ids of captions padded by one token a place and one for the background: (B, SLOT + 10)."""
    padded = tokenizer(
        captions, padding="max_length", max_length=SLOT + len(PLACES) + 1, truncation=True, return_tensors="pt"
    )
    return padded.input_ids


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
        sizes = text_sizes(self.tokenizer, settings.width, settings.layers, settings.head_width, settings.width)
        self.text = CLIPTextModel(CLIPTextConfig(**sizes))
        self.text.set_attn_implementation("eager")  # on short sequences 1.5 times as fast on a CPU as the fused one
        self.naming = Naming(settings.width)
        enlarge_embeddings(self.text)

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if scenes_of(batch) is None:
            raise ConfigError("the mini text encoder trains on captions of scenes, not on others")

    def states(self, batch: Batch) -> Tensor:
        """The states of the ten naming tokens: (B, 10, width)."""
        tokens = naming_tokens(self.tokenizer, batch.captions).to(batch.pixels.device)
        # EOS doubles as padding, and attention is causal: no mask is needed
        return self.text(input_ids=tokens).last_hidden_state[:, SLOT:]

    def forward(self, batch: Batch) -> Losses:
        slots = self.states(batch)
        return {"loss": self.naming(slots[:, :-1], slots[:, -1], batch_labels(batch, slots.device))}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """In percent: things named in their places, and captions of which all is right."""
        counts = torch.zeros(4)
        for batch in batches:
            slots = self.states(batch)
            things, backgrounds = batch_labels(batch, slots.device)
            told = self.naming.logits(slots[:, :-1], slots[:, -1])
            named, there = told[0].argmax(-1) == things, things != NOTHING
            right = named.all(1) & (told[1].argmax(-1) == backgrounds)
            counts += torch.tensor([*map(float, (named[there].sum(), there.sum(), right.sum(), len(right)))])
        found, there, right, captions = sum_over_ranks(counts).tolist()
        return {"things_right": 100 * found / max(1, there), "all_right": 100 * right / max(1, captions)}

    def export(self, folder: Path) -> None:
        with checkpoint_folder(folder) as new:
            self.text.save_pretrained(new)
            self.tokenizer.save_pretrained(new)
