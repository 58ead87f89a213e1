"""Image decoders other than the mini one, and the classes that a pipeline may name."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from seedtok.core.errors import CheckpointError
from seedtok.tokenizer.image_decoder import ImageDecoder

WIDTH = 12  # of an image embedding


@pytest.fixture
def unclip(tiny_diffusion, tmp_path):
    torch.manual_seed(0)
    text = StableDiffusionPipeline.from_pretrained(tiny_diffusion, safety_checker=None)
    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4,
        projection_dim=WIDTH,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8,), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), norm_num_groups=4, attention_head_dim=2,
        cross_attention_dim=text.text_encoder.config.hidden_size, class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * WIDTH,
    )  # fmt: skip
    pipeline = StableUnCLIPImg2ImgPipeline(
        feature_extractor=CLIPImageProcessor(), image_encoder=CLIPVisionModelWithProjection(vision),
        image_normalizer=StableUnCLIPImageNormalizer(WIDTH), image_noising_scheduler=DDPMScheduler(),
        tokenizer=text.tokenizer, text_encoder=text.text_encoder, unet=unet, scheduler=DDIMScheduler(),
        vae=AutoencoderKL(block_out_channels=(8,), norm_num_groups=4),
    )  # fmt: skip
    pipeline.save_pretrained(tmp_path / "unclip")
    return tmp_path / "unclip"


def test_unclip_draws_from_image_embeddings(unclip):
    decoder = ImageDecoder.from_pretrained(unclip)
    embeddings = torch.randn(2, WIDTH)

    def draw(x: torch.Tensor) -> list[bytes]:
        drawn = decoder.draw(x, 2, 3.0, [torch.Generator().manual_seed(0) for _ in x])
        return [picture.tobytes() for picture in drawn]

    first = draw(embeddings)
    assert len(first) == 2
    assert draw(embeddings[:, None]) == first  # of a Reverse Q-Former with one query
    assert draw(embeddings.flip(0)) != first


def test_what_is_no_image_decoder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="cannot load an image decoder"):
        ImageDecoder.from_pretrained(tmp_path)


# ---------------------------------------------------------------- classes named by their module


def naming(tiny_diffusion: Path, folder: Path, module: object) -> Path:
    """A copy of a pipeline whose autoencoder's class is in another module."""
    shutil.copytree(tiny_diffusion, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["vae"][0] = module
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def forgotten(monkeypatch):
    """Modules of the mini networks as if nothing had imported them."""
    for name in ("tokenizer.patch_autoencoder", "mini.networks.patch_autoencoder"):
        monkeypatch.setitem(sys.modules, f"seedtok.{name}", None)  # so that what is there now comes back
        monkeypatch.delitem(sys.modules, f"seedtok.{name}")


@pytest.mark.parametrize("module", ["seedtok.mini.networks.patch_autoencoder", "seedtok.tokenizer.patch_autoencoder"])
def test_classes_of_this_package_are_found_by_their_present_and_their_former_name(
    tiny_diffusion, tmp_path, forgotten, module
):
    decoder = ImageDecoder.from_pretrained(naming(tiny_diffusion, tmp_path / "copy", module))
    assert type(decoder.pipeline.vae).__module__ == "seedtok.mini.networks.patch_autoencoder"
    assert sum(p.numel() for p in decoder.pipeline.vae.parameters())


@pytest.mark.parametrize("installed", [False, True])
def test_no_other_module_is_imported_because_a_checkpoint_names_it(tiny_diffusion, tmp_path, monkeypatch, installed):
    folder = naming(tiny_diffusion, tmp_path / "copy", "stranger")
    code = tmp_path / "installed" if installed else folder / "vae"
    code.mkdir(exist_ok=True)
    (code / "stranger.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path / "installed")
    with pytest.raises(CheckpointError, match="vae is of a class in stranger; expected diffusers, "):
        ImageDecoder.from_pretrained(folder)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("module", ["json", "seedtok.nothing", "seedtok", "seedtokens.x", "seedtok.core.errors", 3, ""])
def test_modules_without_the_class_are_one_line(tiny_diffusion, tmp_path, module):
    with pytest.raises(CheckpointError) as caught:
        ImageDecoder.from_pretrained(naming(tiny_diffusion, tmp_path / "copy", module))
    assert str(caught.value).count("\n") == 0
