"""A KV cache that writes where it has room, in place of copying all of it at every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer


def roomy_cache(lm: PreTrainedModel, room: int) -> Cache:
    """An empty cache for a causal LM, that takes memory for `room` positions ahead whenever it has to grow."""
    return Cache(layers=[_RoomyLayer(room) for _ in range(lm.config.get_text_config().num_hidden_layers)])


class _RoomyLayer(DynamicLayer):
    """Keys and values (B, heads, T, d), each the beginning of a larger tensor."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.spacious: tuple[Tensor, Tensor] | None = None  # what keys and values are the beginnings of

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self.spacious is None or self.spacious[0].shape[-2] < after:
            self.spacious = (self._moved(self.keys, key_states, before), self._moved(self.values, value_states, before))
        for room, new in zip(self.spacious, (key_states, value_states), strict=True):
            room[..., before:after, :] = new
        self._show(after)
        return self.keys, self.values  # type: ignore[return-value]

    def _moved(self, old: Tensor | None, new: Tensor, length: int) -> Tensor:
        room = new.new_empty(*new.shape[:-2], length + new.shape[-2] + self.room, new.shape[-1])
        if length and old is not None:
            room[..., :length, :] = old
        return room

    def _show(self, length: int) -> None:
        assert self.spacious is not None
        self.keys, self.values = (room[..., :length, :] for room in self.spacious)

    def batch_select_indices(self, indices: Tensor) -> None:
        if self.spacious is not None:
            length = self.get_seq_length()
            self.spacious = (self.spacious[0][indices], self.spacious[1][indices])
            self._show(length)

    def reset(self) -> None:
        super().reset()
        self.spacious = None
