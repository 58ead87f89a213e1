"""The image head of SEED's successor: decoded codes -> one CLIP image embedding, for an unCLIP diffusion model."""

from dataclasses import dataclass
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class ImageHeadConfig:
    """Sizes of an `ImageHead`; `widths` are those of the input and of each layer."""

    tokens: int = 32
    widths: tuple[int, ...] = (768, 256, 128, 32)
    output_width: int = 1024

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))  # from JSON it is a list


class ImageHead(nn.Module):
    """Linear layers with ReLU and without biases for each token, then a linear layer over all tokens."""

    def __init__(self, config: ImageHeadConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for wide, narrow in pairwise(config.widths):
            layers += [nn.Linear(wide, narrow, bias=False), nn.ReLU()]
        self.down = nn.Sequential(*layers[:-1])
        self.output = nn.Linear(config.tokens * config.widths[-1], config.output_width)

    def forward(self, codes: Float[Tensor, "b n d"]) -> Float[Tensor, "b o"]:
        """Decoded codes (B, tokens, width) -> image embeddings (B, output_width)."""
        return self.output(self.down(codes).flatten(1))
