"""The mini latent diffusion model's autoencoder: 128 x 128 pixels <-> 8 x 8 latents."""

from collections.abc import Iterable
from copy import deepcopy
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.images import side_by_side, to_pil
from seedtok.data.batches import Batch
from seedtok.mini.networks.patch_autoencoder import PatchAutoencoder
from seedtok.stages.pixels import psnr, unit_range
from seedtok.training.config import StageSettings
from seedtok.training.stage import Losses, Stage


class AutoencoderSettings(StageSettings):
    image_size: int = 128
    patch_size: int = 16
    latent_channels: int = 48
    width: int = 256
    layers: int = 4
    latent_noise: float = 0.1  # of a latent's unit deviation: what the diffusion model gets wrong should not show
    scale_weight: float = 0.01

    def build(self) -> "AutoencoderStage":
        return AutoencoderStage(self)


class AutoencoderStage(Stage):
    """L1 and L2 reconstruction; the encoder starts as the patches' principal components, whitened.

    Each latent channel is held at mean 0 and deviation 1, and gets a little noise. What is exported has the patches'
    own scale again: see `PatchAutoencoder.keep_distances`.
    """

    def __init__(self, settings: AutoencoderSettings) -> None:
        super().__init__()
        self.settings = settings
        self.autoencoder = PatchAutoencoder(
            image_size=settings.image_size,
            patch_size=settings.patch_size,
            latent_channels=settings.latent_channels,
            width=settings.width,
            layers=settings.layers,
            heads=settings.width // 64,
            block_out_channels=(0,) * settings.patch_size.bit_length(),
        )

    @torch.no_grad()
    def initialize(self, batches: Iterable[Batch]) -> None:
        patches = []
        for batch in islice(batches, 64):
            patches.append(self.autoencoder.patches(unit_range(batch.pixels)).flatten(0, 1))
        x = torch.cat(patches).cpu().double()
        mean = x.mean(0)
        variance, directions = torch.linalg.eigh((x - mean).T @ (x - mean) / len(x))
        count = self.settings.latent_channels
        whiten = directions[:, -count:].T / variance[-count:, None].clamp_min(1e-8).sqrt()
        self.autoencoder.encoder.weight.copy_(whiten)
        self.autoencoder.encoder.bias.copy_(-whiten @ mean)
        self.autoencoder.pixels.weight.mul_(0.1)
        self.autoencoder.pixels.bias.copy_(mean)

    def forward(self, batch: Batch) -> Losses:
        images = unit_range(batch.pixels)
        latents = self.autoencoder.encode(images).latents.float()
        spread, mean = torch.std_mean(latents, dim=(0, 2, 3))
        scale = mean.square().mean() + (spread - 1).square().mean()
        noisy = latents + self.settings.latent_noise * torch.randn_like(latents) if self.training else latents
        error = self.autoencoder.decode(noisy).sample.float() - images
        l1, l2 = error.abs().mean(), error.square().mean()
        loss = l1 + l2 + self.settings.scale_weight * scale
        return {"loss": loss, "l1": l1, "psnr": psnr(images + error.detach(), images).mean(), "scale": scale}

    def draw(self, batch: Batch) -> Image.Image:
        images = unit_range(batch.pixels[:16])
        decoded = self.autoencoder.decode(self.autoencoder.encode(images).latents).sample
        return side_by_side(to_pil(images), to_pil(decoded))

    def export(self, folder: Path) -> None:
        autoencoder = deepcopy(self.autoencoder)
        autoencoder.keep_distances()
        with checkpoint_folder(folder) as new:
            autoencoder.save_pretrained(new)
