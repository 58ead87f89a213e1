"""A loss that is a mean over tokens, taken over micro-batches and ranks of which some have more tokens than others."""

from collections.abc import Iterable

from torch import Tensor, nn

from seedtok.core.errors import TrainingError
from seedtok.training.distributed import mean_over_ranks


class TokenMean:
    """Weighs the mean losses of one step so that together they are the mean over all its tokens.

    How many tokens a step has is known after its last micro-batch alone. So each loss is weighed by its tokens beside
    the first micro-batch's (mean over ranks), and the sum of the gradients multiplied by `correction` in the end.
    """

    def __init__(self) -> None:
        self.first = 0.0
        self.total = 0.0
        self.batches = 0

    def weight(self, count: Tensor | None) -> float:
        """What this rank's next mean loss, over `count` tokens, is multiplied by; 1 without a count.

        Called on every rank. Raises TrainingError where no rank has a token.
        """
        if count is None:
            return 1.0
        mean = mean_over_ranks({"count": count})["count"]
        if mean == 0:
            raise TrainingError("a batch has no target tokens: its rows are truncated before them; raise stage.row")
        self.first = self.first or mean
        self.total += mean
        self.batches += 1
        return float(count) / self.first

    @property
    def correction(self) -> float:
        return self.first * self.batches / self.total if self.batches else 1.0

    def correct(self, parameters: Iterable[nn.Parameter]) -> None:
        """Multiplies gradients that were summed with `weight`, in place."""
        if self.correction != 1:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.correction)
