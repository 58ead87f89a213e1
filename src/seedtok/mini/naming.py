"""Losses that have states name what stands where in a scene; their heads train beside a stage and are not kept."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.mini.judge import labels
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.source import scenes_of
from seedtok.stages.auxiliary import AuxiliaryLoss, AuxiliarySettings


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


class NamingSettings(AuxiliarySettings):
    """Has the embeddings of stage I say plainly what stands in each place."""

    weight: float = 0.3
    noise: float = 0.3  # deviation of noise added to the embeddings first, as large as what a codebook will add

    def build(self, width: int) -> "QueryNaming":
        return QueryNaming(self, width)


class QueryNaming(AuxiliaryLoss):
    """`Naming` off the embeddings of a Q-Former: equally many of them, in order, say what stands in each place.

    Which embeddings name which place is fixed: when naming queries had to find them by attention, all embeddings got
    the same gradient, and learned what there is but not where (docs/log.md).
    """

    name = "naming"

    def __init__(self, settings: NamingSettings, width: int) -> None:
        super().__init__()
        self.settings = settings
        self.naming = Naming(width)

    def check_batch(self, batch: Batch) -> None:
        if scenes_of(batch) is None:
            raise ConfigError(
                "embeddings learn to name things in scenes, not in other images: set stage.auxiliary=none"
            )

    def forward(self, batch: Batch, embeddings: Tensor) -> Tensor:
        """The loss of embeddings (B, N, width); what is left over of N in ten equal groups, at the end, is free."""
        things, backgrounds = labels(scenes_of(batch) or [])
        right = things.to(embeddings.device), backgrounds.to(embeddings.device)
        noisy = embeddings + self.settings.noise * torch.randn_like(embeddings)
        size = embeddings.shape[1] // (len(PLACES) + 1)
        groups = noisy[:, : size * (len(PLACES) + 1)].unflatten(1, (-1, size)).mean(2)
        return self.naming(groups[:, :-1], groups[:, -1], right)
