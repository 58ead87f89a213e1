"""The encoding half of a `SeedTokenizer` as a first reading of the paper gives it, with the same weights.

Separate query, key and value products, attention as two matrix products and a softmax, a convolution for the patches,
the distance to every code. It shares no layer with the package, and is the opponent of `encode.py`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok import SeedTokenizer
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.tokenizer.vision import VisionConfig

FUSED = {".qkv.": (".query.", ".key.", ".value."), ".kv.": (".key.", ".value.")}  # ours -> the port's


class PlainAttention(nn.Module):
    """Multi-head attention of (B, N, width) to itself, or to features (B, M, encoder_width)."""

    def __init__(self, width: int, heads: int, encoder_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(encoder_width or width, width)
        self.value = nn.Linear(encoder_width or width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, features: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        features = x if features is None else features
        batch, count, width = x.shape
        q, k, v = (
            part.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query(x), self.key(features), self.value(features))
        )
        scores = q @ k.transpose(-1, -2) / (width // self.heads) ** 0.5
        if mask is not None:
            scores = scores + mask
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, count, width))


class PlainMLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, mlp_width: int, quick: bool = False):
        super().__init__()
        self.quick = quick
        self.up = nn.Linear(width, mlp_width)
        self.down = nn.Linear(mlp_width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(x * torch.sigmoid(1.702 * x) if self.quick else F.gelu(x))


class PlainBlock(nn.Module):
    """Pre-LN block of a ViT."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.attention = PlainAttention(config.width, config.heads)
        self.mlp_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.mlp = PlainMLP(config.width, config.mlp_width, config.activation == "quick_gelu")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class PlainVision(nn.Module):
    """The ViT: pixels (B, 3, H, W) -> (B, 1 + patches, width). A stem, if any, is in PyTorch's usual NCHW."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        stem: list[nn.Module] = []
        for inner, outer in zip((3, *config.stem), config.stem, strict=False):
            stem += [nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outer), nn.GELU()]
        self.stem = nn.Sequential(*stem)
        inner, side = (config.stem[-1], 1) if config.stem else (3, config.patch_size)
        self.patch_embedding = nn.Conv2d(inner, config.width, side, stride=side, bias=config.patch_bias)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.positions = nn.Parameter(torch.empty(1, 1 + config.patches, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.layers))

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embedding(self.stem(pixels)).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1) + self.positions
        x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        return x


class PlainLayer(nn.Module):
    """Post-LN BERT layer of the Q-Former, without text; `cross` where it attends to features of the image."""

    def __init__(self, config: QFormerConfig, cross: bool):
        super().__init__()
        width, epsilon = config.width, config.layer_norm_eps
        self.attention = PlainAttention(width, config.heads)
        self.attention_norm = nn.LayerNorm(width, eps=epsilon)
        self.cross = PlainAttention(width, config.heads, config.encoder_width) if cross else None
        self.cross_norm = nn.LayerNorm(width, eps=epsilon) if cross else None
        self.query_mlp = PlainMLP(width, config.mlp_width)
        self.query_mlp_norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x: Tensor, features: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attention_norm(x + self.attention(x, mask=mask))
        if self.cross is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self.cross(x, features))
        return self.query_mlp_norm(x + self.query_mlp(x))


class PlainQFormer(nn.Module):
    """The Causal Q-Former: features (B, P, encoder_width) -> causal embeddings (B, queries, width)."""

    def __init__(self, config: QFormerConfig):
        super().__init__()
        self.causal = config.causal
        self.query_tokens = nn.Parameter(torch.empty(1, config.queries, config.width))
        self.embedding_norm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            PlainLayer(config, i % config.cross_attention_every == 0) for i in range(config.layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        x = self.embedding_norm(self.query_tokens).expand(len(features), -1, -1)
        count, mask = x.shape[1], None
        if self.causal:
            mask = torch.full((count, count), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        for layer in self.layers:
            x = layer(x, features, mask)
        return x


class PlainPort(nn.Module):
    """Pixels (B, 3, H, W) -> codes (B, queries), by the weights of a `SeedTokenizer`."""

    def __init__(self, config: SeedConfig):
        super().__init__()
        embedder = config.embedder
        width, encoder_width = embedder.qformer.width, embedder.vision.width
        self.config = config
        self.vision = PlainVision(embedder.vision)
        self.ln_vision = nn.LayerNorm(encoder_width, eps=1e-5)
        if embedder.positions:
            self.patch_positions = nn.Parameter(torch.empty(1 + embedder.vision.patches, encoder_width))
        self.qformer = PlainQFormer(embedder.qformer)
        self.encode_head = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, config.codebook.dim))
        self.codebook = nn.Embedding(config.codebook.size, config.codebook.dim)

    @classmethod
    def of(cls, seed: SeedTokenizer) -> "PlainPort":
        """The port of a tokenizer, in eval mode; it uses the tokenizer's own memory for nearly all weights."""
        with torch.device("meta"):
            port = cls(seed.config)
        weights = plain_weights(seed)
        port.load_state_dict({name: weights[name] for name in port.state_dict()}, assign=True)
        return port.eval().requires_grad_(False)

    def causal_embeddings(self, pixels: Tensor) -> Tensor:
        """Normalised pixels (B, 3, H, W) -> causal embeddings (B, queries, width)."""
        features = self.ln_vision(self.vision(pixels))
        if self.config.embedder.positions:
            features = features + self.patch_positions
        return self.qformer(features)

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        z = self.encode_head(self.causal_embeddings(pixels)).flatten(0, 1).float()
        table = self.codebook.weight
        if self.config.codebook.normalize:
            z, table = F.normalize(z, dim=-1), F.normalize(table, dim=-1)
        distance = z.square().sum(1, keepdim=True) + table.square().sum(1) - 2 * z @ table.T
        codes = distance.argmin(1).view(len(pixels), -1)
        return codes if self.config.code_order is None else codes[:, list(self.config.code_order)]


def plain_weights(seed: SeedTokenizer) -> dict[str, Tensor]:
    """The weights of a tokenizer under the port's names: views of its own, but for the stem's."""
    vision, plain = seed.config.embedder.vision, {}
    for full_name, tensor in seed.state_dict().items():
        name = full_name.removeprefix("embedder.")
        fused = next((part for part in FUSED if part in name), None)
        if fused is not None:
            parts = FUSED[fused]
            plain |= {
                name.replace(fused, part): piece for part, piece in zip(parts, tensor.chunk(len(parts)), strict=True)
            }
        elif name == "vision.patch_embedding.weight":
            side = 1 if vision.stem else vision.patch_size
            plain[name] = tensor.view(vision.width, -1, side, side)
        else:
            plain[name] = tensor.contiguous()
    return plain
