"""Training of the evaluation's CLIP of scenes: contrast of pictures and captions, and naming of what stands where."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from seedtok.core.errors import ConfigError
from seedtok.core.recalls import retrieval_recalls
from seedtok.data.batches import Batch
from seedtok.mini.naming import Naming, batch_labels
from seedtok.mini.scene_clip import SceneClip, SceneClipConfig
from seedtok.mini.world.scenes import GRID
from seedtok.mini.world.source import scenes_of
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.vision import VisionConfig
from seedtok.training.config import StageSettings
from seedtok.training.distributed import first_row, gather_with_gradient
from seedtok.training.losses import contrastive_loss
from seedtok.training.stage import Losses, Stage, full_precision, mean_losses

SHARPEST = math.log(100)  # the largest logarithm of the inverse temperature, CLIP's


class EvalClipSettings(StageSettings):
    image_size: int = 128
    stem: tuple[int, ...] = (32, 64, 96, 128)  # widths, of an eighth of a picture a patch in the end; (): no stem
    vision_width: int = 128
    vision_layers: int = 3
    text_width: int = 128
    text_layers: int = 2
    head_width: int = 64
    projection: int = 128
    naming_weight: float = 1.0  # of the losses that name what stands where; 0: contrast alone

    def build(self) -> "EvalClipStage":
        return EvalClipStage(self)


class EvalClipStage(Stage):
    """Symmetric contrastive loss between pictures and captions, over all ranks with gradient, and `Naming` of both."""

    def __init__(self, settings: EvalClipSettings) -> None:
        super().__init__()
        self.settings = settings
        vision = VisionConfig(
            image_size=settings.image_size, patch_size=settings.image_size // GRID, width=settings.vision_width,
            layers=settings.vision_layers, heads=settings.vision_width // settings.head_width,
            mlp_width=4 * settings.vision_width, layer_norm_eps=1e-5, pre_norm=True, stem=settings.stem,
        )  # fmt: skip
        self.clip = SceneClip(
            SceneClipConfig(
                vision, settings.text_width, settings.text_layers, settings.text_width // settings.head_width,
                projection=settings.projection,
            )
        )  # fmt: skip
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # the logarithm of the inverse temperature
        if settings.naming_weight:
            self.vision_naming = Naming(settings.vision_width)
            self.text_naming = Naming(settings.text_width)

    def check_batch(self, batch: Batch) -> None:
        super().check_batch(batch)
        if self.settings.naming_weight and scenes_of(batch) is None:
            raise ConfigError("what stands where is named in scenes, not in other images: set stage.naming_weight=0")

    def embed(self, batch: Batch) -> tuple[Tensor, Tensor, Losses]:
        """Image and text embeddings of unit length, each (B, projection), and the naming losses."""
        seen, told = self.clip.image_states(clip_normalize(batch.pixels)), self.clip.text_states(batch.captions)
        named: Losses = {}
        if self.settings.naming_weight:
            right = batch_labels(batch, batch.pixels.device)
            named["vision_naming"] = self.vision_naming(seen[:, :-1], seen[:, -1], right)
            named["text_naming"] = self.text_naming(told[:, :-1], told[:, -1], right)
        return self.clip.embed_images(seen), self.clip.embed_texts(told), named

    def forward(self, batch: Batch) -> Losses:
        image, text, named = self.embed(batch)
        with torch.no_grad():  # held there, and not cut off: the gradient of what is cut off is zero
            self.sharpness.clamp_(max=SHARPEST)
        all_image, all_text = gather_with_gradient(image), gather_with_gradient(text)
        with full_precision(image):
            contrast = contrastive_loss(
                image, text, all_image, all_text, (-self.sharpness).exp(), offset=first_row(image), label_smoothing=0.0
            )
        loss = contrast + sum(named.values(), torch.zeros_like(contrast)) * self.settings.naming_weight
        return {"loss": loss, "contrast": contrast, **named}

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        parts = [self.embed(batch) for batch in batches]
        images, texts = (gather_with_gradient(torch.cat(part)) for part in zip(*(p[:2] for p in parts), strict=True))
        named = mean_losses(p[2] for p in parts)
        with full_precision(images):
            return retrieval_recalls(images @ texts.T) | named

    def export(self, folder: Path) -> None:
        self.clip.save_pretrained(folder)
