"""The frozen diffusion model, through diffusers: captions to text features, generation embeddings to pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableUnCLIPImg2ImgPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seedtok.errors import CheckpointError, InputError
from seedtok.records import encodable


def plain_attention(unet: UNet2DConditionModel) -> None:
    """Has a UNet of few positions on a CPU attend by matrix products: a fifth faster there than the fused kernel."""
    if unet.device.type == "cpu" and unet.config["sample_size"] <= 16:
        unet.set_attn_processor(AttnProcessor())


class ImageDecoder:
    """A diffusion pipeline that draws from embeddings in place of captions (section 2.2.2).

    Stable Diffusion takes them in the place of text features; its unCLIP variant, the successor's, as the embedding of
    an image.
    """

    def __init__(self, pipeline: StableDiffusionPipeline | StableUnCLIPImg2ImgPipeline):
        self.pipeline = pipeline
        # a CPU with bfloat16 instructions draws twice as fast in it, from float32 latents
        self.fast = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        plain_attention(pipeline.unet)
        pipeline.set_progress_bar_config(disable=True)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, dtype: torch.dtype = torch.float32) -> ImageDecoder:
        """Loads a folder or hub id of Stable Diffusion v1.x, without its safety checker, or of its unCLIP variant.

        Raises CheckpointError when there is none.
        """
        name = str(folder_or_hub_id)
        try:
            index: Any = DiffusionPipeline.load_config(name)
            if "UnCLIP" in str(index.get("_class_name")):
                return cls(StableUnCLIPImg2ImgPipeline.from_pretrained(name, dtype=dtype))
            pipeline = StableDiffusionPipeline.from_pretrained(
                name, dtype=dtype, safety_checker=None, requires_safety_checker=False
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
            [encodable(caption) for caption in captions],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        return encoder(tokens.input_ids.to(encoder.device)).last_hidden_state

    @torch.no_grad()
    def draw(
        self,
        embeddings: Float[Tensor, "b *t d"],
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> list[Image.Image]:
        """Pictures of generation embeddings; the unconditional prompt is "" (section 2.2.2).

        unCLIP takes one embedding a picture, (B, D) or (B, 1, D), with no noise added and no prompt. Raises InputError
        for a number of steps that the model was not trained for, and a guidance that is no number.
        """
        most = int(self.pipeline.scheduler.config["num_train_timesteps"])
        if not 1 <= num_inference_steps <= most or not math.isfinite(guidance_scale):
            raise InputError(
                f"{num_inference_steps} steps with a guidance of {guidance_scale}: this model draws in 1 to {most} "
                "steps, and the guidance is a finite number"
            )
        device, dtype = self.pipeline.unet.device, self.pipeline.unet.dtype
        embeddings = embeddings.to(dtype)
        pipeline: Any = self.pipeline
        given: dict[str, Any]
        if isinstance(self.pipeline, StableUnCLIPImg2ImgPipeline):
            given = {"prompt": [""] * len(embeddings), "image_embeds": embeddings.flatten(1), "noise_level": 0}
        else:
            nothing = self.text_features([""]).to(dtype).expand(len(embeddings), -1, -1)
            given = {"prompt_embeds": embeddings, "negative_prompt_embeds": nothing}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.fast and device.type == "cpu"):
            return pipeline(
                **given, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale, generator=generator
            ).images
