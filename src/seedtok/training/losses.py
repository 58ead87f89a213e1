"""Losses of the stages, as pure functions of tensors (section 2.2). The codebook has its own."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def contrastive_loss(
    image: Float[Tensor, "b d"],
    text: Float[Tensor, "b d"],
    all_image: Float[Tensor, "n d"],
    all_text: Float[Tensor, "n d"],
    temperature: Float[Tensor, ""] | float,
    offset: int = 0,
    label_smoothing: float = 0.1,
) -> Float[Tensor, ""]:
    """Image-text contrastive loss of stage I: the mean of both directions, on cosines over the temperature.

    Rows are this rank's pairs, columns those of all ranks (`all_image`, `all_text`), among which this rank's
    start at `offset`. Features need not be normalised.
    """
    image, text, all_image, all_text = (F.normalize(x, dim=-1) for x in (image, text, all_image, all_text))
    image_to_text = image @ all_text.T / temperature
    text_to_image = text @ all_image.T / temperature
    return symmetric_cross_entropy(image_to_text, text_to_image, offset, label_smoothing)


def symmetric_cross_entropy(
    image_to_text: Float[Tensor, "b n"],
    text_to_image: Float[Tensor, "b n"],
    offset: int = 0,
    label_smoothing: float = 0.1,
) -> Float[Tensor, ""]:
    """Mean cross-entropy of both directions' logits, where row i belongs to column offset + i."""
    target = offset + torch.arange(len(image_to_text), device=image_to_text.device)
    losses = [
        F.cross_entropy(logits, target, label_smoothing=label_smoothing) for logits in (image_to_text, text_to_image)
    ]
    return (losses[0] + losses[1]) / 2


def max_query_similarity(image: Float[Tensor, "i q d"], text: Float[Tensor, "t d"]) -> Float[Tensor, "i t"]:
    """BLIP-2's similarity for the bidirectional Q-Former: the best cosine among an image's queries."""
    cosines = torch.einsum("iqd,td->iqt", F.normalize(image, dim=-1), F.normalize(text, dim=-1))
    return cosines.amax(dim=1)


def cosine_loss(prediction: Float[Tensor, "*b d"], target: Float[Tensor, "*b d"]) -> Float[Tensor, ""]:
    """One minus the mean cosine over the last axis: how the code decoder learns the causal embeddings."""
    return 1 - F.cosine_similarity(prediction, target, dim=-1).mean()
