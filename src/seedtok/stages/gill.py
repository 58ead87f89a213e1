"""GILL's image tokens and mapper (Koh et al. 2023), for Table 2: from captions to the features of a text encoder."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch.nn import functional as F

from seedtok.baselines.gill import Gill, GillConfig
from seedtok.core.images import side_by_side, to_pil
from seedtok.data.batches import Batch
from seedtok.stages.pixels import unit_range
from seedtok.stages.text_features import mean_text_feature
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.training.config import StageSettings
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze


class GillSettings(StageSettings):
    base: NameOrFolder  # a causal LM: "mini" (the shipped OPT), a folder, or a hub id
    image_decoder: NameOrFolder  # a StableDiffusionPipeline: "mini", a folder, or a hub id
    tokens: int = 8  # paper
    width: int = 512  # of the mapper; paper, as the next two
    layers: int = 4
    heads: int = 4
    mean_feature_bias: bool = False  # start the mapper's output at the mean text feature; paper's code: no
    sample_steps: int = 10
    guidance_scale: float = 2.5

    def build(self) -> "GillStage":
        return GillStage(self, ImageDecoder.from_pretrained(self.image_decoder))


class GillStage(Stage):
    """Squared error between what the mapper makes of a caption and the text encoder's features of it; no pictures."""

    def __init__(self, settings: GillSettings, decoder: ImageDecoder) -> None:
        super().__init__()
        self.settings, self.decoder = settings, decoder
        self.text_encoder = freeze(decoder.pipeline.text_encoder)
        config = GillConfig(
            tokens=settings.tokens, width=settings.width, layers=settings.layers, heads=settings.heads,
            queries=decoder.pipeline.tokenizer.model_max_length, output_width=self.text_encoder.config.hidden_size,
        )  # fmt: skip
        self.model = Gill.build(settings.base, config)
        freeze(self.model.lm)

    def cast_frozen(self, dtype: torch.dtype) -> None:
        """Casts frozen modules to `dtype`, and with the text encoder the whole pipeline: its parts have to agree."""
        super().cast_frozen(dtype)
        self.decoder.to(dtype=dtype)

    def check_batch(self, batch: Batch) -> None:
        """Captions are all it needs, and every batch has them."""

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        if self.settings.mean_feature_bias:
            self.model.mapper.output.bias.copy_(mean_text_feature(self.decoder, islice(batches, 8)))

    def forward(self, batch: Batch) -> Losses:
        target = self.decoder.text_features(batch.captions).float()
        return {"loss": F.mse_loss(self.model(batch.captions).float(), target)}

    def draw(self, batch: Batch) -> Image.Image:
        pixels = batch.pixels[:16]
        self.decoder.to(pixels.device)  # it is no part of the stage, so nothing else moved it
        pictures = self.decoder.draw(
            self.model.text_features(batch.captions[:16]), self.settings.sample_steps, self.settings.guidance_scale,
            torch.Generator().manual_seed(0),
        )  # fmt: skip
        return side_by_side(to_pil(unit_range(pixels)), pictures)

    def export(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
