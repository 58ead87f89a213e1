"""A start for a small language model that is to learn to look things up.

From the usual start, what looks up and what it brings have to be found together, and each is of no use without the
other: a small model says what it has seen, and which goes where only after very many steps. Attention that starts like
that of trained models ("Mimetic Initialization of Self-Attention Layers", Trockman & Kolter 2023) has half of it given.
"""

import math
from typing import Any

import torch
from torch import Tensor
from transformers import OPTForCausalLM

STD = 0.5  # of words and positions: as large as what the layers add to them, or they drown in it
MATCH = 0.04  # of queries and keys that are alike: a word then looks three times as hard at its like as at others
NEAR = 1.7  # gain of those that look back: all but one in a hundred of their attention is where it should be


@torch.no_grad()
def start_by_copying(lm: OPTForCausalLM, looking: int) -> None:
    """Has heads of an OPT, in place, look at like words and say what they see, as far as a start can.

    In the first `looking` layers all heads but the first look back a word, two words, and so on, and what they bring
    is kept apart from the word itself. Positions are sines and cosines in dimensions that words leave free, so that to
    look back is to turn them.
    """
    decoder: Any = lm.model.decoder
    words, places = decoder.embed_tokens.weight, decoder.embed_positions.weight
    width, heads = words.shape[1], lm.config.num_attention_heads
    waves = width // 8
    frequencies = math.pi * 1024 ** -(torch.arange(waves) / waves)
    angles = torch.arange(len(places))[:, None] * frequencies
    words.normal_(std=STD)[:, : 2 * waves] = 0
    places.zero_()[:, : 2 * waves] = torch.cat([angles.sin(), angles.cos()], 1) * STD * 2**0.5
    for i, layer in enumerate(decoder.layers):
        attention = layer.self_attn
        layer.fc2.weight.mul_((2 * len(decoder.layers)) ** -0.5)
        into = _orthogonal(width, width)
        out = into.T.clone()
        query = torch.randn(width, width) * MATCH
        query[:, : 2 * waves] = 0
        key = query.clone()
        size = width // heads
        for head in range(1, heads if i < looking else 1):
            rows = slice(head * size, (head + 1) * size)
            query[rows], key[rows] = _looking_back(head, frequencies[: max(1, waves // 2)], size, width)
            out[:, rows] = _orthogonal(width, width)[:, rows]
        attention.q_proj.weight.copy_(query)
        attention.k_proj.weight.copy_(key)
        attention.v_proj.weight.copy_(into)
        attention.out_proj.weight.copy_(out)
    decoder.final_layer_norm.weight.fill_(1 / (STD * width**0.5))  # so that the first logits are of deviation 1


def _looking_back(by: int, frequencies: Tensor, size: int, width: int) -> tuple[Tensor, Tensor]:
    """Queries and keys (size, width) that meet where a key's position, moved on `by`, is the query's."""
    waves, count = width // 8, len(frequencies)
    sine, cosine = (_orthogonal(size, 2 * count) * NEAR).chunk(2, 1)
    c, s = (frequencies * by).cos(), (frequencies * by).sin()
    query, key = torch.zeros(size, width), torch.zeros(size, width)
    query[:, :count], query[:, waves : waves + count] = sine, cosine
    key[:, :count], key[:, waves : waves + count] = sine * c - cosine * s, sine * s + cosine * c
    return query, key


def _orthogonal(rows: int, columns: int) -> Tensor:
    return torch.nn.init.orthogonal_(torch.empty(rows, columns))
