"""BEiT v2's vector-quantised knowledge distillation (Peng et al. 2022): the semantic tokens of the pilot (section 2.1).

Its codes are trained to make a frozen image encoder's features again, of each patch by itself; no text is seen.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from seedtok.baselines.vqkd import VqkdConfig, VqkdTokenizer
from seedtok.data.batches import Batch
from seedtok.stages.contrastive import image_encoder
from seedtok.stages.image_codes import encoder_samples, validate_codes
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.vision import VisionConfig
from seedtok.training.config import StageSettings
from seedtok.training.losses import cosine_loss
from seedtok.training.settings import NameOrFolder
from seedtok.training.stage import Losses, Stage, freeze


class VqkdSettings(StageSettings):
    """The patches are the teacher's, so that each code stands for one of its features."""

    teacher: NameOrFolder  # the frozen image encoder: a folder of one, or a CLIP, "mini" or a folder; paper: CLIP-B/16
    width: int = 128
    layers: int = 3
    heads: int = 4
    stem: tuple[int, ...] = (16, 32, 64, 128)  # of convolutions before the encoder; paper: none
    decoder_layers: int = 1
    codebook_size: int = Field(default=8192, ge=1, le=65536)  # paper
    codebook_dim: int = Field(default=32, ge=1)  # paper
    beta: float = 1.0  # paper
    ema_decay: float | None = Field(default=0.99, ge=0, lt=1)  # paper
    restart_after: int | None = Field(default=None, ge=1)  # steps without use that move a code; paper: never
    kmeans_per_code: float = Field(default=1.0, ge=0)  # encoder outputs a code, for k-means to start from

    def for_counting(self) -> "VqkdSettings":
        return self.model_copy(update={"restart_after": None})

    def build(self) -> "VqkdStage":
        return VqkdStage(self)


class VqkdStage(Stage):
    """One minus the cosine of decoded and true features of each patch, and the codebook's commitment loss."""

    def __init__(self, settings: VqkdSettings) -> None:
        super().__init__()
        self.settings = s = settings
        self.teacher = freeze(image_encoder(s.teacher))
        taught = self.teacher.config
        vision = VisionConfig(
            image_size=taught.image_size, patch_size=taught.patch_size, width=s.width, layers=s.layers, heads=s.heads,
            mlp_width=4 * s.width, stem=s.stem,
        )  # fmt: skip
        codebook = CodebookConfig(
            s.codebook_size, s.codebook_dim, s.beta, legacy=False, normalize=True, ema_decay=s.ema_decay,
            restart_after=s.restart_after,
        )  # fmt: skip
        decoder = CodeDecoderConfig(vision.patches, s.width, s.decoder_layers, s.heads)
        self.tokenizer = VqkdTokenizer(VqkdConfig(vision, taught.width, codebook, decoder))

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        """K-means over encoder outputs, `kmeans_per_code` a code on each rank."""
        if not self.settings.kmeans_per_code:
            return
        wanted = self.settings.kmeans_per_code * self.settings.codebook_size
        samples = encoder_samples(batches, lambda b: self.tokenizer.encoder_outputs(clip_normalize(b.pixels)), wanted)
        self.tokenizer.codebook.initialise(samples)

    def _losses(self, batch: Batch) -> tuple[Losses, Tensor]:
        pixels = clip_normalize(batch.pixels)
        with torch.no_grad():
            features = self.teacher(pixels)[:, 1:].float()
        quantized, decoded = self.tokenizer(pixels)
        cosine = cosine_loss(decoded.float(), features)
        return {"loss": cosine + quantized.loss, "cosine": cosine, "vq": quantized.loss}, quantized.codes

    def forward(self, batch: Batch) -> Losses:
        return self._losses(batch)[0]

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The losses, and how much of the codebook is in use."""
        return validate_codes(batches, self._losses, self.settings.codebook_size)

    def export(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)
