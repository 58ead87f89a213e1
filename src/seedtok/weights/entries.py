"""Tensors under two names: what of theirs makes one of ours, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seedtok.core.errors import CheckpointError

Form = Literal["as it is", "patches", "no key bias"]


@dataclass(frozen=True)
class Entry:
    """A tensor of ours, and those of theirs it is made of, one after the other in the first dimension.

    Of "patches", ours is a matrix and theirs a convolution's kernel; with "no key bias", theirs leave out the middle.
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = "as it is"


def both(ours: str, theirs: str) -> Iterator[Entry]:
    """A layer's weight and bias."""
    for kind in ("weight", "bias"):
        yield Entry(f"{ours}.{kind}", (f"{theirs}.{kind}",))


def fused(ours: str, theirs: str, names: tuple[str, ...]) -> Iterator[Entry]:
    """Weight and bias of one layer of ours that is several of theirs."""
    for kind in ("weight", "bias"):
        yield Entry(f"{ours}.{kind}", tuple(f"{theirs}.{name}.{kind}" for name in names))


def bert_layer(ours: str, theirs: str, inner: str, cross: bool, kinds: Iterable[tuple[str, str]]) -> Iterator[Entry]:
    """A layer of a Q-Former; `inner` is what they call the heads of an attention.

    `kinds` are the feed-forwards, of queries and of text: our names and their suffixes.
    """
    yield from fused(f"{ours}.attention.qkv", f"{theirs}.attention.{inner}", ("query", "key", "value"))
    yield from both(f"{ours}.attention.out", f"{theirs}.attention.output.dense")
    yield from both(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm")
    if cross:
        yield from both(f"{ours}.cross.query", f"{theirs}.crossattention.{inner}.query")
        yield from fused(f"{ours}.cross.kv", f"{theirs}.crossattention.{inner}", ("key", "value"))
        yield from both(f"{ours}.cross.out", f"{theirs}.crossattention.output.dense")
        yield from both(f"{ours}.cross_norm", f"{theirs}.crossattention.output.LayerNorm")
    for kind, suffix in kinds:
        yield from feed_forward(ours, theirs, kind, suffix)


def feed_forward(ours: str, theirs: str, kind: str, suffix: str) -> Iterator[Entry]:
    """A feed-forward of a Q-Former's layer and its norm."""
    yield from both(f"{ours}.{kind}_mlp.up", f"{theirs}.intermediate{suffix}.dense")
    yield from both(f"{ours}.{kind}_mlp.down", f"{theirs}.output{suffix}.dense")
    yield from both(f"{ours}.{kind}_mlp_norm", f"{theirs}.output{suffix}.LayerNorm")


def to_ours(entries: Iterable[Entry], tensors: Mapping[str, Tensor], left_out: Mapping[str, str]) -> dict[str, Tensor]:
    """Our state from their tensors; `left_out` has the starts of names that are knowingly not used, and why.

    Raises CheckpointError for a tensor that is missing, or neither used nor left out.
    """
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for entry in entries:
        missing = [name for name in entry.theirs if name not in tensors]
        if missing:
            raise CheckpointError(f"the checkpoint lacks tensor {missing[0]!r}")
        used.update(entry.theirs)
        state[entry.ours] = _join(entry, [tensors[name] for name in entry.theirs])
    unknown = sorted(name for name in tensors.keys() - used if not name.startswith(tuple(left_out)))
    if unknown:
        raise CheckpointError(f"nothing is known of tensor {unknown[0]!r} ({len(unknown)} such in all)")
    return state


def to_theirs(entry: Entry, tensor: Tensor, patch_size: int) -> dict[str, Tensor]:
    """Their tensors from one of ours."""
    if entry.form == "patches":
        parts = [tensor.unflatten(1, (3, patch_size, patch_size))]
    elif entry.form == "no key bias":  # one for all keys adds the same to every score of a query: no softmax sees it
        parts = [tensor.chunk(3)[0], tensor.chunk(3)[2]]
    else:
        parts = list(tensor.chunk(len(entry.theirs)))
    return dict(zip(entry.theirs, parts, strict=True))


def _join(entry: Entry, parts: list[Tensor]) -> Tensor:
    if entry.form == "patches":
        return parts[0].flatten(1)
    if entry.form == "no key bias":
        parts = [parts[0], torch.zeros_like(parts[0]), parts[1]]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
