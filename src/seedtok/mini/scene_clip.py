"""The evaluation's CLIP of scenes: image and text embeddings of which cosines and Fréchet distances are taken."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertTokenizer

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.kinds import SCENE_CLIP
from seedtok.core.records import from_record
from seedtok.mini.judge import places_of
from seedtok.mini.text import bert_tokenizer
from seedtok.mini.world.concepts import PLACES
from seedtok.tokenizer.layers import Block
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer

VERSION = 1
STATES = len(PLACES) + 1  # of a picture or a caption: one a place, and one of the whole


@dataclass(frozen=True)
class SceneClipConfig:
    vision: VisionConfig = field(
        default_factory=lambda: VisionConfig(
            image_size=128, patch_size=16, width=128, layers=3, heads=2, mlp_width=512, layer_norm_eps=1e-5,
            pre_norm=True, stem=(32, 64, 96, 128),
        )
    )  # fmt: skip
    text_width: int = 128
    text_layers: int = 2
    text_heads: int = 2
    max_words: int = 48  # tokens of a caption
    projection: int = 128


class SceneClip(nn.Module):
    """Pictures and captions of scenes in one space.

    Both towers give ten states, one for each place and one of the whole, and an embedding is a linear map of all ten:
    unlike one class token's, it tells which thing is where from the first steps on.
    """

    def __init__(self, config: SceneClipConfig | None = None):
        super().__init__()
        self.config = config or SceneClipConfig()
        self.tokenizer: BertTokenizer = bert_tokenizer(self.config.max_words)
        width = self.config.text_width
        self.vision = VisionTransformer(self.config.vision)
        self.words = nn.Embedding(len(self.tokenizer), width)
        self.positions = nn.Parameter(torch.empty(1, STATES + self.config.max_words, width))  # those of states first
        self.blocks = nn.ModuleList(
            Block(width, self.config.text_heads, 4 * width) for _ in range(self.config.text_layers)
        )
        self.image_projection = _projection(self.config.vision.width, self.config.projection)
        self.text_projection = _projection(width, self.config.projection)
        # as large as what they are added to, or places are never learnt
        nn.init.normal_(self.vision.positions, std=0.3)
        for weights in (self.positions, self.words.weight):
            nn.init.normal_(weights, std=0.5)

    def image_states(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 10 d"]:
        """States of the nine places and of the whole of pictures, normalised as for CLIP."""
        features = self.vision(pixels)
        return torch.cat([places_of(features[:, 1:]), features[:, :1]], dim=1)

    def text_states(self, captions: list[str]) -> Float[Tensor, "b 10 d"]:
        """States of the nine places and of the whole of captions, which are cut off after `max_words` tokens."""
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=self.config.max_words, return_tensors="pt"
        )
        words = self.words(tokens.input_ids.to(self.positions.device))  # padded to one length: no mask is needed
        x = torch.cat([words.new_zeros(len(words), STATES, words.shape[-1]), words], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x[:, :STATES]

    def embed_images(self, states: Float[Tensor, "b 10 d"]) -> Float[Tensor, "b p"]:
        """Image embeddings of unit length, of `image_states`."""
        return F.normalize(self.image_projection(states).float(), dim=-1)

    def embed_texts(self, states: Float[Tensor, "b 10 e"]) -> Float[Tensor, "b p"]:
        """Text embeddings of unit length, of `text_states`."""
        return F.normalize(self.text_projection(states).float(), dim=-1)

    def save_pretrained(self, folder: str | Path) -> None:
        with checkpoint_folder(Path(folder)) as new:
            write_checkpoint(new, SCENE_CLIP, VERSION, asdict(self.config), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SceneClip:
        """Reads what `save_pretrained` wrote; raises CheckpointError for anything else."""
        folder = Path(folder)
        config = read_config(folder, SCENE_CLIP, VERSION)
        build = lambda: cls(from_record(SceneClipConfig, config, "a CLIP of scenes"))  # noqa: E731
        return load_model(build, config, folder / WEIGHTS)


def _projection(width: int, projection: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Flatten(), nn.Linear(STATES * width, projection))
