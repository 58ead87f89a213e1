"""Training of the mini image encoder, which the paper takes off the shelf: a ViT that names what stands where."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.mini.judge import NOTHING, places_of
from seedtok.mini.naming import Naming, batch_labels
from seedtok.mini.world.source import scenes_of
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer
from seedtok.training.config import StageSettings
from seedtok.training.distributed import sum_over_ranks
from seedtok.training.stage import Losses, Stage


class VisionSettings(StageSettings):
    image_size: int = 128
    width: int = 192
    layers: int = 4
    head_width: int = 64
    stem: tuple[int, ...] = (32, 64, 128, 192)

    def build(self) -> "VisionStage":
        return VisionStage(self)


class VisionStage(Stage):
    """Cross-entropy of what stands in each place, and of the background, from the patch features of the ViT."""

    def __init__(self, settings: VisionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.vision = VisionTransformer(
            VisionConfig(
                image_size=settings.image_size, patch_size=1 << len(settings.stem), width=settings.width,
                layers=settings.layers, heads=settings.width // settings.head_width, mlp_width=4 * settings.width,
                layer_norm_eps=1e-5, pre_norm=True, stem=settings.stem,
            )
        )  # fmt: skip
        nn.init.normal_(self.vision.positions, std=0.3)  # as large as the patches, or places are never learnt
        self.naming = Naming(settings.width)

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if scenes_of(batch) is None:
            raise ConfigError("the mini image encoder trains on rendered scenes, not on other images")

    def forward(self, batch: Batch) -> Losses:
        features = self.vision(clip_normalize(batch.pixels))
        right = batch_labels(batch, batch.pixels.device)
        return {"loss": self.naming(places_of(features[:, 1:]), features[:, 0], right)}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """In percent: things and backgrounds named right, and places seen to be empty."""
        counts = torch.zeros(3, 2)
        for batch in batches:
            things, backgrounds = batch_labels(batch, batch.pixels.device)
            features = self.vision(clip_normalize(batch.pixels))
            seen = self.naming.logits(places_of(features[:, 1:]), features[:, 0])
            named, colored = seen[0].argmax(-1) == things, seen[1].argmax(-1) == backgrounds
            there = things != NOTHING
            for row, right in zip(counts, (named[there], named[~there], colored), strict=True):
                row += torch.tensor([float(right.sum()), float(right.numel())])
        right, all_of_them = sum_over_ranks(counts.flatten()).view(3, 2).T
        names = ("things_right", "empty_right", "background_right")
        return dict(zip(names, (100 * right / all_of_them.clamp(min=1)).tolist(), strict=True))

    def export(self, folder: Path) -> None:
        self.vision.save_pretrained(folder)
