"""Recipes of the paper's own stages in mini size: the Q-Formers, the tokenizer, SEED-OPT."""

from pathlib import Path

from seedtok.mini.naming import NamingSettings
from seedtok.mini.stages.contrastive import MiniContrastiveSettings
from seedtok.mini.world.source import SceneData
from seedtok.stages.autoregression import AutoregressionSettings
from seedtok.stages.quantization import QuantizationSettings
from seedtok.training.config import Optimization, RunConfig


def bidirectional() -> RunConfig:
    """The BLIP-2-style Q-Former: bidirectional, contrast on the best of its 32 queries.

    R@mean 53.3 among 1,024 captions of which fours differ in one thing, place or colour.
    """
    return RunConfig(
        recipe="mini.bidirectional",
        stage=MiniContrastiveSettings(
            clip="mini", causal=False, caption_weight=1.0, positions=True, temperature_bounds=(0.01, 0.5)
        ),
        data=SceneData(world="varied", restyled=0.3, group=4),
        optimization=Optimization(steps=1200, batch_size=64, lr=5e-4, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=200,
        validate_every=200,
        validate_batches=16,
    )


def stage1() -> RunConfig:
    """Stage I: the Causal Q-Former, from the bidirectional one, by contrast on its final embedding (section 2.2.1).

    R@mean 85.0 among the same captions.
    """
    return RunConfig(
        recipe="mini.stage1",
        stage=MiniContrastiveSettings(
            start=Path("runs/bidirectional/final"),
            causal=True,
            caption_weight=1.0,
            auxiliary=NamingSettings(weight=0.3, noise=0.3),
            positions=True,
            temperature_bounds=(0.01, 0.5),
        ),
        data=SceneData(world="varied", restyled=0.3, group=4),
        optimization=Optimization(steps=1200, batch_size=64, lr=5e-4, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=200,
        validate_every=200,
        validate_batches=16,
    )


def stage2(stage1: Path | None = None) -> RunConfig:
    """Stage II: codebook, code decoder and Reverse Q-Former, on stage I's frozen Q-Former.

    Text loss 0.030, cosine loss 0.034; 5,100 codes in use in 512 pictures.
    """
    return RunConfig(
        recipe="mini.stage2",
        stage=QuantizationSettings(
            embedder=stage1 or Path("runs/stage1/final"),
            image_decoder="mini",
            decoder_layers=2,
            reverse_layers=3,
            kmeans_per_code=12.5,
            scale_decode_head=True,
            mean_feature_bias=True,
            position_std=1.0,
            ema_decay=0.99,
            restart_after=200,
        ),
        data=SceneData(world="varied", restyled=0.3, phrasing="canonical"),
        optimization=Optimization(steps=6000, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=150,
        validate_every=400,
        validate_batches=16,
    )


def stage3a() -> RunConfig:
    """Stage IIIa: image to text alone (section 3.1).

    Caption loss 0.330, of which about 0.3 is the choice of wording.
    """
    return RunConfig(
        recipe="mini.stage3a",
        stage=AutoregressionSettings(
            base="mini", tokenizer="mini", replay=0.2, row=128, rank=96, alpha=192, dropout=0.0, neighbour_head=True,
        ),
        data=SceneData(world="varied"),
        optimization=Optimization(steps=1200, batch_size=32, lr=1e-3, min_lr=1e-5, warmup_steps=100),
        checkpoint_every=200,
        validate_every=500,
        validate_batches=4,
    )  # fmt: skip


def stage3b() -> RunConfig:
    """Stage IIIb: image to text and text to image jointly, from IIIa (section 3.1).

    Caption loss 0.308, that of codes 2.24; two hours, 31 samples a second.
    """
    start = stage3a()
    update = {"start": Path("runs/stage3a/final"), "drawing": 0.4, "code_weight": 0.3}
    stage = start.stage.model_copy(update=update)
    optimization = start.optimization.model_copy(update={"steps": 6500})
    return start.model_copy(update={"recipe": "mini.stage3b", "stage": stage, "optimization": optimization})


def instructed() -> RunConfig:
    """Questions beside captions and drawings, from IIIb: ours, reported apart from the paper's recipe.

    Up to six questions about a picture in a sample; half of these samples ask for yes or no alone. Two hours, 17
    samples a second on a core without bfloat16 instructions.
    """
    joint = stage3b()
    update = {"start": Path("runs/stage3b/final"), "drawing": 0.2, "asking": 0.4, "questions": 6, "replay": 0.0}
    stage = joint.stage.model_copy(update=update)
    optimization = joint.optimization.model_copy(update={"steps": 4000, "lr": 7e-4})
    return joint.model_copy(update={"recipe": "mini.instructed", "stage": stage, "optimization": optimization})
