"""Pictures drawn anew by a frozen diffusion model, showing what they showed: drawings whose contents are known."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.mini.stages.lcm import clean_estimate, ddim_step
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.training.stage import freeze

STEPS = (150, 500)  # the least and the most noise, of 1,000: beyond, a thing may turn into another


class Redrawing(nn.Module):
    """A picture's latent with noise added, and two steps of DDIM back (Meng et al. 2022, SDEdit)."""

    def __init__(self, decoder: ImageDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        pipeline: Any = decoder.pipeline
        self.text_encoder, self.vae = freeze(pipeline.text_encoder), freeze(pipeline.vae)
        self.unet = freeze(pipeline.unet)
        self.prediction: str = pipeline.scheduler.config["prediction_type"]
        self.alphas: Tensor  # cumulative products by step
        self.register_buffer("alphas", pipeline.scheduler.alphas_cumprod.clone(), persistent=False)

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "b 3 h w"], captions: list[str]) -> Float[Tensor, "b 3 h w"]:
        """Images in -1..1 and their captions -> drawings in -1..1, float32."""
        features = self.decoder.text_features(captions).to(self.unet.dtype)
        latent = self.vae.encode(images.to(self.vae.dtype)).latents.float()
        start = torch.randint(*STEPS, (len(images),)).to(images.device)
        alpha = self.alphas[start].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * torch.randn_like(latent)
        for step, after in ((start, start // 2), (start // 2, None)):
            output = self.unet(noisy.to(self.unet.dtype), step, features).sample.float()
            clean = clean_estimate(output, noisy, self.alphas[step], self.prediction)
            noisy = clean if after is None else ddim_step(clean, noisy, self.alphas[step], self.alphas[after])
        return self.vae.decode(noisy.to(self.vae.dtype)).sample.float().clamp(-1, 1)
