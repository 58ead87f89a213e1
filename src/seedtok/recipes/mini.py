"""Recipes of the mini size: every part of the paper on two CPU cores, with no download.

Every value here is ours: the paper has no mini size.
"""

from seedtok.training.autoencoder import AutoencoderSettings
from seedtok.training.clip import ClipSettings
from seedtok.training.config import Data, Optimization, RunConfig


def autoencoder() -> RunConfig:
    """The autoencoder of the mini diffusion model: 128 x 128 pixels to 8 x 8 latents of 48 channels."""
    return RunConfig(
        recipe="mini.autoencoder",
        stage=AutoencoderSettings(),
        data=Data(phrasing="canonical"),
        optimization=Optimization(steps=2500, batch_size=8, lr=1e-3, min_lr=1e-5, warmup_steps=50, weight_decay=0.0),
        checkpoint_every=250,
        validate_every=250,
        validate_batches=8,
    )


def clip() -> RunConfig:
    """The mini CLIP: its ViT feeds the tokenizer, its text tower the diffusion model."""
    return RunConfig(
        recipe="mini.clip",
        stage=ClipSettings(),
        data=Data(group=4),
        optimization=Optimization(steps=2400, batch_size=64, lr=1e-3, min_lr=1e-5, warmup_steps=100, weight_decay=0.05),
        checkpoint_every=200,
        validate_every=200,
        validate_batches=16,
    )
