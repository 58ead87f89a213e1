"""Stages that learn from packed rows of token ids."""

from abc import abstractmethod

from seedtok.data.batches import Batch
from seedtok.lm.packing import Packed
from seedtok.training.stage import Losses, Stage


class PackedStage(Stage):
    """A stage in two steps: what depends on values, the packing of texts, is apart from what is computed."""

    @abstractmethod
    def packed(self, batch: Batch) -> Packed:
        """The rows that a batch is learned as."""

    @abstractmethod
    def losses(self, rows: Packed) -> Losses: ...

    def forward(self, batch: Batch) -> Losses:
        return self.losses(self.packed(batch))
