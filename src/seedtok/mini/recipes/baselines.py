"""Recipes of what SEED is compared with, in mini size: BLIP-2, VQ-VAE and BEiT v2 tokens, GILL."""

from pathlib import Path

from seedtok.mini.world.source import SceneData
from seedtok.stages.gill import GillSettings
from seedtok.stages.reading import ReadingSettings
from seedtok.stages.vqkd import VqkdSettings
from seedtok.stages.vqvae import VqvaeSettings
from seedtok.training.config import Optimization, RunConfig


def blip2() -> RunConfig:
    """The BLIP-2-style baseline: the bidirectional Q-Former's embeddings, read by the same frozen OPT.

    BLIP-2's second stage: Q-Former and FC layer are trained, by captions alone; its sizes and its prompt are ours.
    """
    return RunConfig(
        recipe="mini.blip2",
        stage=ReadingSettings(base="mini", qformer=Path("runs/bidirectional/final")),
        data=SceneData(world="varied"),
        optimization=Optimization(steps=3400, batch_size=32, lr=5e-4, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=200,
        validate_every=500,
        validate_batches=4,
    )


def reader() -> RunConfig:
    """The pilot of section 2.1: an OPT reads the codes of an image tokenizer, SEED's 32 by default.

    The paper's pilot: code vectors through one FC layer into the frozen LM, that layer alone trained, by captions.
    Ours: the sizes, and LoRA in the LM where stage.rank is set. Data and optimisation are those of `blip2`, so that
    codes and embeddings are compared on equal terms; stage.tokens is the tokenizer.
    """
    return blip2().model_copy(
        update={"recipe": "mini.reader", "stage": ReadingSettings(base="mini", tokens="mini", dropout=0.0)}
    )


def vqvae() -> RunConfig:
    """Low-level tokens for the pilot of section 2.1: a VQ-VAE on pixels, 64 codes an image (8 x 8), of 8192.

    VQ-VAE's: squared error of the pixels, commitment loss with a weight of 0.25, a codebook of moving averages. Ours:
    the sizes, with SEED's codebook of 8192 x 32; the pixels of a patch of 4 x 4 as the channels of one place, three
    times as fast as full size with few channels; and what keeps the codebook in use in `stage2` too, k-means and
    restarts. Steps, batch, rate and data are those of `stage2`. The paper says no more of its VQ-VAE than its score.
    """
    return RunConfig(
        recipe="mini.vqvae",
        stage=VqvaeSettings(ema_decay=0.99, kmeans_per_code=12.5, restart_after=200),
        data=SceneData(world="varied", restyled=0.3, phrasing="canonical"),
        optimization=Optimization(steps=6000, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=250,
        validate_every=500,
        validate_batches=8,
    )


def beit2() -> RunConfig:
    """Semantic tokens for the pilot of section 2.1: BEiT v2's, 64 codes an image (one a patch), of 8192.

    BEiT v2's: a frozen teacher's patch features are made again from L2-normalised codes of 32 numbers, trained by
    moving averages with a decay of 0.99 from a start by k-means, beta 1. Ours: the teacher, which is the image encoder
    that SEED's codes are made on too; the sizes; the convolutions before the encoder; and the restarts of `stage2`,
    whose steps, batch, rate and data it has too.
    """
    return RunConfig(
        recipe="mini.beit2",
        stage=VqkdSettings(teacher="mini", kmeans_per_code=12.5, restart_after=200),
        data=SceneData(world="varied", restyled=0.3, phrasing="canonical"),
        optimization=Optimization(steps=6000, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=250,
        validate_every=500,
        validate_batches=8,
    )


def gill() -> RunConfig:
    """The GILL row of Table 2: eight learned image tokens of the frozen OPT, mapped to the diffusion model's features.

    GILL's: image tokens after the caption, the frozen LM's states at them, a transformer with 77 learned queries that
    attend to them, squared error to the text encoder's features, captions alone. Ours: the mapper's sizes, the start of
    its output at the mean text feature, as in `stage2`, whose steps, batch and rate it has too; and that GILL's losses
    for retrieval, for captions of pictures and for when to draw are left out. Captions are in their canonical
    wording, as those that the evaluation draws are.
    """
    return RunConfig(
        recipe="mini.gill",
        stage=GillSettings(base="mini", image_decoder="mini", width=256, layers=2, mean_feature_bias=True),
        data=SceneData(world="varied", phrasing="canonical"),
        optimization=Optimization(steps=6000, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=250,
        validate_every=500,
        validate_batches=8,
    )
