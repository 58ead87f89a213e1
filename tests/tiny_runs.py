"""Every mini recipe, so small that it trains in a second."""

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

from seedtok.data.batches import Batch, Stride
from seedtok.mini import recipes as mini
from seedtok.training.config import RunConfig, with_overrides

RUN = (
    "optimization.steps=3", "optimization.batch_size=4", "optimization.warmup_steps=1", "log_every=1",
    "validate_every=2", "validate_batches=1", "checkpoint_every=2", "data.size=64",
)  # fmt: skip
QFORMER = ("stage.width=32", "stage.layers=2", "stage.heads=2", "stage.projection=16")
TINY: dict[str, tuple[str, ...]] = {
    "vision": (
        "stage.image_size=64", "stage.stem=[8,16,16]", "stage.width=32", "stage.layers=1", "stage.head_width=16",
    ),
    "text": ("stage.width=32", "stage.layers=1", "stage.head_width=16"),
    "autoencoder": (
        "stage.image_size=64", "stage.patch_size=8", "stage.width=64", "stage.layers=1", "stage.latent_channels=4",
    ),
    "diffusion": (
        "stage.clip=RUNS/text/final", "stage.autoencoder=RUNS/autoencoder/final", "stage.widths=[32]",
        "stage.head_width=16", "stage.sample_steps=2",
    ),
    "bidirectional": ("stage.clip=RUNS/vision/final", *QFORMER),
    "stage1": ("stage.clip=RUNS/vision/final", "stage.start=RUNS/bidirectional/final", *QFORMER),
    "stage2": (
        "stage.embedder=RUNS/stage1/final", "stage.image_decoder=RUNS/diffusion/final", "stage.codebook_size=64",
        "stage.codebook_dim=8", "stage.kmeans_per_code=4", "stage.decoder_layers=1", "stage.reverse_layers=1",
        "stage.sample_steps=2",
    ),
    "lcm": ("stage.teacher=RUNS/diffusion/final", "stage.tokenizer=RUNS/stage2/final"),
    "judge": ("data.size=128", "stage.image_decoder=none"),
    "opt": ("stage.width=32", "stage.layers=1", "stage.heads=2"),
    "stage3a": ("stage.base=RUNS/opt/final", "stage.tokenizer=RUNS/stage2/final", "stage.rank=4"),
    "stage3b": (
        "stage.base=RUNS/opt/final", "stage.tokenizer=RUNS/stage2/final", "stage.start=RUNS/stage3a/final",
        "stage.rank=4",
    ),
    "instructed": (
        "stage.base=RUNS/opt/final", "stage.tokenizer=RUNS/stage2/final", "stage.start=RUNS/stage3a/final",
        "stage.rank=4",
    ),
    "blip2": ("stage.base=RUNS/opt/final", "stage.qformer=RUNS/bidirectional/final"),
    "reader": ("stage.base=RUNS/opt/final", "stage.tokens=RUNS/stage2/final"),
    "vqvae": (
        "stage.image_size=64", "stage.widths=[16,16,16,16]", "stage.groups=4", "stage.codebook_size=64",
        "stage.codebook_dim=8", "stage.kmeans_per_code=2",
    ),
    "beit2": (
        "stage.teacher=RUNS/vision/final", "stage.width=16", "stage.layers=1", "stage.heads=2", "stage.stem=[8,16,16]",
        "stage.codebook_size=64", "stage.codebook_dim=8", "stage.kmeans_per_code=2",
    ),
    "gill": (
        "stage.base=RUNS/opt/final", "stage.image_decoder=RUNS/diffusion/final", "stage.width=32", "stage.layers=1",
        "stage.heads=2", "stage.sample_steps=2",
    ),
    "eval_clip": (
        "stage.image_size=64", "stage.stem=[]", "stage.vision_width=32", "stage.vision_layers=1",
        "stage.text_width=32", "stage.text_layers=1", "stage.head_width=16", "stage.projection=16",
    ),
}  # fmt: skip


def recipes() -> dict[str, Callable[[], RunConfig]]:
    functions = inspect.getmembers(mini, inspect.isfunction)
    return {name: f for name, f in functions if f.__module__.startswith(mini.__name__)}


def tiny(name: str, runs: Path, *overrides: str) -> RunConfig:
    own = (o.replace("RUNS", str(runs)) for o in TINY[name])
    return with_overrides(recipes()[name](), [*RUN, *own, *overrides])


def training_batches(config: RunConfig, start: int = 0, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """What a rank trains on, from sample `start` on."""
    return config.data.batches(config.optimization.batch_size, config.seed, Stride(start, rank, world))


def first_batches(config: RunConfig, count: int) -> Iterator[Batch]:
    return config.data.first(config.optimization.batch_size, config.seed, count)
