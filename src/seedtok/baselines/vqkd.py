"""BEiT v2's image tokenizer (Peng et al. 2022): codes of patches from which a frozen teacher's features are made again.

Vector-quantised knowledge distillation: a ViT encoder, L2-normalised codes, and a small decoder whose output has the
direction of the teacher's patch features. The pilot of section 2.1 has a language model read its codes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.kinds import VQKD
from seedtok.core.records import from_record
from seedtok.tokenizer.code_decoder import CodeDecoder, CodeDecoderConfig
from seedtok.tokenizer.codebook import Codebook, CodebookConfig, Quantized
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer

VERSION = 1


def paper_codebook() -> CodebookConfig:
    """BEiT v2's: 8192 x 32, L2-normalised, moving averages with decay 0.99, beta 1."""
    return CodebookConfig(beta=1.0, legacy=False, normalize=True, ema_decay=0.99)


@dataclass(frozen=True)
class VqkdConfig:
    """Sizes of a `VqkdTokenizer`; `teacher_width` is that of the features it reconstructs."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    teacher_width: int = 768
    codebook: CodebookConfig = field(default_factory=paper_codebook)
    decoder: CodeDecoderConfig = field(default_factory=CodeDecoderConfig)


class VqkdTokenizer(nn.Module):
    """Images -> one code a patch, and code vectors -> the teacher's features."""

    def __init__(self, config: VqkdConfig):
        super().__init__()
        self.config = config
        width, dim, decoded = config.vision.width, config.codebook.dim, config.decoder.width
        self.encoder = VisionTransformer(config.vision)
        self.encode_head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, dim))
        self.codebook = Codebook(config.codebook)
        self.decode_head = nn.Linear(dim, decoded)
        self.decoder = CodeDecoder(config.decoder)
        self.features_head = nn.Sequential(
            nn.Linear(decoded, decoded), nn.Tanh(), nn.Linear(decoded, config.teacher_width)
        )

    def encoder_outputs(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n c"]:
        """Normalised pixels -> what the codebook quantises, one vector a patch."""
        return self.encode_head(self.encoder(pixels)[:, 1:])

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Quantized, Float[Tensor, "b n d"]]:
        """Normalised pixels -> code vectors, codes and the codebook's loss; and the features they are decoded to."""
        quantized = self.codebook(self.encoder_outputs(pixels).float())
        decoded = self.decoder(self.decode_head(quantized.vectors))
        return quantized, self.features_head(decoded)

    @torch.no_grad()
    def encode_pixels(self, pixels: Float[Tensor, "b 3 h w"]) -> Int[Tensor, "b n"]:
        """Normalised pixels -> codes (B, patches) int64."""
        return self.codebook.encode(self.encoder_outputs(pixels))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors."""
        with checkpoint_folder(Path(folder)) as new:
            write_checkpoint(new, VQKD, VERSION, asdict(self.config), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VqkdTokenizer:
        """Reads what `save_pretrained` wrote, in eval mode; raises CheckpointError for anything else."""
        config = read_config(Path(folder), VQKD, VERSION)
        weights = Path(folder) / WEIGHTS
        return load_model(lambda: cls(from_record(VqkdConfig, config, "a BEiT v2 tokenizer")), config, weights)
