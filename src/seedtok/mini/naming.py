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

    def logits(self, places: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
        """States of the nine places (B, 9, width) and the whole (B, width) -> logits of things and backgrounds."""
        return self.things(self.norm(places)), self.background(self.norm(whole))

    def forward(self, places: Tensor, whole: Tensor, right: tuple[Tensor, Tensor]) -> Tensor:
        """The loss of states, as for `logits`, against `labels`."""
        things, background = (logits.float() for logits in self.logits(places, whole))
        loss = F.cross_entropy(background, right[1])
        return len(PLACES) * F.cross_entropy(things.flatten(0, 1), right[0].flatten()) + loss


def batch_labels(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """The `labels` of the scenes of a batch, on a device."""
    things, backgrounds = labels(scenes_of(batch) or [])
    return things.to(device), backgrounds.to(device)


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
        right = batch_labels(batch, embeddings.device)
        noisy = embeddings + self.settings.noise * torch.randn_like(embeddings)
        size = embeddings.shape[1] // (len(PLACES) + 1)
        groups = noisy[:, : size * (len(PLACES) + 1)].unflatten(1, (-1, size)).mean(2)
        return self.naming(groups[:, :-1], groups[:, -1], right)
