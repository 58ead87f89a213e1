"""The text features that a frozen diffusion model draws from, as targets of a stage."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from seedtok.data.batches import Batch
from seedtok.tokenizer.image_decoder import ImageDecoder


@torch.no_grad()
def mean_text_feature(decoder: ImageDecoder, batches: Iterable[Batch]) -> Float[Tensor, " d"]:
    """The mean feature of all tokens of the canonical captions of batches, which an output's bias can start at."""
    return torch.stack([decoder.text_features(batch.canonical).float().mean((0, 1)) for batch in batches]).mean(0)
