"""The frozen diffusion model, by diffusers: captions -> text features, generation embeddings -> images."""

from __future__ import annotations

import copy
import math
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from seedtok.core.device import dtype_named
from seedtok.core.errors import CheckpointError, ConfigError, InputError
from seedtok.core.hub import cache_only, local_folder, locate
from seedtok.core.notices import quietly
from seedtok.core.records import encodable

with quietly("transformers", "diffusers"):
    from diffusers import (
        DiffusionPipeline,
        LCMScheduler,
        StableDiffusionPipeline,
        StableUnCLIPImg2ImgPipeline,
        UNet2DConditionModel,
        pipelines,
    )
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

OWN_MODULE = re.compile(r"seedtok(\.\w+)+", re.ASCII)
MOVED_MODULES = {  # former names, in older checkpoints: present names, of the modules of the mini diffusion model
    "seedtok.tokenizer.patch_autoencoder": "seedtok.mini.networks.patch_autoencoder",
    "seedtok.tokenizer.positioned_unet": "seedtok.mini.networks.positioned_unet",
}
FEW_STEPS = 4  # of a latent consistency model
FEW_GUIDANCE = 1.5  # scale of classifier-free guidance of these; 1 is without, faster and less often right
MIRRORS = {  # deleted repositories that published checkpoints name: their mirrors
    "stabilityai/stable-diffusion-2-1-unclip": "sd2-community/stable-diffusion-2-1-unclip"
}


def plain_attention(unet: UNet2DConditionModel) -> None:
    """Makes a UNet with small latents use plain matrix products on a CPU: 20 % faster than the fused kernel."""
    plain = unet.device.type == "cpu" and unet.config["sample_size"] <= 16
    unet.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())


def _import_own_classes(index: dict[str, Any]) -> None:
    """Imports the modules of this package that a model_index.json names, where diffusers then looks for their classes.

    A component is listed as [module, class]. No module of another package is imported because a checkpoint names it.
    Raises CheckpointError where it names one.
    """
    for part, named in index.items():
        if not isinstance(named, list) or len(named) != 2 or named[0] is None:
            continue  # a setting of the pipeline, or a component that it does without
        module = str(named[0])
        if module in ("diffusers", "transformers") or hasattr(pipelines, module):
            continue  # what diffusers loads components from by itself
        if not OWN_MODULE.fullmatch(module):
            raise CheckpointError(f"its {part} is of a class in {module}; expected diffusers, transformers or seedtok")
        sys.modules.setdefault(module, import_module(MOVED_MODULES.get(module, module)))


def _name_of(source: str, part: str, file: str) -> tuple[str, bool]:
    """The name of a source for diffusers, and whether to read local files alone; `file` is one that it has."""
    folder = local_folder(source, part)
    return (source, cache_only(source, file)) if folder is None else (str(folder), True)


