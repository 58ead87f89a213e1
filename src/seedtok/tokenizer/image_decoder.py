"""The frozen diffusion model, through diffusers: captions to text features, generation embeddings to pictures."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seedtok.errors import CheckpointError


def plain_attention(unet: UNet2DConditionModel) -> None:
    """Has a UNet of few positions on a CPU attend by matrix products: a fifth faster there than the fused kernel."""
    if unet.device.type == "cpu" and unet.config["sample_size"] <= 16:
        unet.set_attn_processor(AttnProcessor())


class ImageDecoder:
    """A `StableDiffusionPipeline` that draws from embeddings in place of captions (section 2.2.2)."""

    def __init__(self, pipeline: StableDiffusionPipeline):
        self.pipeline = pipeline
        # a CPU with bfloat16 instructions draws twice as fast in it, from float32 latents
        self.fast = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        plain_attention(pipeline.unet)
        pipeline.set_progress_bar_config(disable=True)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path) -> ImageDecoder:
        """Loads a Stable Diffusion v1.x folder or hub id, without its safety checker.

        Raises CheckpointError when there is none.
        """
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                str(folder_or_hub_id), safety_checker=None, requires_safety_checker=False
            )
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"cannot load an image decoder from {folder_or_hub_id}: {reason}") from None
        return cls(pipeline)

    @torch.no_grad()
    def text_features(self, captions: list[str]) -> Float[Tensor, "b t d"]:
        """What the pipeline conditions on: the text encoder's last hidden state of captions padded to 77 tokens."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            captions,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return encoder(tokens.input_ids.to(encoder.device)).last_hidden_state

    @torch.no_grad()
    def draw(
        self,
        embeddings: Float[Tensor, "b t d"],
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> list[Image.Image]:
        """Pictures of generation embeddings; the unconditional prompt is "" (section 2.2.2)."""
        dtype = self.pipeline.unet.dtype
        nothing = self.text_features([""]).to(dtype).expand(len(embeddings), -1, -1)
        device = self.pipeline.unet.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.fast and device.type == "cpu"):
            return self.pipeline(
                prompt_embeds=embeddings.to(dtype),
                negative_prompt_embeds=nothing,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=generator,
            ).images  # type: ignore[union-attr]
