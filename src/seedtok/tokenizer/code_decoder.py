"""The code decoder, "multi-layer Transformer" in section 2.2: codebook vectors -> causal embeddings."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.tokenizer.layers import Block, init_weights


@dataclass(frozen=True)
class CodeDecoderConfig:
    """Sizes of a `CodeDecoder`; the defaults are the paper's."""

    tokens: int = 32
    width: int = 768
    layers: int = 4
    heads: int = 12
    mlp_ratio: float = 4.0
    layer_norm_eps: float = 1e-6


class CodeDecoder(nn.Module):
    """Learned positions and bidirectional ViT blocks; (B, tokens, width) -> the same shape.

    SEED has two of equal size: one reconstructs the causal embeddings, the other precedes the Reverse Q-Former.
    """

    def __init__(self, config: CodeDecoderConfig):
        super().__init__()
        self.config = config
        self.positions = nn.Parameter(torch.zeros(1, config.tokens, config.width))
        mlp_width = int(config.width * config.mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, mlp_width, config.layer_norm_eps) for _ in range(config.layers)
        )
        self.apply(partial(init_weights, width=config.width))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Codebook vectors after the decode head (B, tokens, width) -> embeddings (B, tokens, width)."""
        x = x + self.positions
        for block in self.blocks:
            x = block(x)
        return x
