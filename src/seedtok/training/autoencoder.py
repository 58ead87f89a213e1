"""The mini latent diffusion model's autoencoder: 128 x 128 pixels <-> 8 x 8 latents."""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from seedtok.data.batches import Batch
from seedtok.training.config import StageSettings
from seedtok.training.pictures import side_by_side, to_pil
from seedtok.training.pixels import unit_range
from seedtok.training.stage import Losses, Stage


class AutoencoderSettings(StageSettings):
    width: int = 64
    latent_channels: int = 48
    encoder_blocks: tuple[int, ...] = (0, 0, 1, 1, 2)
    decoder_blocks: tuple[int, ...] = (2, 1, 1, 0, 0)
    latent_noise: float = 0.1  # of a latent's unit deviation: what the diffusion model gets wrong should not show
    scale_weight: float = 0.01

    def build(self) -> "AutoencoderStage":
        return AutoencoderStage(self)


class AutoencoderStage(Stage):
    """L1 reconstruction; each latent channel is held at mean 0 and deviation 1, and gets a little noise."""

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        levels = len(settings.encoder_blocks)
        self.autoencoder = AutoencoderTiny(
            encoder_block_out_channels=(settings.width,) * levels,
            decoder_block_out_channels=(settings.width,) * levels,
            num_encoder_blocks=settings.encoder_blocks,
            num_decoder_blocks=settings.decoder_blocks,
            latent_channels=settings.latent_channels,
            scaling_factor=1.0,
        ).to(memory_format=torch.channels_last)

    def forward(self, batch: Batch) -> Losses:
        images = unit_range(batch.pixels).contiguous(memory_format=torch.channels_last)
        latents = self.autoencoder.encoder(images)
        spread, mean = torch.std_mean(latents.float(), dim=(0, 2, 3))
        scale = mean.square().mean() + (spread - 1).square().mean()
        noisy = latents + self.settings.latent_noise * torch.randn_like(latents) if self.training else latents
        decoded = self.autoencoder.decoder(noisy).float()
        error = (decoded - images).abs().mean()
        loss = error + F.mse_loss(decoded, images) + self.settings.scale_weight * scale
        return {"loss": loss, "l1": error, "scale": scale, "psnr": psnr(decoded, images).mean()}

    def draw(self, batch: Batch) -> Image.Image:
        images = unit_range(batch.pixels)
        decoded = self.autoencoder.decoder(self.autoencoder.encoder(images)).float()
        return side_by_side(to_pil(images[:16]), to_pil(decoded[:16]))

    def export(self, folder: Path) -> None:
        self.autoencoder.save_pretrained(folder)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in -1..1: (B, 3, H, W) twice -> (B,)."""
    mse = (a.clamp(-1, 1) - b).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse.clamp_min(1e-10))
