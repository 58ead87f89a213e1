"""Stages that learn from packed rows of token ids."""

from abc import abstractmethod

from seedtok.data.batches import Batch
from seedtok.lm.packing import Packed
from seedtok.training.stage import Losses, Stage


class PackedStage(Stage):
    """A stage whose forward has two steps: packing the texts of a batch into rows, then the losses of the rows."""

    @abstractmethod
    def packed(self, batch: Batch) -> Packed:
        """The batch as packed rows of token ids."""

    @abstractmethod
    def losses(self, rows: Packed) -> Losses: ...

    def forward(self, batch: Batch) -> Losses:
        return self.losses(self.packed(batch))
