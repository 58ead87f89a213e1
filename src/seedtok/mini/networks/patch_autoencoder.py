"""The autoencoder of the mini diffusion model: a linear patch encoder and a small transformer decoder.

On a CPU it trains at ten times the speed of diffusers' smallest convolutional autoencoder, because matrix products are
faster there than convolutions. At full size any autoencoder of diffusers works.
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
    """Pixels (B, 3, H, W) in -1..1 <-> latents (B, latent_channels, H / patch, W / patch).

    It replaces the `AutoencoderKL` of a `StableDiffusionPipeline`, which derives the ratio of image size to latent size
    from the length of `block_out_channels`.
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
        """Images -> their patches, flattened, row by row."""
        size = self.config["patch_size"]
        return F.unfold(images, size, stride=size).transpose(1, 2)

    def encode(self, x: Float[Tensor, "b 3 h w"], return_dict: bool = True) -> Any:
        """Images -> an output with `.latents`."""
        rows = x.shape[-2] // self.config["patch_size"]
        latents = self.encoder(self.patches(x.to(self.encoder.weight.dtype))).transpose(1, 2).unflatten(2, (rows, -1))
        return AutoencoderTinyOutput(latents=latents) if return_dict else (latents,)

    def decode(self, z: Float[Tensor, "b c h w"], return_dict: bool = True, generator: object = None) -> Any:
        """Latents -> an output with `.sample`; deterministic, so `generator` has no effect."""
        size = self.config["patch_size"]
        x = self.embedding(z.flatten(2).transpose(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x)
        patches = self.pixels(self.norm(x)).transpose(1, 2)
        sample = F.fold(patches, (z.shape[-2] * size, z.shape[-1] * size), size, stride=size)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    @torch.no_grad()
    def keep_distances(self) -> None:
        """Turns the latents so that their distances are those of the patches that they stand for; decodes the same.

        The encoder's rows become orthonormal, and the embedding undoes it. So the colour of a patch is large in its
        latent, and its detail small, as in pixels: a diffusion model draws what matters first.
        """
        weight = self.encoder.weight.double()
        values, directions = torch.linalg.eigh(weight @ weight.T)
        turn, back = (directions * values.pow(power) @ directions.T for power in (-0.5, 0.5))
        self.encoder.weight.copy_(turn @ weight)
        self.encoder.bias.copy_(turn @ self.encoder.bias.double())
        self.embedding.weight.copy_(self.embedding.weight.double() @ back)
