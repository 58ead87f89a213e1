"""Tiny random checkpoints in the formats of the real ones, built once a session."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for a job that a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ["OMP_NUM_THREADS"] = "1"  # matrices are tiny here, and there may be a worker a core

from jaxtyping import install_import_hook

ROOMS = ("tokenizer", "lm", "training", "stages", "baselines", "evaluation", "weights", "mini")
install_import_hook([f"seedtok.{room}" for room in ROOMS], "beartype.beartype")  # shapes and types of every call

import pytest
import torch
from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel
from typer.testing import CliRunner

from reference import PATH, Reference
from seedtok.cli.app import app
from seedtok.mini.networks.patch_autoencoder import PatchAutoencoder
from seedtok.mini.text import bert_tokenizer, clip_tokenizer
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.embedder import EmbedderConfig
from seedtok.tokenizer.reverse_qformer import ReverseQFormerConfig
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.tokenizer.vision import VisionConfig
from seedtok.training.loop import train
from tiny_lms import bases, model, seed, seed_lm, tiny_lm  # noqa: F401  (fixtures)
from tiny_runs import TINY, tiny

WIDTH, LAYERS, HEADS, TEXT_TOKENS = 32, 2, 2, 77
BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--slow-minutes",
        type=float,
        metavar="M",
        help="skip the slow tests that would begin more than M minutes after the start",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    minutes = item.config.getoption("--slow-minutes")
    if minutes is not None and item.get_closest_marker("slow") and time.monotonic() - BEGAN > 60 * minutes:
        pytest.skip(f"left out: slow, and {minutes:g} minutes were over")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests of the runs of all mini recipes are slow: making them takes half a minute."""
    if "runs" in getattr(item, "fixturenames", ()):
        item.add_marker("slow")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: what is left for the end, when some workers have nothing more to do, is quick."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def _new_accelerator():
    """Lets the next test choose another precision."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def hangups() -> Iterator[None]:
    """New processes do not ignore SIGHUP, as they do in what `nohup` runs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(scope="session")
def tiny_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a `StableDiffusionPipeline` with 128 x 128 pictures, that draws in milliseconds."""
    torch.manual_seed(0)
    tokenizer = clip_tokenizer(TEXT_TOKENS)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=TEXT_TOKENS,
        hidden_act="gelu",
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(WIDTH,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        norm_num_groups=8,
        attention_head_dim=HEADS,
        cross_attention_dim=WIDTH,
    )
    pipeline = StableDiffusionPipeline(
        vae=PatchAutoencoder(latent_channels=4, width=WIDTH, layers=1, heads=HEADS),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("diffusion") / "diffusion"
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory, tiny_diffusion: Path) -> Path:
    """A folder of a random `SeedTokenizer` with 32 codes of 8192, over `tiny_diffusion`."""
    torch.manual_seed(0)
    text_tokenizer = bert_tokenizer()
    vision = VisionConfig(image_size=32, patch_size=16, width=WIDTH, layers=LAYERS, heads=HEADS, mlp_width=2 * WIDTH)
    qformer = QFormerConfig(
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        mlp_width=2 * WIDTH,
        encoder_width=WIDTH,
        vocab_size=len(text_tokenizer),
        max_text_positions=64,
        dropout=0.0,
    )
    reverse = ReverseQFormerConfig(
        queries=TEXT_TOKENS,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        mlp_width=2 * WIDTH,
        encoder_width=WIDTH,
        output_width=WIDTH,
    )
    config = SeedConfig(
        embedder=EmbedderConfig(vision, qformer, projection=16),
        codebook=CodebookConfig(8192, 8),
        code_decoder=CodeDecoderConfig(width=WIDTH, layers=LAYERS, heads=HEADS),
        reverse_qformer=reverse,
        image_decoder=str(tiny_diffusion),
        num_inference_steps=2,
        guidance_scale=2.0,
    )
    folder = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    tokenizer = SeedTokenizer(config, text_tokenizer)
    for weights in (*tokenizer.embedder.vision.parameters(), *tokenizer.embedder.qformer.parameters()):
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, std=0.3)  # so that different pictures have different codes
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def cli():
    """Runs a command; gives (exit code, stdout, stderr)."""

    def run(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [str(a) for a in arguments], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder of one run of every recipe, each on the results of the ones before it."""
    out = tmp_path_factory.mktemp("runs")
    for name in TINY:
        train(tiny(name, out), out / name)
    return out


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference(PATH)
