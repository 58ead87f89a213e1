"""The paper's models without their weights: to plan with, to test with, and to see that they fit.

Text tokenizers are given, and stand in for vocabularies that only a model hub has; the models' own vocabularies have
the paper's sizes.
"""

from dataclasses import dataclass
from typing import Any

from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerBase,
)

from seedtok.core.errors import ConfigError
from seedtok.lm.adapter import AdapterConfig, LoraSettings, VisualAdapter, add_lora
from seedtok.lm.checkpoint import Source
from seedtok.lm.model import JointLM
from seedtok.lm.seed_lm import SeedLM
from seedtok.stages.autoregression import AutoregressionSettings, AutoregressionStage
from seedtok.stages.contrastive import ContrastiveSettings, ContrastiveStage
from seedtok.stages.quantization import QuantizationSettings, QuantizationStage
from seedtok.tokenizer.causal_qformer import QFormerConfig
from seedtok.tokenizer.embedder import EmbedderConfig, ImageTextEmbedder
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.seed_config import SeedConfig
from seedtok.training.config import RunConfig
from seedtok.training.stage import Stage


@dataclass(frozen=True)
class TextTokenizers:
    """What each model cuts its texts into tokens by."""

    qformer: BertTokenizer
    diffusion: CLIPTokenizer  # of 77 tokens
    lm: PreTrainedTokenizerBase


def outline(config: RunConfig, words: TextTokenizers) -> Stage:
    """The stage of one of the paper's recipes with weights of no meaning; under `torch.device("meta")`, with none.

    Raises ConfigError for a stage that the paper has not.
    """
    settings = config.stage
    if isinstance(settings, ContrastiveSettings):
        return ContrastiveStage(settings, embedder(words.qformer, settings.causal, settings.dropout))
    if isinstance(settings, QuantizationSettings):
        return QuantizationStage(settings, embedder(words.qformer), image_decoder(words.diffusion))
    if isinstance(settings, AutoregressionSettings):
        lora = LoraSettings(settings.rank, settings.alpha, settings.dropout)
        return AutoregressionStage(settings, seed_lm(seed_tokenizer(words.qformer), words.lm, lora))
    raise ConfigError(f"{config.recipe} has a stage that the paper has not")


def embedder(words: BertTokenizer, causal: bool = True, dropout: float = 0.1) -> ImageTextEmbedder:
    """EVA-CLIP ViT-g and a BERT-base Q-Former with its text branch."""
    return ImageTextEmbedder(EmbedderConfig(qformer=QFormerConfig(causal=causal, dropout=dropout)), words)


def seed_tokenizer(words: BertTokenizer | None = None) -> SeedTokenizer:
    return SeedTokenizer(SeedConfig(), words)


def image_decoder(words: CLIPTokenizer) -> ImageDecoder:
    """Stable Diffusion v1.4."""
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        max_position_embeddings=77, projection_dim=768, bos_token_id=49406, eos_token_id=49407,
    )  # fmt: skip
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    sizes: dict[str, Any] = {  # whose types diffusers declares too narrowly
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
    }  # fmt: skip
    vae = AutoencoderKL(**sizes, layers_per_block=2, latent_channels=4, sample_size=512)
    scheduler: Any = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return ImageDecoder(
        StableDiffusionPipeline(
            vae=vae, text_encoder=CLIPTextModel(text), tokenizer=words, unet=unet, scheduler=scheduler,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,  # type: ignore[arg-type]
        )
    )  # fmt: skip


def opt() -> OPTForCausalLM:
    """OPT-2.7B, frozen."""
    config = OPTConfig(
        vocab_size=50272, hidden_size=2560, word_embed_proj_dim=2560, ffn_dim=10240, num_hidden_layers=32,
        num_attention_heads=32, max_position_embeddings=2048, dropout=0.0,
    )  # fmt: skip
    return OPTForCausalLM(config).eval().requires_grad_(False)


def seed_lm(seed: SeedTokenizer, words: PreTrainedTokenizerBase, lora: LoraSettings) -> SeedLM:
    """OPT-2.7B with LoRA and visual layers."""
    sizes = AdapterConfig(text=50272, embedding=2560, hidden=2560)
    joint = JointLM(add_lora(opt(), lora), words, sizes.vocabulary, VisualAdapter(sizes))
    return SeedLM(joint, seed, Source("facebook/opt-2.7b"))
