"""OPT's decoder on our KV cache, in as few calls as its computation has.

A token of a small language model costs less than the Python code around it: masks that transformers builds at every
forward, wrappers of its layers, peft's of merged LoRA. This is the same decoder (Zhang et al. 2022, arXiv 2205.01068)
without them. It holds the modules of the LM, not copies of their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.products import linear_of_few

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.cache_utils import CacheLayerMixin


class OPTDecoder:
    """Input embeddings -> the last states, as of `OPTModel`, for inference; built by `of`."""

    def __init__(self, decoder: Any):
        self.positions: nn.Embedding = decoder.embed_positions
        self.layers = [_Layer(layer) for layer in decoder.layers]
        self.final_norm: nn.Module | None = decoder.final_layer_norm

    @classmethod
    def of(cls, lm: PreTrainedModel) -> OPTDecoder | None:
        """That of an LM; None for other models, OPT-350m's kind, and layers that are spread over devices.

        It is valid as long as LoRA stays merged, or stays apart from the LM's weights.
        """
        if lm.config.model_type != "opt":
            return None
        decoder: Any = lm.base_model.decoder
        plain = lm.config.do_layer_norm_before and decoder.project_in is None and decoder.project_out is None
        devices = set(getattr(lm, "hf_device_map", {}).values())
        return cls(decoder) if plain and len(devices) < 2 else None

    def __call__(
        self, embeddings: Float[Tensor, "b t width"], mask: Tensor | None, position_ids: Int[Tensor, "b t"],
        cache: Sequence[CacheLayerMixin],
    ) -> Float[Tensor, "b t width"]:  # fmt: skip
        """The last states; `mask` is as for `JointLM.states`, with a 4-D one in floats, added to the scores."""
        x = embeddings + F.embedding(position_ids + 2, self.positions.weight)  # OPT's first two rows are unused
        stored = cache[0].get_seq_length()
        bias = mask if mask is not None and mask.ndim == 4 else causal_bias(mask, stored, x)
        for layer, own in zip(self.layers, cache, strict=True):
            x = layer(x, bias, own)
        return x if self.final_norm is None else self.final_norm(x)


class _Layer:
    """A decoder layer with its LayerNorms before attention and MLP."""

    def __init__(self, layer: Any):
        attention = layer.self_attn
        self.heads: int = attention.num_heads
        self.q, self.k, self.v, self.out, self.up, self.down = (
            _product(linear)
            for linear in (
                attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj, layer.fc1, layer.fc2,
            )
        )  # fmt: skip
        self.attention_norm, self.mlp_norm = layer.self_attn_layer_norm, layer.final_layer_norm
        self.activation = layer.activation_fn

    def __call__(self, x: Tensor, bias: Tensor | None, cache: CacheLayerMixin) -> Tensor:
        shape = (*x.shape[:2], self.heads, -1)
        normed = self.attention_norm(x)
        q, k, v = (part(normed).view(shape).transpose(1, 2) for part in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q.contiguous(), *cache.update(k, v), attn_mask=bias)
        x = x + self.out(attended.transpose(1, 2).reshape(x.shape))
        return x + self.down(self.activation(self.up(self.mlp_norm(x))))


def _product(linear: Any) -> Callable[[Tensor], Tensor]:
    """A linear layer without peft's wrapper, where LoRA is merged into its weights."""
    inner = linear.base_layer if getattr(linear, "merged", False) else linear
    if type(inner) is not nn.Linear:
        return inner
    return partial(linear_of_few, weight=inner.weight, bias=inner.bias)


def causal_bias(mask: Tensor | None, stored: int, x: Float[Tensor, "b t d"]) -> Tensor | None:
    """What is added to the scores of new tokens `x` after `stored` ones; None where they attend to everything.

    Args:
        mask: ones and zeros (B, stored + t), or None without padding.
    """
    new = x.shape[1]
    if mask is None and new == 1:
        return None
    visible = torch.ones(new, stored + new, dtype=torch.bool, device=x.device).tril(stored)[None]
    if mask is not None:
        visible = visible & mask[:, None].bool()
    return added_to_scores(visible, x.dtype)[:, None]


def added_to_scores(visible: Bool[Tensor, "*b t s"], dtype: torch.dtype) -> Float[Tensor, "*b t s"]:
    """A boolean mask as what is added to the scores: zero where a position is visible, the lowest number elsewhere."""
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
