"""The Causal Q-Former (Figure 2): patch features -> 32 causal embeddings; with the text branch of stage I."""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seedtok.core.errors import ConfigError, InputError
from seedtok.tokenizer.layers import QFormerLayer, init_weights


@dataclass(frozen=True)
class QFormerConfig:
    """Sizes of a `QFormer`; the defaults are the paper's.

    `vocab_size` None omits the text branch. `causal` False gives the bidirectional Q-Former of BLIP-2.
    """

    queries: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    cross_attention_every: int = 2
    encoder_width: int = 1408
    vocab_size: int | None = 30523
    max_text_positions: int = 512
    layer_norm_eps: float = 1e-12
    dropout: float = 0.1
    causal: bool = True


class QFormer(nn.Module):
    """BERT with learned queries that cross-attend to patch features; query i attends to queries 0..i only."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.config = config
        has_text = config.vocab_size is not None
        self.query_tokens = nn.Parameter(torch.zeros(1, config.queries, config.width))
        if config.vocab_size is not None:
            self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
            self.position_embeddings = nn.Embedding(config.max_text_positions, config.width)
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            QFormerLayer(
                config.width,
                config.heads,
                config.mlp_width,
                config.encoder_width if i % config.cross_attention_every == 0 else None,
                has_text,
                config.layer_norm_eps,
                config.dropout,
            )
            for i in range(config.layers)
        )
        self.apply(partial(init_weights, width=config.width))
        nn.init.normal_(self.query_tokens, std=0.02)

    def forward(self, features: Float[Tensor, "b p e"]) -> Float[Tensor, "b q d"]:
        """Patch features (B, P, encoder_width) -> causal embeddings (B, queries, width)."""
        # up to the first cross-attention the queries are equal for all images: one row is enough, without dropout
        x = self._embed_queries(len(features) if self.training and self.config.dropout else 1)
        for layer in self.layers:
            x = layer(x, features, self.config.queries, is_causal=self.config.causal)
        return x

    def encode_text(
        self, input_ids: Int[Tensor, "b t"], attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t d"]:
        """Encodes text alone, bidirectionally: ids and mask (B, T) -> states (B, T, width), [CLS] first.

        Raises:
            ConfigError: this Q-Former has no text branch.
            InputError: the text is longer than `max_text_positions`.
        """
        x = self._embed_text(input_ids)
        mask = attention_mask.bool()[:, None, None, :]  # (B, 1, 1, T)
        for layer in self.layers:
            x = layer(x, None, 0, mask)
        return x

    def forward_joint(
        self,
        features: Float[Tensor, "b p e"],
        input_ids: Int[Tensor, "b t"],
        attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"],
        captioning: bool = False,
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b t d"]]:
        """Encodes queries and text in one sequence.

        All positions attend to all text. Queries attend to earlier queries, and text attends to all queries. With
        `captioning`, as in BLIP-2's captioning loss, text attends to earlier text only and queries do not attend to
        text, so that their embeddings are those of `forward`.

        Returns:
            Embeddings of the queries (B, queries, width) and states of the text (B, T, width).

        Raises:
            ConfigError, InputError: as `encode_text`.
        """
        queries = self.config.queries
        x = torch.cat([self._embed_queries(len(features)), self._embed_text(input_ids)], dim=1)
        mask = self._joint_mask(attention_mask, captioning)
        for layer in self.layers:
            x = layer(x, features, queries, mask)
        return x[:, :queries], x[:, queries:]

    @torch.no_grad()
    def copy_text_ffn_to_query(self) -> None:
        """Copies the feed-forward networks of text to the queries: the initialisation from BERT.

        Raises:
            ConfigError: this Q-Former has no text branch.
        """
        self._require_text()
        for layer in self.layers:
            assert isinstance(layer, QFormerLayer)
            layer.query_mlp.load_state_dict(layer.text_mlp.state_dict())
            layer.query_mlp_norm.load_state_dict(layer.text_mlp_norm.state_dict())

    def _require_text(self) -> None:
        if self.config.vocab_size is None:
            raise ConfigError("this Q-Former has no text branch: set QFormerConfig.vocab_size")

    def _embed_queries(self, batch: int) -> Tensor:
        return self.dropout(self.embedding_norm(self.query_tokens).expand(batch, -1, -1))

    def _embed_text(self, input_ids: Tensor) -> Tensor:
        self._require_text()
        length = input_ids.shape[1]
        if length > self.config.max_text_positions:
            most = self.config.max_text_positions
            raise InputError(f"a text of {length} tokens; expected at most {most}: truncate it")
        x = self.word_embeddings(input_ids) + self.position_embeddings.weight[:length]
        return self.dropout(self.embedding_norm(x))

    def _joint_mask(self, attention_mask: Tensor, captioning: bool = False) -> Tensor:
        """Attention mask of queries and text: (B, T) -> (B, 1, queries + T, queries + T), true where a row attends."""
        queries, (batch, length) = self.config.queries, attention_mask.shape
        to_queries = torch.ones(queries + length, queries, dtype=torch.bool, device=attention_mask.device)
        if self.config.causal:
            to_queries[:queries] = to_queries[:queries].tril()
        to_text = attention_mask.bool()[:, None, :].expand(-1, queries + length, -1)
        if captioning:
            to_text = to_text.tril(-queries)
        return torch.cat([to_queries.expand(batch, -1, -1), to_text], dim=2)[:, None]
