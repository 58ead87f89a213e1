"""A KV cache that writes where it has room, in place of copying all of it at every token."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


class RoomyCache(Cache):
    """An empty cache for a causal LM, that takes memory for `room` positions ahead whenever it has to grow."""

    def __init__(self, lm: PreTrainedModel, room: int):
        super().__init__(layers=[_RoomyLayer(room) for _ in range(lm.config.get_text_config().num_hidden_layers)])

    @property
    def room_left(self) -> int:
        """How many positions can be written before it grows."""
        return self._layers[0].capacity - self.get_seq_length()

    def keep_positions(self, positions: Int[Tensor, "b t"]) -> None:
        """Forgets all other positions of every row; these are in this order from now on."""
        for layer in self._layers:
            layer.keep_positions(positions)

    def take(self, row: int, other: RoomyCache, others: int) -> None:
        """Puts a row of another cache in the place of one; what was further on in it is nothing to read any more."""
        for mine, theirs in zip(self._layers, other._layers, strict=True):
            mine.take(row, theirs, others)

    @property
    def _layers(self) -> list[_RoomyLayer]:
        return cast(list[_RoomyLayer], self.layers)


class _RoomyLayer(DynamicLayer):
    """Keys and values (B, heads, T, d), each the beginning of a larger tensor."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.spacious: tuple[Tensor, Tensor] | None = None  # what keys and values are the beginnings of

    @property
    def capacity(self) -> int:
        return 0 if self.spacious is None else self.spacious[0].shape[-2]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.spacious is None:
            self.lazy_initialization(key_states, value_states)
            self.spacious = (key_states[..., :0, :], value_states[..., :0, :])
        before = self.get_seq_length()
        self._show(before + key_states.shape[-2])
        for shown, new in zip((self.keys, self.values), (key_states, value_states), strict=True):
            shown[..., before:, :] = new  # type: ignore[index]
        return self.keys, self.values  # type: ignore[return-value]

    def _show(self, length: int) -> None:
        assert self.spacious is not None
        if length > self.capacity:
            more = length - self.capacity + self.room
            self.spacious = (_with_room(self.spacious[0], more), _with_room(self.spacious[1], more))
        self.keys, self.values = (part[..., :length, :] for part in self.spacious)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.spacious is not None:
            length = self.get_seq_length()
            self.spacious = (self.spacious[0][indices], self.spacious[1][indices])
            self._show(length)

    def keep_positions(self, positions: Int[Tensor, "b t"]) -> None:
        assert self.spacious is not None
        rows = torch.arange(len(positions), device=positions.device)[:, None]
        keys, values = (part.transpose(1, 2)[rows, positions].transpose(1, 2) for part in self.spacious)
        self.spacious = (_with_room(keys, self.room), _with_room(values, self.room))
        self._show(positions.shape[1])

    def take(self, row: int, other: _RoomyLayer, others: int) -> None:
        before, length = self.get_seq_length(), other.get_seq_length()
        self._show(max(length, before))
        for mine, theirs in zip((self.keys, self.values), (other.keys, other.values), strict=True):
            mine[..., before:, :] = 0.0  # type: ignore[index]  # of the other rows; nobody reads it, but NaN would show
            mine[row, :, :length] = theirs[others]  # type: ignore[index]

    def reset(self) -> None:
        super().reset()
        self.spacious = None


def _with_room(values: Tensor, room: int) -> Tensor:
    larger = values.new_empty(*values.shape[:-2], values.shape[-2] + room, values.shape[-1])
    larger[..., : values.shape[-2], :] = values
    return larger
