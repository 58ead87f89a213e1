"""A KV cache that writes into memory allocated ahead, in place of copying all of it at every token.

transformers gives each decoder layer a cache layer: the attention calls `update` with the keys and values of its new
tokens and attends to what that returns, all keys and values so far. The cache of transformers' `generate` concatenates
them, and so copies the whole cache at every token. Here keys and values are the beginnings of larger tensors,

    storage:  (B, heads, capacity, d)    capacity >= T
    keys:     storage[..., :T, :]

so that a new token is written at position T, and a copy is made only when the capacity is used up.

Everything rests on the public interface of transformers alone: `Cache` holds the layers, and `CacheLayer` has the five
methods that `CacheLayerMixin` declares abstract. The others (truncating, selecting and replacing) are called by this
package only. Which models can be decoded on this cache is found by trying: see `probe.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

from seedtok.lm.opt import OPTDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CacheLayer(CacheLayerMixin):
    """Keys and values of one decoder layer, (B, heads, T, d) each; `room` is how many positions it allocates ahead."""

    is_sliding = False  # a sliding window is a matter of the attention mask: nothing is dropped here

    def __init__(self, room: int):
        super().__init__()
        self.room = room
        self.length = 0
        self.storage: tuple[Tensor, Tensor] | None = None  # keys and values, (B, heads, capacity, d)

    # ------------------------------------------------------------ the interface of transformers

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Called with the first keys and values: takes their sizes over."""
        self.storage = (key_states[..., :0, :], value_states[..., :0, :])
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends keys and values (B, heads, t, d); returns all so far."""
        if self.storage is None:
            self.lazy_initialization(key_states, value_states)
        before = self.length
        self.resize(before + key_states.shape[-2])
        assert self.keys is not None
        assert self.values is not None
        self.keys[..., before:, :] = key_states
        self.values[..., before:, :] = value_states
        return self.keys, self.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next `query_length` tokens attend to."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """How many positions are stored."""
        return self.length

    def get_max_length(self) -> int:
        """-1: there is no upper bound."""
        return -1

    # ------------------------------------------------------------ ours

    @property
    def capacity(self) -> int:
        """How many positions fit into the memory allocated so far."""
        return 0 if self.storage is None else self.storage[0].shape[-2]

    def resize(self, length: int) -> None:
        """Shows the first `length` positions as keys and values; allocates where they exceed the capacity."""
        assert self.storage is not None
        if length > self.capacity:
            more = length - self.capacity + self.room
            self.storage = (_extended(self.storage[0], more), _extended(self.storage[1], more))
        self.keys, self.values = (part[..., :length, :] for part in self.storage)
        self.length = length

    def select_rows(self, rows: Int[Tensor, " b"]) -> None:
        """Replaces the batch by some of its rows."""
        assert self.storage is not None
        self.storage = (self.storage[0][rows], self.storage[1][rows])
        self.resize(self.length)

    def select_positions(self, positions: Int[Tensor, "b t"]) -> None:
        """Replaces the positions of every row by some of them, in this order."""
        assert self.storage is not None
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        keys, values = (part.transpose(1, 2)[rows, positions].transpose(1, 2) for part in self.storage)
        self.storage = (_extended(keys, self.room), _extended(values, self.room))
        self.resize(positions.shape[1])

    def replace_row(self, row: int, other: CacheLayer, other_row: int) -> None:
        """Copies a row of another cache over one of this; positions past its end stay, and have to be masked."""
        before, length = self.length, other.length
        self.resize(max(length, before))
        for own, new in zip((self.keys, self.values), (other.keys, other.values), strict=True):
            assert own is not None
            assert new is not None
            own[..., before:, :] = 0.0  # of the other rows: masked, but a NaN there would spread through 0 * NaN
            own[row, :, :length] = new[other_row]

    def reset(self) -> None:
        """Empties the cache."""
        self.storage = self.keys = self.values = None
        self.length, self.is_initialized = 0, False


class PreallocatedCache(Cache):
    """An empty KV cache for a causal LM; whenever it is full it allocates `room` positions more than it needs."""

    def __init__(self, lm: PreTrainedModel, room: int):
        count = lm.config.get_text_config().num_hidden_layers
        super().__init__(layers=[CacheLayer(room) for _ in range(count)])
        self.decoder = OPTDecoder.of(lm)  # computes what the LM's own does; None where the LM is no such OPT

    @property
    def room_left(self) -> int:
        """How many positions can be written before it has to allocate."""
        return self.own_layers[0].capacity - self.own_layers[0].length

    def truncate(self, length: int) -> None:
        """Drops the positions from `length` on."""
        for layer in self.own_layers:
            layer.resize(length)

    def select_rows(self, rows: Int[Tensor, " b"]) -> None:
        """Replaces the batch by some of its rows, in this order; a row may occur more than once."""
        for layer in self.own_layers:
            layer.select_rows(rows)

    def select_positions(self, positions: Int[Tensor, "b t"]) -> None:
        """Replaces the positions of every row by some of them, in this order."""
        for layer in self.own_layers:
            layer.select_positions(positions)

    def replace_row(self, row: int, other: PreallocatedCache, other_row: int) -> None:
        """Copies a row of another cache over one of this; positions past its end stay, and have to be masked."""
        for own, new in zip(self.own_layers, other.own_layers, strict=True):
            own.replace_row(row, new, other_row)

    @property
    def own_layers(self) -> list[CacheLayer]:
        """The cache layers, one for each of the LM's."""
        return cast(list[CacheLayer], self.layers)


def _extended(values: Tensor, room: int) -> Tensor:
    """A copy with room for more positions after those there are."""
    larger = values.new_empty(*values.shape[:-2], values.shape[-2] + room, values.shape[-1])
    larger[..., : values.shape[-2], :] = values
    return larger
