"""Losses beside a stage's own, from the embeddings that it trains; the paper has none."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from seedtok.data.batches import Batch
from seedtok.training.settings import Settings


class AuxiliarySettings(Settings, ABC):
    """One field of a stage's settings: which loss, and how much it counts."""

    weight: float

    @abstractmethod
    def build(self, width: int) -> "AuxiliaryLoss":
        """The loss for embeddings of `width` numbers."""


class AuxiliaryLoss(nn.Module, ABC):
    """A loss whose parameters train beside the stage's and are not exported."""

    name: str  # under which it is logged

    def check_batch(self, batch: Batch) -> None:
        """Raises ConfigError for a batch without the labels that the loss needs; called before the first step."""

    @abstractmethod
    def forward(self, batch: Batch, embeddings: Tensor) -> Tensor:
        """The loss () of a batch with these embeddings (B, N, width)."""