def _pipeline(source: str, dtype: torch.dtype) -> StableDiffusionPipeline | StableUnCLIPImg2ImgPipeline:
    """The pipeline of a source, of the class that its index names; raises CheckpointError where it cannot be loaded."""
    name, cached = _name_of(source, "diffusion", "model_index.json")
    given: dict[str, Any] = {"dtype": dtype, "local_files_only": cached, "trust_remote_code": False}
    try:
        index: Any = DiffusionPipeline.load_config(name, local_files_only=cached)
        _import_own_classes(index)
        if "UnCLIP" in str(index.get("_class_name")):
            return StableUnCLIPImg2ImgPipeline.from_pretrained(name, **given)
        return StableDiffusionPipeline.from_pretrained(
            name, safety_checker=None, requires_safety_checker=False, **given
        )
    except (OSError, ValueError, KeyError, AttributeError, ImportError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CheckpointError(f"cannot load an image decoder from {source}: {reason}") from None


class ImageDecoder:
    """A diffusion pipeline that draws images from generation embeddings instead of captions (section 2.2.2).

    Stable Diffusion takes them as text features. Its unCLIP variant, which SEED's successor uses, takes them as CLIP
    image embeddings.
    """

    few_guidance = FEW_GUIDANCE

    def __init__(self, pipeline: StableDiffusionPipeline | StableUnCLIPImg2ImgPipeline):
        self.pipeline = pipeline
        plain_attention(pipeline.unet)
        pipeline.set_progress_bar_config(disable=True)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        return self.pipeline.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.pipeline.unet.dtype

    @property
    def draws_captions(self) -> bool:
        """Whether it takes text features, so that it can draw captions too; unCLIP takes image embeddings."""
        return not isinstance(self.pipeline, StableUnCLIPImg2ImgPipeline)

    @property
    def few_steps(self) -> int | None:
        """In how many steps a latent consistency model draws, with a guidance of `FEW_GUIDANCE`; None for another."""
        return FEW_STEPS if isinstance(self.pipeline.scheduler, LCMScheduler) else None

    @quietly("transformers", "diffusers")
    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> ImageDecoder:
        """Moves and casts the pipeline."""
        if device is not None:
            self.pipeline.to(device)
            plain_attention(self.pipeline.unet)
        if dtype is not None:
            self.pipeline.to(dtype)
        return self

    @classmethod
    @quietly("transformers", "diffusers")
    def from_pretrained(cls, folder_or_hub_id: str | Path, dtype: torch.dtype = torch.float32) -> ImageDecoder:
        """Loads "mini", a folder, or a hub id of Stable Diffusion v1.x or of its unCLIP variant, in `dtype`.

        The safety checker is not loaded, and no code of the checkpoint is run. Raises CheckpointError where it cannot
        be loaded.
        """
        try:
            return cls(_pipeline(locate(folder_or_hub_id, "diffusion"), dtype))
        except CheckpointError as error:
            problem = str(error)
        if mirror := MIRRORS.get(str(folder_or_hub_id)):
            try:
                return cls(_pipeline(locate(mirror, "diffusion"), dtype))
            except CheckpointError as error:
                problem += f"; nor from its mirror: {error}"
        raise CheckpointError(
            f"{problem} (another can be given by `seedtok convert --image-decoder`, or by image_decoder in the "
            "config.json of the tokenizer)"
        )

    @quietly("transformers", "diffusers")
    def add_lcm_lora(self, folder_or_hub_id: str | Path) -> None:
        """Adds an LCM-LoRA (Luo et al. 2023, arXiv 2311.05556) to the UNet for good: it then draws in few steps.

        It is "mini", that of the shipped image decoder, a folder, or a hub id. Raises CheckpointError where it cannot
        be loaded, or is of another model; what is drawn by is then undefined. Raises ConfigError where this decoder
        draws in few steps already.
        """
        if self.few_steps:
            raise ConfigError("this image decoder draws in few steps already: leave out the LCM-LoRA")
        source = locate(folder_or_hub_id, "lcm_lora")
        name, cached = _name_of(source, "lcm_lora", "pytorch_lora_weights.safetensors")
        pipeline: Any = self.pipeline
        try:
            pipeline.load_lora_weights(name, use_safetensors=True, local_files_only=cached)
            if not pipeline.get_active_adapters():
                raise ValueError("it has no weights for this UNet")
            pipeline.fuse_lora()
            pipeline.unload_lora_weights()
        except (OSError, ValueError, TypeError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise CheckpointError(f"cannot use {folder_or_hub_id} as an LCM-LoRA: {reason}") from None
        pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)

    @quietly("transformers", "diffusers")
    def with_lcm_lora(self, folder_or_hub_id: str | Path) -> ImageDecoder:
        """This decoder with an LCM-LoRA, as a second one that shares all but the UNet; raises as `add_lcm_lora`."""
        own: Any = self.pipeline
        decoder = ImageDecoder(type(own)(**own.components | {"unet": copy.deepcopy(own.unet)}))
        decoder.add_lcm_lora(folder_or_hub_id)
        return decoder

    @torch.no_grad()
    def text_features(self, captions: list[str]) -> Float[Tensor, "b t d"]:
        """The features that the pipeline conditions on: last states of the text encoder, padded to 77 tokens.

        Raises ConfigError where it conditions on image embeddings.
        """
        if not self.draws_captions:
            raise ConfigError("this image decoder draws from image embeddings (unCLIP), so it cannot draw captions")
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
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
    ) -> list[Image.Image]:
        """Draws one image for each of the generation embeddings (section 2.2.2).

        Args:
            embeddings: (B, 77, D) for Stable Diffusion, (B, D) or (B, 1, D) for unCLIP.
            num_inference_steps: denoising steps.
            guidance_scale: weight of classifier-free guidance; the unconditional prompt is "".
            generator: source of the initial noise; CPU generators give the same noise on every device.
            dtype: autocast dtype of a pipeline that is in float32, or its name. bfloat16 takes half the time on
                processors with bfloat16 instructions, and changes images slightly.
            batch_size: images that are drawn together; by default all.

        Raises:
            ConfigError: a `dtype` for a pipeline that is not in float32.
            InputError: more steps than the model was trained with, a guidance scale that is not finite, a batch size
                below 1, or not as many generators as images.
        """
        pipeline: Any = copy.copy(self.pipeline)  # a call's own, as its scheduler is: both hold the state of a drawing
        pipeline.scheduler = copy.deepcopy(pipeline.scheduler)
        config = pipeline.scheduler.config
        most = int(config["original_inference_steps" if self.few_steps else "num_train_timesteps"])
        if not 1 <= num_inference_steps <= most or not math.isfinite(guidance_scale):
            raise InputError(
                f"{num_inference_steps} denoising steps with a guidance scale of {guidance_scale}; expected 1 to "
                f"{most} steps and a finite scale"
            )
        dtype = None if dtype is None else dtype_named(dtype)
        cast = dtype not in (None, self.dtype)
        if cast and self.dtype != torch.float32:
            raise ConfigError(f"the image decoder is in {self.dtype}; load it in float32 to draw in {dtype}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"a batch size of {batch_size}; expected 1 or more")
        if isinstance(generator, list) and len(generator) != len(embeddings):
            raise InputError(f"{len(generator)} generators for {len(embeddings)} images")
        drawn: list[Image.Image] = []
        size = batch_size or max(1, len(embeddings))
        for start in range(0, len(embeddings), size):
            own = slice(start, start + size)
            given = self._conditions(embeddings[own].to(self.device, self.dtype))
            with torch.autocast(self.device.type, dtype, enabled=cast):
                drawn += pipeline(
                    **given, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale,
                    generator=generator[own] if isinstance(generator, list) else generator,
                ).images  # fmt: skip
        return drawn

    def _conditions(self, embeddings: Tensor) -> dict[str, Any]:
        """What the pipeline takes for generation embeddings, as its arguments."""
        if not self.draws_captions:
            return {"prompt": [""] * len(embeddings), "image_embeds": embeddings.flatten(1), "noise_level": 0}
        nothing = self.text_features([""]).to(self.dtype).expand(len(embeddings), -1, -1)
        return {"prompt_embeds": embeddings, "negative_prompt_embeds": nothing}
