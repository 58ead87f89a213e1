"""Layers of the transformers in the tokenizer: attention, the pre-LN ViT block and the post-LN Q-Former layer."""

from collections.abc import Sequence
from functools import cache, partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from seedtok.core.errors import ConfigError
from seedtok.core.products import GAIN, times_as_fast

Activation = Literal["gelu", "quick_gelu"]
SHORT = 128 * 128  # queries x keys up to which `_two_products` is used on a CPU where nothing is measured
MEASURED_IMAGES, MEASURED_STEP = 4, 32  # batch of a measurement, and what its lengths are multiples of


def attention(
    q: Float[Tensor, "b n d"],
    k: Float[Tensor, "b m d"],
    v: Float[Tensor, "b m d"],
    heads: int,
    mask: Bool[Tensor, "#b 1 #n m"] | None = None,
    is_causal: bool = False,
    dropout: float = 0.0,
) -> Float[Tensor, "b n d"]:
    """Multi-head scaled dot-product attention of projected queries, keys and values.

    `mask` is true where a query attends to a key, and excludes `is_causal`. `dropout` is applied regardless of the mode
    of the calling module.
    """
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N, d)
    if _prefers_two_products(q, k, v, mask, is_causal, dropout):
        out = _two_products(q, k, v, mask, is_causal, dropout)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)
    return out.transpose(1, 2).flatten(2)


def _two_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout: float
) -> Float[Tensor, "b h n d"]:
    """Two batched matrix products and a softmax: on some CPUs and for some sizes, faster than the fused kernel."""
    with torch.autocast("cpu", enabled=False):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        if is_causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return F.dropout(scores.softmax(-1), dropout) @ v


