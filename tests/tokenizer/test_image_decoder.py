"""Image decoders other than the mini one, and the classes that a pipeline may name."""

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    LCMScheduler,
    StableDiffusionPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from safetensors.torch import load_file, save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from seedtok.core.errors import CheckpointError, ConfigError, InputError
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer

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
    with pytest.raises(ConfigError, match="draws from image embeddings"):
        decoder.text_features(["a fox"])


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


# ---------------------------------------------------------------- few steps


@pytest.fixture
def lcm_lora(tiny_diffusion, tmp_path) -> tuple[Path, dict[str, torch.Tensor]]:
    """An LCM-LoRA as they are published: pairs of matrices in kohya's names; and what they add to the UNet."""
    torch.manual_seed(1)
    unet = UNet2DConditionModel.from_pretrained(tiny_diffusion, subfolder="unet")
    tensors, added = {}, {}
    for name, module in unet.named_modules():
        if not name.endswith(("to_q", "to_v", "proj_in", "conv1")):
            continue
        weight, rank, alpha = module.weight, 2, 3.0
        down, up = torch.randn(rank, *weight.shape[1:]) * 0.1, torch.randn(len(weight), rank, *[1] * (weight.ndim - 2))
        key = "lora_unet_" + name.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(alpha)}
        added[f"{name}.weight"] = alpha / rank * torch.einsum("or,ri...->oi...", up.flatten(1), down)
    (tmp_path / "lora").mkdir()
    save_file(tensors, tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    return tmp_path / "lora", added


def test_an_lcm_lora_is_fused_and_draws_in_few_steps(tiny_diffusion, lcm_lora):
    folder, added = lcm_lora
    decoder = ImageDecoder.from_pretrained(tiny_diffusion)
    before = {name: tensor.clone() for name, tensor in decoder.pipeline.unet.state_dict().items()}
    assert decoder.few_steps is None
    decoder.add_lcm_lora(folder)
    assert decoder.few_steps == 4
    after = decoder.pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert len(added) >= 4
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor + added.get(name, torch.zeros(())), rtol=1e-4, atol=1e-5)
    embeddings = decoder.text_features(["a cat"])
    drawn = decoder.draw(embeddings, 4, 1.0, [torch.Generator().manual_seed(0)])
    assert drawn[0].size == (128, 128)
    with pytest.raises(InputError, match="expected 1 to 50 steps"):
        decoder.draw(embeddings, 60, 1.0)
    with pytest.raises(ConfigError, match="draws in few steps already"):
        decoder.add_lcm_lora(folder)


def test_beside_a_decoder_the_same_draws_in_few_steps(tiny_diffusion, lcm_lora):
    decoder = ImageDecoder.from_pretrained(tiny_diffusion)
    before = {name: tensor.clone() for name, tensor in decoder.pipeline.unet.state_dict().items()}
    other = decoder.with_lcm_lora(lcm_lora[0])
    assert (decoder.few_steps, other.few_steps) == (None, 4)
    assert other.pipeline.vae is decoder.pipeline.vae
    assert all(torch.equal(tensor, before[name]) for name, tensor in decoder.pipeline.unet.state_dict().items())
    alone = ImageDecoder.from_pretrained(tiny_diffusion)
    alone.add_lcm_lora(lcm_lora[0])
    drawn = [
        each.draw(each.text_features(["a cat"]), 4, 1.0, [torch.Generator().manual_seed(0)])[0].tobytes()
        for each in (other, alone)
    ]
    assert drawn[0] == drawn[1]


def test_a_saved_tokenizer_draws_without_the_lora_that_is_not_saved(tiny_tokenizer, tiny_diffusion, tmp_path, lcm_lora):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    own = (tokenizer.config.num_inference_steps, tokenizer.config.guidance_scale)
    tokenizer.draw_by(lcm_lora=lcm_lora[0])
    assert (tokenizer.config.num_inference_steps, tokenizer.config.guidance_scale) == (4, 1.5) != own
    tokenizer.save_pretrained(tmp_path / "saved")
    again = SeedTokenizer.from_pretrained(tmp_path / "saved").config
    assert (again.num_inference_steps, again.guidance_scale) == own
    assert tokenizer.unchanged_source == str(tiny_tokenizer)
    tokenizer.draw_by(tiny_diffusion)
    assert (tokenizer.config.num_inference_steps, tokenizer.config.guidance_scale) == own


def test_the_first_drawing_draws_no_random_numbers_and_leaves_a_decoder_for_any_mode(tiny_tokenizer):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    state = torch.get_rng_state()
    with torch.inference_mode():
        tokenizer.decode(torch.arange(32), 1, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(weight.is_inference() for weight in tokenizer.image_decoder.pipeline.unet.parameters())


def test_threads_draw_what_one_does(tiny_tokenizer, lcm_lora):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    tokenizer.draw_by(lcm_lora=lcm_lora[0])

    def drawn(number: int) -> bytes:
        codes, noise = torch.arange(32) + number, torch.Generator().manual_seed(number)
        return tokenizer.decode(codes, generator=noise)[0].tobytes()

    expected = [drawn(number) for number in range(8)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(drawn, range(8))) == expected


def test_what_is_no_lcm_lora_is_refused(tiny_diffusion, tmp_path, lcm_lora):
    decoder = ImageDecoder.from_pretrained(tiny_diffusion)
    tensors = load_file(lcm_lora[0] / "pytorch_lora_weights.safetensors")
    broken = {"nothing": {}, "text": {}, "other": {key: torch.zeros(3, 5) for key in tensors}}
    broken["text"] = {"lora_te_text_model_encoder_layers_9_mlp_fc1.lora_down.weight": torch.zeros(2, 8)}
    for name, wrong in broken.items():
        (tmp_path / name).mkdir()
        if wrong:
            save_file(wrong, tmp_path / name / "pytorch_lora_weights.safetensors")
        with pytest.raises(CheckpointError, match=r"cannot use .* as an LCM-LoRA: ") as caught:
            decoder.add_lcm_lora(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert decoder.few_steps is None


def test_commands_draw_by_another_decoder_and_by_an_lcm_lora(cli, tiny_tokenizer, tiny_diffusion, tmp_path, lcm_lora):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_diffusion, safety_checker=None)
    pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)
    pipeline.save_pretrained(tmp_path / "lcm")
    codes = " ".join(["5"] * 32)
    run = ("decode", "--codes", codes, "--model", tiny_tokenizer)
    pictures = {}
    for name, given in (
        ("plain", ()), ("lcm", ("--image-decoder", tmp_path / "lcm")), ("lora", ("--lcm-lora", lcm_lora[0])),
        ("four", ("--image-decoder", tmp_path / "lcm", "--steps", 4, "--guidance-scale", 1.5)),
    ):  # fmt: skip
        assert cli(*run, "--out", tmp_path / name, *given)[0] == 0
        (file,) = (tmp_path / name).glob("*.png")
        pictures[name] = file.read_bytes()
    assert pictures["lcm"] == pictures["four"]
    assert len(set(pictures.values())) == 3
    measured = ("evaluate", "generation", "--model", tiny_tokenizer, "--count", 2, "--json", "--lcm-lora", lcm_lora[0])
    found = json.loads(cli(*measured)[1])["clip_similarity"]
    assert set(found) == {"caption", "seed", "caption_few_steps", "seed_few_steps"}
    code, _, err = cli(*run, "--out", tmp_path / "no", "--lcm-lora", tmp_path)
    assert (code, "as an LCM-LoRA" in " ".join(err.split())) == (2, True)
