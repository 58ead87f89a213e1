"""Recipes of a fine-tuning: the three stages, from trained weights, on one's own pictures mixed with scenes.

Ours, all values: the paper trains from nothing on millions of pictures. What a run starts from, its data and its steps
are set by `finetuning.run`. The codebook keeps its vectors, so that the language model goes on from what it can.
"""

from pathlib import Path

from seedtok.mini.world.source import SceneData
from seedtok.stages.autoregression import AutoregressionSettings
from seedtok.stages.contrastive import ContrastiveSettings
from seedtok.stages.quantization import QuantizationSettings
from seedtok.training.config import Optimization, RunConfig

NEVER = 10**9  # steps: the numbers that matter are measured before and after


def stage1() -> RunConfig:
    """Stage I from the tokenizer's own Q-Former; the image encoder learns too, since it has not seen such pictures."""
    return RunConfig(
        recipe="finetuning.stage1",
        stage=ContrastiveSettings(train_vision=True, caption_weight=1.0, temperature_bounds=(0.01, 0.5)),
        data=SceneData(crop=0.4),  # else a few hundred pictures are learnt by heart
        optimization=Optimization(steps=1, batch_size=48, lr=4e-4, min_lr=1e-6, warmup_steps=20),
        log_every=10,
        checkpoint_every=50,
        validate_every=NEVER,
        validate_batches=2,
    )


def stage2() -> RunConfig:
    """Stage II from the tokenizer's own decoders, with its codebook as it is."""
    return RunConfig(
        recipe="finetuning.stage2",
        stage=QuantizationSettings(embedder=Path(), image_decoder="mini", train_codebook=False, usage_warning=None),
        data=SceneData(phrasing="canonical"),
        optimization=Optimization(steps=1, batch_size=32, lr=5e-4, min_lr=1e-6, warmup_steps=20),
        log_every=10,
        checkpoint_every=50,
        validate_every=NEVER,
        validate_batches=2,
    )


def stage3() -> RunConfig:
    """Stage III from the language model's own adapter: captions, and drawings and questions beside them."""
    return RunConfig(
        recipe="finetuning.stage3",
        stage=AutoregressionSettings(
            base="mini", tokenizer="mini", row=128, drawing=0.2, asking=0.1, code_weight=0.3, neighbour_head=True
        ),
        data=SceneData(crop=0.6),
        optimization=Optimization(steps=1, batch_size=32, lr=1e-3, min_lr=1e-6, warmup_steps=20),
        log_every=10,
        checkpoint_every=50,
        validate_every=NEVER,
        validate_batches=2,
    )
