"""The Reverse Q-Former (Figure 2): decoded codes -> generation embeddings for the diffusion model."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.tokenizer.layers import QFormerLayer, init_weights


@dataclass(frozen=True)
class ReverseQFormerConfig:
    """Sizes of a `ReverseQFormer`; the defaults are the paper's.

    `queries` and `output_width` are the length and the width of the text features that it is trained to predict.
    """

    queries: int = 77
    width: int = 768
    layers: int = 4
    heads: int = 12
    mlp_width: int = 3072
    cross_attention_every: int = 2
    encoder_width: int = 768
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    output_width: int = 768


class ReverseQFormer(nn.Module):
    """Bidirectional BERT with learned queries that cross-attend to decoded codes, and an output projection."""

    def __init__(self, config: ReverseQFormerConfig):
        super().__init__()
        self.config = config
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, config.width))
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(
                config.width,
                config.heads,
                config.mlp_width,
                config.encoder_width if i % config.cross_attention_every == 0 else None,
                False,
                config.layer_norm_eps,
                config.dropout,
            )
            for i in range(config.layers)
        )
        self.output = nn.Linear(config.width, config.output_width)
        self.apply(partial(init_weights, width=config.width))
        nn.init.normal_(self.query_tokens, std=0.02)

    def forward(self, codes: Float[Tensor, "b n e"]) -> Float[Tensor, "b q o"]:
        """Decoded codes (B, N, encoder_width) -> generation embeddings (B, queries, output_width)."""
        x = self.dropout(self.embedding_norm(self.query_tokens).expand(len(codes), -1, -1))
        for layer in self.layers:
            x = layer(x, codes, self.config.queries)
        return self.output(x)
