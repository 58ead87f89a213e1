"""The frozen causal LM that SEED-OPT stands on: any of transformers, its two ends, and what tells it from others."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from seedtok.errors import CheckpointError
from seedtok.hub import shipped

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLE = 64  # values of the word embeddings that tell one base from another


def load_base(base: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A frozen causal LM and its tokenizer: "mini", a folder or hub id; raises CheckpointError where there is none."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = str(shipped("opt") if str(base) == "mini" else base)
    try:
        lm = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
        return lm.eval().requires_grad_(False), AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(f"cannot load a language model from {base}: {reason}") from None


def words(lm: PreTrainedModel) -> nn.Embedding:
    return cast(nn.Embedding, lm.get_input_embeddings())


def head(lm: PreTrainedModel) -> nn.Linear:
    return cast(nn.Linear, lm.get_output_embeddings())


@functools.cache
def cache_argument(model: type[nn.Module]) -> str:
    """What a model's `forward` calls its KV cache: "cache" since transformers 5.24, "past_key_values" before that."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def sample(lm: PreTrainedModel) -> list[float]:
    """Some values of the word embeddings, evenly spread."""
    flat = words(lm).weight.detach().flatten()
    at = torch.linspace(0, len(flat) - 1, SAMPLE, device=flat.device).long()
    return [round(x, 7) for x in flat[at].float().tolist()]


def alike(one: Any, other: list[float]) -> bool:
    """Whether two samples are equal, to the precision of bfloat16."""
    if not isinstance(one, list) or len(one) != len(other):
        return False
    a, b = torch.tensor(one), torch.tensor(other)
    return bool(torch.allclose(a, b, rtol=0.01, atol=1e-3 * float(b.abs().max())))
