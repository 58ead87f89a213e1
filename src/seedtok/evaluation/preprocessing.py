"""How a model of transformers gets its pictures: by its own image processor, or as the ViT of the paper does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seedtok.core.images import Square
from seedtok.core.notices import quietly
from seedtok.tokenizer.vision import CLIP_MEAN, CLIP_STD, normalized_pixels

PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def stretched(square: Square | int) -> dict[str, Any]:
    """What `normalized_pixels` does, for the record."""
    square = Square(square) if isinstance(square, int) else square
    resize = f"stretched, {square.interpolation}"
    return {"size": [square.side] * 2, "resize": resize, "mean": list(CLIP_MEAN), "std": list(CLIP_STD)}


class Preprocessing:
    """Pictures -> float32 pixels (B, 3, side, side) on the CPU; without a processor, stretched to `side`."""

    def __init__(self, side: int, processor: Any = None) -> None:
        self.side, self.processor = side, processor

    def __call__(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b 3 h w"]:
        if self.processor is None:
            return normalized_pixels(list(pictures), self.side)
        with quietly("transformers"):
            return self.processor(images=list(pictures), return_tensors="pt")["pixel_values"].to(torch.float32)

    @property
    def settings(self) -> dict[str, Any]:
        if self.processor is None:
            return stretched(self.side)
        known = {name: value for name, value in self.processor.to_dict().items() if value is not None}
        return {name: known[name] for name in sorted(known) if not name.startswith("_")}
