"""Recipes of what the paper takes off the shelf, in mini size, and of what its evaluation needs."""

from seedtok.mini.stages.autoencoder import AutoencoderSettings
from seedtok.mini.stages.diffusion import DiffusionSettings
from seedtok.mini.stages.eval_clip import EvalClipSettings
from seedtok.mini.stages.judge import JudgeSettings
from seedtok.mini.stages.language import LanguageSettings
from seedtok.mini.stages.lcm import LcmSettings
from seedtok.mini.stages.text import TextSettings
from seedtok.mini.stages.vision import VisionSettings
from seedtok.mini.world.source import SceneData
from seedtok.training.config import Optimization, RunConfig

STYLE = "fluent-flat"  # the hand that the mini diffusion model draws like


def vision() -> RunConfig:
    """The mini image encoder, in place of EVA-CLIP's: it names drawings by eight hands, also in crowded pictures.

    All things of 512 pictures right.
    """
    return RunConfig(
        recipe="mini.vision",
        stage=VisionSettings(),
        data=SceneData(world="varied", crowded=0.6, restyled=0.6, phrasing="canonical"),
        optimization=Optimization(
            steps=16_000,
            batch_size=32,
            lr=1e-3,
            min_lr=1e-5,
            warmup_steps=200,
            weight_decay=0.05,
            betas=(0.9, 0.98),
        ),
        checkpoint_every=500,
        validate_every=1000,
        validate_batches=16,
    )


def text() -> RunConfig:
    """The mini text encoder, in place of that of CLIP ViT-L/14: what the diffusion model is conditioned on.

    From its features a probe names all of 97.7 % of captions.
    """
    return RunConfig(
        recipe="mini.text",
        stage=TextSettings(),
        data=SceneData(world="varied"),
        optimization=Optimization(steps=4000, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=500,
        validate_every=500,
        validate_batches=16,
    )


def autoencoder() -> RunConfig:
    """The autoencoder of the mini diffusion model: 128 x 128 pixels to 8 x 8 latents of 48 channels; 28.3 dB."""
    return RunConfig(
        recipe="mini.autoencoder",
        stage=AutoencoderSettings(),
        data=SceneData(world="varied", phrasing="canonical"),
        optimization=Optimization(steps=8000, batch_size=16, lr=1e-3, min_lr=1e-5, warmup_steps=100, weight_decay=0.0),
        checkpoint_every=250,
        validate_every=250,
        validate_batches=8,
    )


def diffusion() -> RunConfig:
    """The mini latent diffusion model, on a text encoder and an autoencoder; 28 samples a second.

    It draws in the style of one artist, who draws upright, of one size, on whole cells, as any frozen diffusion model
    draws in its own. The images that a tokenizer sees are of all.
    """
    return RunConfig(
        recipe="mini.diffusion",
        stage=DiffusionSettings(clip="mini", autoencoder="mini", naming=0.1),
        data=SceneData(world="varied", hands=(STYLE,), tidy=True),
        optimization=Optimization(
            steps=30_000,
            batch_size=8,
            lr=5e-4,
            min_lr=2e-5,
            warmup_steps=200,
            weight_decay=0.01,
            ema_decay=0.999,
        ),
        log_every=50,
        checkpoint_every=500,
        validate_every=1000,
        validate_batches=8,
    )


def lcm() -> RunConfig:
    """The mini diffusion model in 4 steps: latent consistency distillation (Luo et al. 2023) from that of 1,000.

    From captions and, every other picture, from its codes. A step is two of the teacher, one of the target and a
    trained one of the student. 17 samples a second on a core with bfloat16 instructions, 17 minutes; 5 on one without.
    The LoRA of it that is shipped draws as well.
    """
    return RunConfig(
        recipe="mini.lcm",
        stage=LcmSettings(teacher="mini", tokenizer="mini"),
        data=SceneData(world="varied", hands=(STYLE,), tidy=True),
        optimization=Optimization(
            steps=2000, batch_size=8, lr=1e-4, min_lr=1e-6, warmup_steps=200, weight_decay=0.0, ema_decay=0.99
        ),
        log_every=50,
        checkpoint_every=500,
        validate_every=500,
        validate_batches=8,
    )


def opt() -> RunConfig:
    """The mini OPT, pretrained on captions, lists, questions and answers as text alone.

    50 minutes, 24 texts a second; loss 0.649 on texts that it has not seen.
    """
    return RunConfig(
        recipe="mini.opt",
        stage=LanguageSettings(),
        data=SceneData(world="varied"),
        optimization=Optimization(steps=4500, batch_size=16, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=250,
        validate_every=500,
        validate_batches=8,
    )


def judge() -> RunConfig:
    """The scene judge of the evaluation, a quarter of whose pictures the diffusion model has drawn anew."""
    return RunConfig(
        recipe="mini.judge",
        stage=JudgeSettings(image_decoder="mini"),
        data=SceneData(world="varied", crowded=0.3, restyled=0.3, phrasing="canonical"),
        optimization=Optimization(steps=8000, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=250,
        validate_every=250,
        validate_batches=8,
    )


def eval_clip() -> RunConfig:
    """The evaluation's CLIP: smaller than the tokenizer's image encoder, of another seed, and trained apart from it.

    50 to 60 samples a second on a core without bfloat16 instructions, 90 minutes; R@1 among 512 validation scenes 82 %.
    """
    return RunConfig(
        recipe="mini.eval_clip",
        stage=EvalClipSettings(),
        data=SceneData(world="varied", crowded=0.3, restyled=0.6, group=2),
        optimization=Optimization(
            steps=9000,
            batch_size=32,
            lr=1e-3,
            min_lr=1e-5,
            warmup_steps=200,
            weight_decay=0.05,
            betas=(0.9, 0.98),
        ),
        seed=1000,
        checkpoint_every=500,
        validate_every=1000,
        validate_batches=16,
    )
