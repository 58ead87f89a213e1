"""A VQ-VAE on pixels (van den Oord et al. 2017), diffusers' `VQModel`: the low-level tokens of the pilot (section 2.1).

Nothing it learns from says what an image shows: its codes are compared with SEED's as inputs of a language model.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from diffusers import VQModel
from PIL import Image
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from seedtok.baselines.image_vectors import save_vqvae
from seedtok.core.errors import ConfigError
from seedtok.core.images import side_by_side, to_pil
from seedtok.data.batches import Batch
from seedtok.stages.image_codes import encoder_samples, validate_codes
from seedtok.stages.pixels import psnr, unit_range
from seedtok.tokenizer.codebook import Codebook, CodebookConfig, Quantized
from seedtok.training.config import StageSettings
from seedtok.training.stage import Losses, Stage, freeze


class VqvaeSettings(StageSettings):
    """Codes an image: the image's side in patches, halved between every two widths, squared.

    The pixels of a patch are the channels of one place: all that is computed at full size is how they are laid out.
    """

    image_size: int = 128
    patch_size: int = Field(default=4, ge=1)  # 1: as diffusers has it, of which most time goes to few channels
    widths: tuple[int, ...] = (32, 64, 128)
    groups: int = 8  # of the group norms
    codebook_size: int = Field(default=8192, ge=1, le=65536)  # SEED's
    codebook_dim: int = Field(default=32, ge=1)  # SEED's
    vq_weight: float = 1.0  # of the codebook's loss, the reconstruction's being 1; paper
    beta: float = 0.25  # of the commitment term in it; paper
    ema_decay: float | None = Field(default=None, ge=0, lt=1)  # paper: the codebook term, or moving averages
    restart_after: int | None = Field(default=None, ge=1)  # steps without use that move a code; paper: never
    kmeans_per_code: float = Field(default=0.0, ge=0)  # encoder outputs a code, for k-means to start from; paper: 0

    def for_counting(self) -> "VqvaeSettings":
        return self.model_copy(update={"restart_after": None})

    def build(self) -> "VqvaeStage":
        return VqvaeStage(self)


class VqvaeStage(Stage):
    """Squared error of the pixels, codebook loss and commitment loss.

    The codebook is trained by the class that SEED's is, with the same aids against collapse, and stored as diffusers'.
    """

    def __init__(self, settings: VqvaeSettings) -> None:
        super().__init__()
        self.settings = settings
        depth, channels = len(settings.widths), 3 * settings.patch_size**2
        if settings.image_size % (unit := settings.patch_size << depth - 1):
            raise ConfigError(
                f"stage.image_size={settings.image_size} is no multiple of {unit}: patches of {settings.patch_size} "
                f"pixels, halved {depth - 1} times"
            )
        self.model = VQModel(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * depth,
            up_block_types=("UpDecoderBlock2D",) * depth,
            block_out_channels=settings.widths,
            norm_num_groups=settings.groups,
            latent_channels=settings.codebook_dim,
            vq_embed_dim=settings.codebook_dim,
            num_vq_embeddings=settings.codebook_size,
            sample_size=settings.image_size // settings.patch_size,
        )
        freeze(self.model.quantize)
        self.codebook = Codebook(
            CodebookConfig(
                settings.codebook_size, settings.codebook_dim, settings.beta, legacy=False,
                ema_decay=settings.ema_decay, restart_after=settings.restart_after,
            )
        )  # fmt: skip

    def check_batch(self, batch: Batch) -> None:
        if batch.pixels.shape[-1] != self.settings.image_size:
            raise ConfigError(
                f"pictures of {batch.pixels.shape[-1]} pixels, and stage.image_size={self.settings.image_size}: set "
                "data.size to the same"
            )

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        """K-means over encoder outputs, `kmeans_per_code` a code on each rank."""
        if self.settings.kmeans_per_code:
            wanted = self.settings.kmeans_per_code * self.settings.codebook_size
            self.codebook.initialise(encoder_samples(batches, self._encoder_outputs, wanted))

    def _encoder_outputs(self, batch: Batch) -> Tensor:
        """What the codebook quantises of a batch (B, codes, codebook dim)."""
        patches = F.pixel_unshuffle(unit_range(batch.pixels), self.settings.patch_size)
        return self.model.encode(patches).latents.flatten(2).transpose(1, 2)  # type: ignore[union-attr]

    def _reconstructed(self, batch: Batch) -> tuple[Tensor, Quantized]:
        """The pictures of a batch made again from their codes, in -1..1; and what the codebook made of them."""
        quantized = self.codebook(self._encoder_outputs(batch))
        side = self.settings.image_size // self.settings.patch_size >> (len(self.settings.widths) - 1)
        grid = quantized.vectors.transpose(1, 2).unflatten(2, (side, side))
        patches = self.model.decode(grid, force_not_quantize=True).sample.float()  # type: ignore[union-attr]
        return F.pixel_shuffle(patches, self.settings.patch_size), quantized

    def _losses(self, batch: Batch) -> tuple[Losses, Tensor]:
        images = unit_range(batch.pixels)
        made, quantized = self._reconstructed(batch)
        error = F.mse_loss(made, images)
        losses = {"pixels": error, "vq": quantized.loss, "psnr": psnr(made.detach(), images).mean()}
        return {"loss": error + self.settings.vq_weight * quantized.loss, **losses}, quantized.codes

    def forward(self, batch: Batch) -> Losses:
        return self._losses(batch)[0]

    @torch.no_grad()
    def validate(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The losses, and how much of the codebook is in use."""
        return validate_codes(batches, self._losses, self.settings.codebook_size)

    def draw(self, batch: Batch) -> Image.Image:
        made = to_pil(self._reconstructed(batch)[0][:16])
        return side_by_side(to_pil(unit_range(batch.pixels[:16])), made)

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        self.model.quantize.embedding.weight.copy_(self.codebook.weight)
        save_vqvae(self.model, folder)
