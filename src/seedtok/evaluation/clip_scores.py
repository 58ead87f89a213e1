"""CLIP similarity of drawings to the true images (Table 2), and of other images in their place, as baselines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from seedtok.evaluation.foreign import identity_of, load_foreign, load_preprocessing
from seedtok.evaluation.preprocessing import Preprocessing

if TYPE_CHECKING:
    from transformers import CLIPModel

ROWS = 1024  # of a matrix of cosines that are made at once


@runtime_checkable
class ImageFeatures(Protocol):
    """What pictures are compared by; use a different one from the image encoder of the model under evaluation."""

    @property
    def settings(self) -> dict[str, Any]:
        """For the record."""
        ...

    def features(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Features of pictures, on the CPU: of their cosines and distances scores are made."""
        ...


class ClipImages:
    """Image features of a CLIP model of transformers, in float32."""

    def __init__(self, clip: CLIPModel, preprocessing: Preprocessing, identity: dict[str, str] | None = None) -> None:
        self.clip, self.preprocessing, self.identity = clip.eval(), preprocessing, identity or {}

    @classmethod
    def from_pretrained(cls, name: str | Path, device: torch.device | str = "cpu") -> ClipImages:
        """A CLIP of transformers by its folder or hub id, with its own image processor where it has one.

        Raises CheckpointError where it cannot be loaded.
        """
        from transformers import CLIPModel

        clip = load_foreign(CLIPModel, name, torch.float32, device)
        side = int(clip.config.vision_config.image_size)
        return cls(clip, load_preprocessing(name, side), identity_of(name))

    @property
    def settings(self) -> dict[str, Any]:
        """For the record."""
        return {**self.identity, "preprocessing": self.preprocessing.settings}

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Features of pictures, not normalised, on the CPU."""
        pixels = self.preprocessing(pictures).to(self.clip.device)
        return self.clip.visual_projection(self.clip.vision_model(pixels).pooler_output).cpu()


def cosine_similarity_x100(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"]) -> float:
    """Mean cosine of paired rows, x100 (Table 2)."""
    return 100 * float(F.cosine_similarity(a.double(), b.double(), dim=-1).mean())


def floors(features: Float[Tensor, "n d"], seed: int = 0) -> dict[str, float]:
    """What the set's own pictures score in place of drawings, x100: of each, a random other one and the most alike one.

    Nothing for fewer than two pictures.
    """
    if len(features) < 2:
        return {}
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed))
    others = torch.empty_like(order)
    others[order] = order.roll(1)  # a random cycle through all, so that no picture stands for itself
    unit = F.normalize(features.double(), dim=-1)
    nearest = []
    for start in range(0, len(unit), ROWS):
        cosines = unit[start : start + ROWS] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -torch.inf
        nearest.append(cosines.amax(1))
    return {
        "random_picture": cosine_similarity_x100(features, features[others]),
        "nearest_picture": 100 * float(torch.cat(nearest).mean()),
    }
