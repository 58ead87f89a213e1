"""A KV cache that writes where it has room, in place of copying all of it at every token."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

ROOM = 64  # positions taken ahead


def roomy_cache(lm: PreTrainedModel) -> Cache:
    """An empty cache for a causal LM."""
    return Cache(layers=[_RoomyLayer() for _ in range(lm.config.get_text_config().num_hidden_layers)])


class _RoomyLayer(DynamicLayer):
    """Keys and values (B, heads, T, d), each the beginning of a larger tensor."""

    def __init__(self) -> None:
        super().__init__()
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
        self.keys, self.values = (room[..., :after, :] for room in self.spacious)
        return self.keys, self.values

    @staticmethod
    def _moved(old: Tensor | None, new: Tensor, length: int) -> Tensor:
        room = new.new_empty(*new.shape[:-2], length + new.shape[-2] + ROOM, new.shape[-1])
        if length and old is not None:
            room[..., :length, :] = old
        return room

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self.spacious = None

    def reset(self) -> None:
        super().reset()
        self.spacious = None
