"""Tiny stand-ins for what publishers give: data sets in their formats, random weights in transformers' folders."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForImageTextRetrieval,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    CLIPTextConfig,
    CLIPTextModel,
    OPTConfig,
    OPTForCausalLM,
)

from seedtok.mini.text import bert_tokenizer, clip_tokenizer, lm_tokenizer

WIDTH = 32
COLORS = {"red": (200, 30, 30), "green": (30, 160, 30), "blue": (30, 30, 200), "white": (240, 240, 240)}


def photographs(folder: Path, names: list[str]) -> list[str]:
    """JPEGs of one colour each, with noise and of different sizes; returns their colours."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(names))
    colors = []
    for i, name in enumerate(names):
        color = list(COLORS)[i % len(COLORS)]
        pixels = np.array(COLORS[color]) + rng.integers(-15, 16, (40 + i % 7, 50 + i % 5, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
        colors.append(color)
    return colors


def coco(folder: Path, count: int) -> None:
    """Karpathy's dataset_coco.json and its pictures: five captions each, "restval" beside "train", some to test on."""
    names = [f"COCO_val2014_{i:012}.jpg" for i in range(count)]
    colors = photographs(folder / "val2014", names)
    images = []
    for i, (name, color) in enumerate(zip(names, colors, strict=True)):
        raw = [f"A {color} square, seen {way}." for way in ("near", "far", "once", "twice", "again")]
        sentences = [
            {"raw": text, "imgid": i, "sentid": 5 * i + k, "tokens": text.split()} for k, text in enumerate(raw)
        ]
        split = ("test", "restval", "train", "train")[i % 4]
        images.append(
            {"filepath": "val2014", "filename": name, "imgid": i, "cocoid": 1000 + i, "split": split,
             "sentids": [s["sentid"] for s in sentences], "sentences": sentences}
        )  # fmt: skip
    (folder / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))


def cc3m(folder: Path, count: int) -> None:
    """Train_GCC-training.tsv and pictures named by its lines."""
    colors = photographs(folder / "images", [f"{i:09}.jpg" for i in range(count)])
    lines = [f"a {color} wall\thttp://example.com/{i}.jpg\n" for i, color in enumerate(colors)]
    (folder / "Train_GCC-training.tsv").write_text("".join(lines))


def blip2(folder: Path) -> None:
    """BLIP-2 for retrieval, as blip2-itm-vit-g: 32 queries, a text branch, projections."""
    words = bert_tokenizer()
    config = Blip2Config(
        vision_config=Blip2VisionConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=28
        ).to_dict(),
        qformer_config=Blip2QFormerConfig(
            hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=2,
            encoder_hidden_size=WIDTH, vocab_size=len(words), max_position_embeddings=64, use_qformer_text_input=True,
        ).to_dict(),
        num_query_tokens=32, image_text_hidden_size=16,
    )  # fmt: skip
    torch.manual_seed(0)
    Blip2ForImageTextRetrieval(config).save_pretrained(folder)
    words.save_pretrained(str(folder))


def stable_diffusion(folder: Path) -> None:
    """As Stable Diffusion v1.4, of 32 x 32 pixels: CLIP's text encoder of 77 tokens, AutoencoderKL, PNDM."""
    torch.manual_seed(1)
    words = clip_tokenizer(77)
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=77, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(WIDTH,), layers_per_block=1, norm_num_groups=8, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=WIDTH,
    )  # fmt: skip
    vae = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, latent_channels=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2)  # fmt: skip
    StableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text), tokenizer=words, unet=unet, safety_checker=None,
        scheduler=PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
            steps_offset=1),
        feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip


def opt(folder: Path) -> None:
    """An OPT with a tokenizer of its own."""
    torch.manual_seed(2)
    words = lm_tokenizer()
    OPTForCausalLM(
        OPTConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            word_embed_proj_dim=WIDTH,
            ffn_dim=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    ).save_pretrained(folder)
    words.init_kwargs.pop("known_words")  # which published tokenizers lack
    words.save_pretrained(str(folder))
