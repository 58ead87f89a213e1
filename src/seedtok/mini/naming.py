"""Losses that have states name what stands where in a scene; their heads train beside a stage and are not kept."""

from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES


class Naming(nn.Module):
    """Cross-entropy of what stands in each place, and of the background."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.things = nn.Linear(width, 1 + len(CONCEPTS))
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, places: Tensor, whole: Tensor, right: tuple[Tensor, Tensor]) -> Tensor:
        """States of the nine places (B, 9, width) and of the whole (B, width), against `labels`."""
        things = self.things(self.norm(places)).float().flatten(0, 1)
        background = F.cross_entropy(self.background(self.norm(whole)).float(), right[1])
        return len(PLACES) * F.cross_entropy(things, right[0].flatten()) + background


class QueryNaming(nn.Module):
    """`Naming` off the embeddings of a Q-Former: an equal share of them, in order, says what stands in each place.

    Which of them, is fixed: where naming queries had to find them by attention, all embeddings were told the same, and
    learnt what there is but not where (docs/log.md).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.naming = Naming(width)

    def forward(self, embeddings: Tensor, right: tuple[Tensor, Tensor]) -> Tensor:
        """Embeddings (B, N, width), against `labels`; what is left of N over ten, at the end, is free."""
        share = embeddings.shape[1] // (len(PLACES) + 1)
        read = embeddings[:, : share * (len(PLACES) + 1)].unflatten(1, (-1, share)).mean(2)
        return self.naming(read[:, :-1], read[:, -1], right)
