"""Training of the scene judge on rendered scenes."""

from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.mini.judge import JudgeConfig, SceneJudge, Verdict
from seedtok.mini.naming import batch_labels
from seedtok.mini.world.source import scenes_of
from seedtok.stages.pixels import unit_range
from seedtok.training.config import StageSettings
from seedtok.training.distributed import sum_over_ranks
from seedtok.training.stage import Losses, Stage


class JudgeSettings(StageSettings):
    noise: float = 0.3  # largest deviation of the noise added to pictures in -1..1
    blur: float = 0.3  # share of pictures shown at half resolution
    stem: tuple[int, ...] = (32, 64, 128, 192)  # of its image encoder; (): patches of 16 pixels
    start: Path | None = None  # a SceneJudge to go on from

    def build(self) -> "JudgeStage":
        return JudgeStage(self)


class JudgeStage(Stage):
    """Cross-entropy by place and of the background, on pictures with noise and blur that drawings also have."""

    def __init__(self, settings: JudgeSettings) -> None:
        super().__init__()
        self.settings = settings
        if settings.start is not None:
            self.judge = SceneJudge.from_pretrained(settings.start)
        else:
            plain = JudgeConfig()
            self.judge = SceneJudge(replace(plain, vision=replace(plain.vision, stem=settings.stem)))
            nn.init.normal_(self.judge.vision.positions, std=0.3)

    def spoil(self, images: Tensor) -> Tensor:
        soft = F.interpolate(F.avg_pool2d(images, 2), scale_factor=2.0, mode="bilinear")
        blurred = torch.rand(len(images), 1, 1, 1, device=images.device) < self.settings.blur
        level = self.settings.noise * torch.rand(len(images), 1, 1, 1, device=images.device) ** 2
        return torch.where(blurred, soft, images) + level * torch.randn_like(images)

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if scenes_of(batch) is None:
            raise ConfigError("the scene judge trains on rendered scenes, not on shards")

    def forward(self, batch: Batch) -> Losses:
        images = unit_range(batch.pixels)
        things, backgrounds = self.judge(self.spoil(images) if self.training else images)
        right_things, right_backgrounds = batch_labels(batch, images.device)
        thing = F.cross_entropy(things.float().flatten(0, 1), right_things.flatten())
        background = F.cross_entropy(backgrounds.float(), right_backgrounds)
        return {"loss": 9 * thing + background, "thing": thing, "background": background}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        total = Verdict(0, 0, 0, 0)
        for batch in batches:
            total += self.judge.verdict(unit_range(batch.pixels), scenes_of(batch) or [])
        total = Verdict(*sum_over_ranks(torch.tensor(astuple(total))).tolist())
        return {"things_right": total.thing_share, "background_right": total.background_share}

    def export(self, folder: Path) -> None:
        self.judge.save_pretrained(folder)
