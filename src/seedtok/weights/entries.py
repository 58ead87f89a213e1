"""How the tensors of a published checkpoint ("theirs") correspond to those of this package ("ours")."""

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
    """One of our tensors, and the tensors of theirs that are concatenated along the first dimension to make it.

    With the form "patches", ours is a matrix and theirs the kernel of a convolution; with "no key bias", ours has a
    third part of zeros, the bias of the keys, between their two.
    """

    ours: str
    theirs: tuple[str, ...]
    form: Form = "as it is"


def both(ours: str, theirs: str) -> Iterator[Entry]:
    """Entries for the weight and the bias of a layer."""
    for kind in ("weight", "bias"):
        yield Entry(f"{ours}.{kind}", (f"{theirs}.{kind}",))


def fused(ours: str, theirs: str, names: tuple[str, ...]) -> Iterator[Entry]:
    """Entries for the weight and the bias of a layer of ours that fuses several of theirs."""
    for kind in ("weight", "bias"):
        yield Entry(f"{ours}.{kind}", tuple(f"{theirs}.{name}.{kind}" for name in names))


def bert_layer(ours: str, theirs: str, inner: str, cross: bool, kinds: Iterable[tuple[str, str]]) -> Iterator[Entry]:
    """Entries for a layer of a Q-Former.

    `inner` is their name of the module with the projections of queries, keys and values. `kinds` are the feed-forward
    networks, of queries and of text, as pairs of our name and their suffix.
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
    """Entries for one feed-forward network of a Q-Former's layer, and its LayerNorm."""
    yield from both(f"{ours}.{kind}_mlp.up", f"{theirs}.intermediate{suffix}.dense")
    yield from both(f"{ours}.{kind}_mlp.down", f"{theirs}.output{suffix}.dense")
    yield from both(f"{ours}.{kind}_mlp_norm", f"{theirs}.output{suffix}.LayerNorm")


def to_ours(entries: Iterable[Entry], tensors: Mapping[str, Tensor], left_out: Mapping[str, str]) -> dict[str, Tensor]:
    """Our state dict from their tensors; `left_out` maps prefixes of the names of unused tensors to the reasons.

    Raises CheckpointError for a missing tensor, and for one that is neither used nor left out.
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
        raise CheckpointError(f"the checkpoint has an unknown tensor {unknown[0]!r} ({len(unknown)} in all)")
    return state


def to_theirs(entry: Entry, tensor: Tensor, patch_size: int) -> dict[str, Tensor]:
    """Their tensors from one of ours: the inverse of `to_ours` for one entry."""
    if entry.form == "patches":
        parts = [tensor.unflatten(1, (3, patch_size, patch_size))]
    elif entry.form == "no key bias":  # it adds the same to all scores of a query, which the softmax cancels
        parts = [tensor.chunk(3)[0], tensor.chunk(3)[2]]
    else:
        parts = list(tensor.chunk(len(entry.theirs)))
    return dict(zip(entry.theirs, parts, strict=True))


def _join(entry: Entry, parts: list[Tensor]) -> Tensor:
    """Our tensor from their `parts`."""
    if entry.form == "patches":
        return parts[0].flatten(1)
    if entry.form == "no key bias":
        parts = [parts[0], torch.zeros_like(parts[0]), parts[1]]
    return torch.cat(parts) if len(parts) > 1 else parts[0]
