"""The mini diffusion model's autoencoder: linear patches in, a small transformer out, in diffusers' format.

Matrix products are the fast part of a CPU and convolutions the slow one; this trains at ten times the images a second
of diffusers' smallest convolutional autoencoder, and at full size any autoencoder of diffusers takes its place.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_utils import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from seedtok.tokenizer.layers import Block


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Pixels (B, 3, H, W) in -1..1 <-> latents (B, latent_channels, H / patch, W / patch) of about unit deviation.

    Stands where `AutoencoderKL` stands in a `StableDiffusionPipeline`; `block_out_channels` is there because the
    pipeline reads the ratio of sizes off its length.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(
        self,
        image_size: int = 128,
        patch_size: int = 16,
        latent_channels: int = 32,
        width: int = 256,
        layers: int = 4,
        heads: int = 4,
        scaling_factor: float = 1.0,
        block_out_channels: Sequence[int] = (0, 0, 0, 0, 0),
    ) -> None:
        super().__init__()
        patch = 3 * patch_size**2
        self.encoder = nn.Linear(patch, latent_channels)
        self.embedding = nn.Linear(latent_channels, width)
        self.positions = nn.Parameter(torch.randn(1, (image_size // patch_size) ** 2, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, 4 * width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.pixels = nn.Linear(width, patch)

    def patches(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n p"]:
        size = self.config["patch_size"]
        return F.unfold(images, size, stride=size).transpose(1, 2)

    def encode(self, x: Float[Tensor, "b 3 h w"], return_dict: bool = True) -> Any:
        """Latents of images, as `.latents`."""
        rows = x.shape[-2] // self.config["patch_size"]
        latents = self.encoder(self.patches(x.to(self.encoder.weight.dtype))).transpose(1, 2).unflatten(2, (rows, -1))
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    def decode(self, z: Float[Tensor, "b c h w"], return_dict: bool = True, generator: object = None) -> Any:
        """Images of latents, as `.sample`; there is nothing random in it."""
        size = self.config["patch_size"]
        x = self.embedding(z.flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x)
        patches = self.pixels(self.norm(x)).transpose(1, 2)
        sample = F.fold(patches, (z.shape[-2] * size, z.shape[-1] * size), size, stride=size)
        return DecoderOutput(sample=sample) if return_dict else (sample,)
