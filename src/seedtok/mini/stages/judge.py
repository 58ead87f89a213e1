"""Training of the scene judge, on rendered scenes and on a diffusion model's drawings of them."""

from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.mini.judge import JudgeConfig, SceneJudge, Verdict
from seedtok.mini.naming import batch_labels
from seedtok.mini.stages.redrawing import Redrawing
from seedtok.mini.world.source import scenes_of
from seedtok.stages.pixels import unit_range
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.training.config import StageSettings
from seedtok.training.distributed import sum_over_ranks
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage


class JudgeSettings(StageSettings):
    noise: float = 0.3  # largest deviation of the noise added to pictures in -1..1
    blur: float = 0.3  # share of pictures shown at half resolution
    stem: tuple[int, ...] = (32, 64, 128, 192)  # of its image encoder; (): patches of 16 pixels
    start: Path | None = None  # a SceneJudge to go on from
    image_decoder: NameOrFolder | None = None  # a diffusion model, of latents as the mini one's, that draws some anew
    drawn: float = Field(default=0.25, ge=0, le=1)  # share of pictures that it draws, where there is one

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
        if settings.image_decoder is not None:
            self.redrawing = Redrawing(ImageDecoder.from_pretrained(settings.image_decoder))

    def drawings(self, images: Tensor, captions: list[str]) -> Tensor:
        """Images of which the first share is drawn anew; training samples come in random order."""
        count = round(self.settings.drawn * len(images))
        return torch.cat([self.redrawing(images[:count], captions[:count]), images[count:]]) if count else images

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
        if self.training:
            if self.settings.image_decoder is not None:
                images = self.drawings(images, batch.captions)
            images = self.spoil(images)
        things, backgrounds = self.judge(images)
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
