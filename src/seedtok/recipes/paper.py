"""Recipes of the paper's size: what Table 1 to 3's models were trained by, as far as it was published.

They start from published weights under `weights/`, which `seedtok convert` makes (Stable Diffusion and OPT are used as
they are published), and from shards and codes that `seedtok data` and `seedtok tokenize` write. A field is marked
"paper", "successor" (published with the paper's successor, "SEED-2", or its code) or "ours". `seedtok plan RECIPE` says
what each costs.

    seedtok convert blip2-itm-vit-g --out weights/blip2-itm-vit-g
    seedtok train paper.stage1 --out runs/paper/stage1      # docs/full_size.md has all of it, on many machines
"""

from pathlib import Path

from seedtok.stages.autoregression import AutoregressionSettings
from seedtok.stages.contrastive import ContrastiveSettings
from seedtok.stages.quantization import QuantizationSettings
from seedtok.training.config import Data, Optimization, RunConfig


def stage1() -> RunConfig:
    """Stage I at full size: the Causal Q-Former, from BLIP-2's (section 2.2.1).

    64 GPUs of 32 GB. Expected: R@mean 93.7 on Flickr30K, 80.7 on COCO (Table 1, SEED embedding).
    """
    return RunConfig(
        recipe="paper.stage1",
        stage=ContrastiveSettings(
            start=Path("weights/blip2-itm-vit-g"),  # paper
            causal=True,  # paper
            dropout=0.1,  # paper's code
            label_smoothing=0.1,  # paper's code
        ),
        data=Data(
            shards=Path("shards"),  # paper: CC3M, Unsplash and COCO, 5M pairs
            validation=0.001,  # ours: 5,000 pictures, as many as COCO's test set has
            size=224,  # paper
            crop=0.5,  # successor
            flip=True,  # successor
            workers=8,  # ours
        ),
        optimization=_tokenizer_optimization(
            steps=24_400,  # ours: 20 epochs of 5M pairs
            batch_size=64,  # successor: 4,096 on 64 GPUs
            lr=3e-5,  # successor
        ),
        precision="fp16",  # successor
        frozen_precision="float16",  # successor: the ViT
        validate_every=2000,
        checkpoint_every=1000,
    )


def stage2() -> RunConfig:
    """Stage II at full size: codebook, decoders and Reverse Q-Former (section 2.2.2).

    The codebook starts from k-means over 524,288 encoder outputs, and codes that fall out of use start again: from the
    published start, `paper.stage2_published`, the mini size used 221 of its 8192 codes.

    64 GPUs of 32 GB. Expected: R@mean 91.7 and 77.4 (Table 1, SEED code); CLIP similarity 68.23 and 65.22 (Table 2).
    """
    return RunConfig(
        recipe="paper.stage2",
        stage=QuantizationSettings(
            embedder=Path("runs/paper/stage1/final"),
            image_decoder=Path("weights/stable-diffusion-v1-4"),  # paper
            codebook_size=8192,  # paper
            codebook_dim=32,  # paper
            decoder_layers=4,  # paper
            reverse_layers=4,  # paper
            kmeans_per_code=64,  # ours: from the published start, most codes are never used
            restart_after=100,  # ours
            dropout=0.1,  # paper's code
            vq_weight=5.0,  # successor
            embedding_weight=2.0,  # successor
            text_weight=0.5,  # successor
            sample_steps=50,  # paper's code
            guidance_scale=7.5,  # paper's code
        ),
        data=stage1().data,
        optimization=_tokenizer_optimization(
            steps=6100,  # ours: 20 epochs of 5M pairs
            batch_size=256,  # successor: 16,384 on 64 GPUs
            lr=1e-4,  # successor
        ),
        precision="fp16",  # successor
        frozen_precision="float16",  # ours
        validate_every=1000,
        checkpoint_every=500,
    )


def stage2_published() -> RunConfig:
    """Stage II at full size with the codebook started as it was published: uniform in +-1/8192, no code started again.

    The training warns when the codebook collapses.
    """
    run = stage2()
    stage = run.stage.model_copy(update={"kmeans_per_code": 0.0, "restart_after": None})  # paper's code
    return run.model_copy(update={"recipe": "paper.stage2_published", "stage": stage})


def _tokenizer_optimization(steps: int, batch_size: int, lr: float) -> Optimization:
    return Optimization(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        min_lr=lr / 10,  # successor, as what follows
        warmup_steps=2000,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        max_grad_norm=None,  # ours: none is published
    )


def stage3a() -> RunConfig:
    """Stage IIIa at full size: OPT-2.7B learns to caption codes (section 3.1).

    64 GPUs of 32 GB. First, for each source:
    `seedtok tokenize shards/coco --out codes/coco --model runs/paper/stage2/final`.
    """
    return RunConfig(
        recipe="paper.stage3a",
        stage=AutoregressionSettings(
            base="facebook/opt-2.7b",  # paper
            tokenizer=Path("runs/paper/stage2/final"),
            rank=16,  # successor, as the next two
            alpha=32,
            dropout=0.05,
            row=512,  # ours
        ),
        data=Data(
            codes=Path("codes"),
            validation=0.001,  # ours: the pictures that the tokenizer was validated on
        ),
        optimization=Optimization(
            steps=12_200,  # ours: 10 epochs of 5M pairs
            batch_size=64,  # ours
            lr=1e-4,  # ours
            min_lr=1e-5,  # ours
            warmup_steps=1000,  # ours
            weight_decay=0.05,  # ours
        ),
        precision="fp16",  # ours
        frozen_precision="float16",  # ours
        validate_every=1000,
        checkpoint_every=500,
    )


def stage3b() -> RunConfig:
    """Stage IIIb at full size: captioning and drawing jointly, from IIIa (section 3.1).

    64 GPUs of 32 GB. Expected: CIDEr 119.0 on COCO, VQAv2 42.8 (Table 3).
    """
    first = stage3a()
    stage = first.stage.model_copy(
        update={
            "start": Path("runs/paper/stage3a/final"),  # paper
            "drawing": 0.5,  # paper: both; the share is ours
        }
    )
    return first.model_copy(update={"recipe": "paper.stage3b", "stage": stage})
