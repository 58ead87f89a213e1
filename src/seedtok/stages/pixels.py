"""From uint8 pixels to what each frozen part of the field expects."""

import torch
from torch import Tensor

from seedtok.tokenizer.vision import CLIP_MEAN, CLIP_STD


def clip_normalize(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 by CLIP's mean and standard deviation."""
    mean = torch.tensor(CLIP_MEAN, device=pixels.device).view(1, 3, 1, 1) * 255
    std = torch.tensor(CLIP_STD, device=pixels.device).view(1, 3, 1, 1) * 255
    return (pixels.float() - mean) / std


def unit_range(pixels: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 -> float32 in -1..1, as diffusion autoencoders take them."""
    return pixels.float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in -1..1: (B, 3, H, W) twice -> (B,)."""
    mse = (a.clamp(-1, 1) - b).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / mse.clamp_min(1e-10))