def _prefers_two_products(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool, dropout: float
) -> bool:
    """Whether `_two_products` is used rather than the fused kernel.

    On a CPU, for 16-bit inference, whichever was measured to be faster. In float32 the two differ in the last bits, and
    a measurement can turn out otherwise in the next process, so there, as in training, the lengths alone decide: the
    same image always has the same codes, and a run can be repeated.
    """
    if q.device.type != "cpu":
        return False
    is_short = q.shape[2] * k.shape[2] <= SHORT
    trains = dropout > 0 or q.requires_grad or k.requires_grad or v.requires_grad
    if q.dtype.itemsize != 2 or trains or torch.compiler.is_compiling():
        return is_short
    lengths = (-(-x.shape[2] // MEASURED_STEP) * MEASURED_STEP for x in (q, k))
    return _are_two_products_faster(q.shape[1], *lengths, q.shape[3], q.dtype, mask is not None, is_causal)


@cache
@torch.no_grad()
def _are_two_products_faster(
    heads: int, queries: int, keys: int, width: int, dtype: torch.dtype, masked: bool, is_causal: bool
) -> bool:
    """Measured once in a process for each size of one image, so that a batch of any size is computed in the same way.

    What the lengths alone would choose is kept unless the other is `GAIN` times as fast, so that noise decides nothing.
    """
    generator = torch.Generator().manual_seed(0)
    shape = MEASURED_IMAGES, heads, max(queries, keys), width
    q, k, v = (torch.randn(shape, generator=generator, device="cpu").to(dtype)[:, :, :n] for n in (queries, keys, keys))
    mask = torch.ones(1, 1, queries, keys, dtype=torch.bool, device="cpu") if masked else None
    with torch.autocast("cpu", enabled=False):
        gain = times_as_fast(
            partial(_two_products, q, k, v, mask, is_causal, 0.0),
            partial(F.scaled_dot_product_attention, q, k, v, attn_mask=mask, is_causal=is_causal),
            rounds=3,
        )
    return gain > (1 / GAIN if queries * keys <= SHORT else GAIN)


def cast_to(layer: nn.Linear, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
    """`x` in the dtype of a layer's weights where these are narrower, see `ImageTextEmbedder.narrow_products`."""
    dtype = layer.weight.dtype
    return x.to(dtype) if dtype.itemsize < x.dtype.itemsize else x


def init_weights(module: nn.Module, width: int = 768) -> None:
    """Initialises the weights of one module from a normal distribution, and biases to zero; for `nn.Module.apply`.

    The standard deviation is BERT's 0.02 at its width of 768, and inversely proportional to the width. With 0.02 at a
    width of 256, the output of a sublayer is a tenth of the residual it is added to, and the queries of a Q-Former
    never learn to depend on the image.
    """
    std = 0.02 * 768 / width
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ConfigError(f"width {width} is not a multiple of {heads} heads; change one of the two")


class SelfAttention(nn.Module):
    """Multi-head self-attention with a fused projection to queries, keys and values; (B, N, width) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        _check_heads(width, heads)
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        mask: Bool[Tensor, "#b 1 #n n"] | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "b n d"]:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(attention(q, k, v, self.heads, mask, is_causal, self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Multi-head attention to encoder features (B, M, encoder_width); (B or 1, N, width) -> (B, N, width)."""

    def __init__(self, width: int, heads: int, encoder_width: int, dropout: float = 0.0):
        super().__init__()
        _check_heads(width, heads)
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.kv = nn.Linear(encoder_width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "#b n d"], features: Float[Tensor, "#b m e"]) -> Float[Tensor, "b n d"]:
        q = self.query(x).expand(len(features), -1, -1)
        k, v = self.kv(cast_to(self.kv, features)).to(q.dtype).chunk(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        return self.out(attention(q, k, v, self.heads, dropout=dropout))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them: the exact one, or CLIP's sigmoid approximation "quick_gelu"."""

    def __init__(self, width: int, mlp_width: int, activation: Activation = "gelu"):
        super().__init__()
        if activation not in ("gelu", "quick_gelu"):
            raise ConfigError(f"activation is {activation!r}; expected 'gelu' or 'quick_gelu'")
        self.activation = activation
        self.up = nn.Linear(width, mlp_width)
        self.down = nn.Linear(mlp_width, width)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = self.up(x)
        return self.down(F.gelu(x) if self.activation == "gelu" else x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """Pre-LN ViT block without dropout: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        layer_norm_eps: float = 1e-6,
        activation: Activation = "gelu",
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.attention = SelfAttention(width, heads)
        self.mlp_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.mlp = FeedForward(width, mlp_width, activation)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attention(cast_to(self.attention.qkv, self.attention_norm(x)))
        return x + self.mlp(cast_to(self.mlp.up, self.mlp_norm(x)))


class ConvolutionalStem(nn.Sequential):
    """Convolutions of 3 x 3 and stride 2, each followed by BatchNorm and GELU (Xiao et al. 2021, arXiv 2106.14881).

    It stands before a ViT's patch embedding, and lets it learn from far fewer pictures. Ours: the paper's ViT has none.
    """

    def __init__(self, widths: Sequence[int]):
        layers: list[nn.Module] = []
        for inner, outer in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(inner, outer, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outer), nn.GELU()]
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n c"]:
        """Normalised pixels -> features of the patches, row by row, each 2**len(widths) pixels wide."""
        return super().forward(pixels.contiguous(memory_format=torch.channels_last)).flatten(2).transpose(1, 2)


class QFormerLayer(nn.Module):
    """Post-LN BERT layer of a Q-Former (section 2.2, after BLIP-2).

    Queries and text share the self-attention. Only queries cross-attend to the encoder's features, and each has its own
    feed-forward network. `encoder_width` None omits the cross-attention, `text` False the feed-forward of text.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        encoder_width: int | None,
        text: bool,
        layer_norm_eps: float = 1e-12,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.attention = SelfAttention(width, heads, dropout)
        self.attention_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.cross: CrossAttention | None = None
        if encoder_width is not None:
            self.cross = CrossAttention(width, heads, encoder_width, dropout)
            self.cross_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.query_mlp = FeedForward(width, mlp_width)
        self.query_mlp_norm = nn.LayerNorm(width, eps=layer_norm_eps)
        if text:
            self.text_mlp = FeedForward(width, mlp_width)
            self.text_mlp_norm = nn.LayerNorm(width, eps=layer_norm_eps)

    def forward(
        self,
        x: Float[Tensor, "#b n d"],
        features: Float[Tensor, "#b p e"] | None,
        queries: int,
        mask: Bool[Tensor, "#b 1 #n n"] | None = None,
        is_causal: bool = False,
    ) -> Float[Tensor, "b n d"]:
        """Output of the layer; the first `queries` positions of `x` are queries, the rest is text.

        `features` may be None where there are no queries, or no cross-attention.
        """
        x = self.attention_norm(x + self.dropout(self.attention(x, mask, is_causal)))
        if queries == 0:
            return self._text(x)
        if queries == x.shape[1]:
            return self._queries(x, features)
        return torch.cat([self._queries(x[:, :queries], features), self._text(x[:, queries:])], dim=1)

    def _queries(self, x: Tensor, features: Tensor | None) -> Tensor:
        if self.cross is not None:
            assert features is not None, "queries cross-attend to features"
            x = self.cross_norm(x + self.dropout(self.cross(x, features)))
        return self.query_mlp_norm(x + self.dropout(self.query_mlp(x)))

    def _text(self, x: Tensor) -> Tensor:
        return self.text_mlp_norm(x + self.dropout(self.text_mlp(x)))
