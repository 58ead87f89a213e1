"""Pipelines of diffusers around what a stage trains."""

from pathlib import Path
from typing import Any

from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.hub import without_paths

LORA_FOLDER = "lcm_lora"


def pipeline_of(vae: Any, text_encoder: Any, tokenizer: Any, unet: Any, scheduler: Any) -> StableDiffusionPipeline:
    """A pipeline of these parts, without a safety checker."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        image_encoder=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_pipeline(
    pipeline: StableDiffusionPipeline, folder: Path, lcm_lora: dict[str, nn.Module | Tensor] | None = None
) -> None:
    """Writes a pipeline, without the paths of the machine that it was made on, and an LCM-LoRA in its `LORA_FOLDER`."""
    with checkpoint_folder(folder) as new:
        pipeline.save_pretrained(new)
        if lcm_lora is not None:
            pipeline.save_lora_weights(new / LORA_FOLDER, unet_lora_layers=lcm_lora)
        without_paths(new)
