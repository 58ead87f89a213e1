"""What a language model reads of an image: codes against brute force, one interface, files."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from diffusers import VQModel
from safetensors.torch import save_file

from seedtok.baselines.image_vectors import CodeVectors, load_codes, save_vqvae
from seedtok.baselines.prefix_lm import PROJECTION_FILE, PrefixLM
from seedtok.baselines.vqkd import VqkdConfig, VqkdTokenizer
from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.data.batches import Batch
from seedtok.lm.adapter import LoraSettings
from seedtok.lm.prompts import CAPTION
from seedtok.stages.pixels import clip_normalize
from seedtok.stages.reading import ReadingSettings
from seedtok.stages.vqvae import VqvaeSettings
from seedtok.tokenizer.code_decoder import CodeDecoderConfig
from seedtok.tokenizer.codebook import CodebookConfig
from seedtok.tokenizer.vision import CLIP_MEAN, CLIP_STD, VisionConfig
from tiny_lms import with_random_lora


def vqvae(patch_size: int, channels: int | None = None) -> VQModel:
    """A VQ-VAE of 32 x 32 pixels, in patches, or of any number of channels."""
    channels = channels or 3 * patch_size**2
    model = VQModel(
        channels, channels, ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3, (8, 8, 8), norm_num_groups=4,
        latent_channels=6, vq_embed_dim=6, num_vq_embeddings=40, sample_size=32 // patch_size,
    )  # fmt: skip
    torch.nn.init.normal_(model.quantize.embedding.weight)
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiny_tokenizer) -> dict[str, Path]:
    """An image tokenizer of each kind, of 32 x 32 pixels."""
    torch.manual_seed(0)
    out = tmp_path_factory.mktemp("codes")
    save_vqvae(vqvae(patch_size=1), out / "vqvae")
    vision = VisionConfig(image_size=32, patch_size=8, width=16, layers=1, heads=2, mlp_width=32)
    codebook = CodebookConfig(40, 6, beta=1.0, legacy=False, normalize=True, ema_decay=0.99)
    sizes = VqkdConfig(vision, 12, codebook, CodeDecoderConfig(vision.patches, 16, 1, 2))
    VqkdTokenizer(sizes).save_pretrained(out / "beit2")
    return {"vqvae": out / "vqvae", "beit2": out / "beit2", "seed_codes": tiny_tokenizer}


@pytest.fixture(scope="module", params=["vqvae", "beit2", "seed_codes"])
def images(request, folders) -> CodeVectors:
    return load_codes(folders[request.param])


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32)


def test_a_folder_says_what_reads_it(folders, tmp_path):
    for name, folder in folders.items():
        assert load_codes(folder).row == name
    with pytest.raises(CheckpointError, match="no checkpoint that is known; expected a SEED tokenizer"):
        load_codes(tmp_path)


def test_vectors_are_those_of_codes(images, pixels):
    vectors, table = images(pixels), images.table().detach()
    assert vectors.shape == (3, images.count, images.width)
    distances = torch.cdist(vectors.flatten(0, 1), table)
    assert float(distances.amin(1).max()) < 1e-3
    torch.testing.assert_close(images(pixels[:1]), vectors[:1], rtol=1e-4, atol=1e-5)
    assert images.norm() == pytest.approx(float(table.norm(dim=-1).square().mean().sqrt()))


@pytest.mark.parametrize("size", [1, 2])
def test_vectors_of_a_vqvae_are_the_nearest_to_what_its_encoder_makes_of_the_picture(tmp_path, size):
    save_vqvae(vqvae(size), tmp_path / "vqvae")
    images, true = load_codes(tmp_path / "vqvae"), torch.rand(2, 3, 32, 32)
    assert (images.square.side, images.count) == (32, (32 // size // 4) ** 2)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    model = VQModel.from_pretrained(tmp_path / "vqvae").eval()
    channels = [true[:, c, y::size, x::size] for c in range(3) for y in range(size) for x in range(size)]
    with torch.no_grad():
        latents = model.encode(2 * torch.stack(channels, dim=1) - 1).latents.flatten(2).transpose(1, 2)
    table = model.quantize.embedding.weight.detach()
    expected = table[(latents[:, :, None] - table).square().sum(-1).argmin(-1)]
    torch.testing.assert_close(images((true - mean) / std), expected, rtol=1e-4, atol=1e-5)


def test_a_vqvae_of_other_channels_than_pixels_or_patches_of_them_is_refused(tmp_path):
    save_vqvae(vqvae(1, channels=4), tmp_path / "vqvae")
    with pytest.raises(CheckpointError, match="a VQ-VAE of 4 channels, not of pixels or square patches of them"):
        load_codes(tmp_path / "vqvae")


def test_what_a_vqvae_was_trained_to_read_is_what_is_read_of_its_folder(tmp_path):
    with pytest.raises(ConfigError, match="image_size=36 is no multiple of 8: patches of 4 pixels"):
        VqvaeSettings(image_size=36, widths=(8, 8), groups=4).build()
    stage = VqvaeSettings(image_size=32, widths=(8, 8), groups=4, codebook_size=40, codebook_dim=6).build().eval()
    stage.export(tmp_path / "vqvae")
    batch = Batch(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), ["a"] * 2, ["a"] * 2)
    with torch.no_grad():
        made, quantized = stage._reconstructed(batch)
    read = load_codes(tmp_path / "vqvae")(clip_normalize(batch.pixels))
    assert (made.shape, read.shape) == ((2, 3, 32, 32), (2, 16, 6))
    torch.testing.assert_close(read, quantized.vectors, rtol=1e-4, atol=1e-5)


def test_vectors_of_beit2_are_those_of_the_greatest_cosine(folders, pixels):
    tokenizer = VqkdTokenizer.from_pretrained(folders["beit2"])
    with torch.no_grad():
        outputs = tokenizer.encode_head(tokenizer.encoder(pixels)[:, 1:])
        cosines = torch.cosine_similarity(outputs[:, :, None], tokenizer.codebook.weight, dim=-1)
        quantized, features = tokenizer(pixels)
    assert torch.equal(quantized.codes, cosines.argmax(-1))
    assert torch.equal(tokenizer.encode_pixels(pixels), quantized.codes)
    assert torch.equal(load_codes(folders["beit2"])(pixels), quantized.vectors)
    assert features.shape == (3, 16, 12)


def standard(codes: CodeVectors) -> CodeVectors:
    codes.standardize(codes.table().detach())
    return codes


def test_standard_codes_are_centred_and_of_unit_variance(images, pixels):
    read, table = standard(deepcopy(images)), images.table().detach()
    every = (table - read.mean) / read.scale
    torch.testing.assert_close(every.mean(0), torch.zeros(images.width), atol=1e-5, rtol=0)
    assert float(every.square().mean()) == pytest.approx(1, rel=1e-4)
    assert read.norm() == pytest.approx(images.width**0.5, rel=1e-4)
    torch.testing.assert_close(read(pixels) * read.scale + read.mean, images(pixels), atol=1e-4, rtol=1e-4)
    layer = torch.nn.Linear(images.width, 5)
    folded = torch.nn.functional.linear(images(pixels), **read.folded(layer))
    torch.testing.assert_close(folded, layer(read(pixels)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("lora", [None, LoraSettings(4, 8, 0.0)])
@pytest.mark.parametrize("of", [lambda codes: codes, standard], ids=["as they are", "standard"])
def test_a_reader_of_codes_is_the_same_after_saving(bases, folders, pixels, tmp_path, lora, of):
    torch.manual_seed(1)
    model = PrefixLM.build(bases["opt"], of(load_codes(folders["beit2"])), lora)
    with_random_lora(model)
    model.save_pretrained(tmp_path / "reader")
    assert not any(path.stat().st_size > 100_000 for path in tmp_path.rglob("model.safetensors")), "codes are stored"
    again = PrefixLM.from_pretrained(tmp_path / "reader")
    assert again.images.row == "beit2"
    ids, targets = model.rows([CAPTION] * 3, ["a fox", "a cat", "a fox on a red background"])
    with torch.no_grad():
        torch.testing.assert_close(again.loss(pixels, ids, targets), model.loss(pixels, ids, targets))


def test_the_fc_layers_outputs_are_as_large_as_word_embeddings(bases, images, pixels):
    torch.manual_seed(1)
    model = PrefixLM.build(bases["opt"], images)
    words = model.lm.get_input_embeddings().weight.square().mean().sqrt()
    made = model.prefix(pixels).detach().square().mean().sqrt()
    assert 0.3 < float(made / words) < 3


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({}, {"language_projection"}),
        ({"rank": 4}, {"language_projection", "network"}),
    ],
)
def test_what_trains_of_a_reader_of_codes(bases, folders, settings, trained):
    stage = ReadingSettings(base=bases["opt"], tokens=folders["vqvae"], **settings).build()
    names = [name.removeprefix("model.") for name, p in stage.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in names} == trained
    assert all("lora_" in name for name in names if name.startswith("network"))
    kept = stage.own_state()
    assert {f"model.{name}" for name in names} == set(kept)


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("trains", [True, False])
def test_embeddings_are_read_with_zero_mean_but_by_a_published_layer(bases, seed, tmp_path, trains, published):
    qformer = tmp_path / "qformer"
    seed.embedder.save_pretrained(qformer)
    settings = ReadingSettings(base=bases["opt"], qformer=qformer, train_qformer=trains)
    if published:
        layer = settings.build().model.language_projection.state_dict()
        save_file({name: torch.randn_like(tensor) for name, tensor in layer.items()}, qformer / PROJECTION_FILE)
    stage, pixels = settings.build(), torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    stage.initialize([Batch(half, [""] * 3, [""] * 3) for half in pixels.split(3)])
    images = stage.model.images
    with torch.no_grad():
        read, plain = images(clip_normalize(pixels)), images.vectors(clip_normalize(pixels))
    if published:
        assert torch.equal(read, plain)
    else:
        torch.testing.assert_close(read.mean((0, 1)), torch.zeros(images.width), atol=1e-5, rtol=0)
        assert float(read.square().mean()) == pytest.approx(1, rel=1e-4)

    state = stage.own_state()
    earlier = {
        name: tensor for name, tensor in state.items() if name not in ("model.images.mean", "model.images.scale")
    }
    before = settings.build()
    before.load_own_state(earlier)
    assert float(before.model.images.scale) == 1
    assert not before.model.starts

    again = settings.build()
    again.load_own_state(state)
    stage.export(tmp_path / "reader")
    exported = PrefixLM.from_pretrained(tmp_path / "reader")
    with torch.no_grad():
        expected = stage.model.prefix(clip_normalize(pixels))
        torch.testing.assert_close(again.model.prefix(clip_normalize(pixels)), expected)
        torch.testing.assert_close(exported.prefix(clip_normalize(pixels)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("given", ["qformer", "tokens"])
def test_a_frozen_half_in_bfloat16_is_read_as_well(bases, seed, folders, tmp_path, given):
    seed.embedder.save_pretrained(tmp_path / "qformer")
    source = {"qformer": tmp_path / "qformer", "tokens": folders["seed_codes"]}[given]
    stage = ReadingSettings(base=bases["opt"], **{given: source}).build()
    stage.cast_frozen(torch.bfloat16)
    batch = Batch(torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8), ["a fox", "a cat"], ["a fox", "a cat"])
    stage.initialize([batch])
    assert stage.model.images.scale.dtype == (torch.float32 if given == "qformer" else torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(stage(batch)["loss"].detach()) > 0
    stage.export(tmp_path / "reader")
    PrefixLM.from_pretrained(tmp_path / "reader")


@pytest.mark.parametrize("trains", [True, False])
def test_what_trains_of_a_reader_of_embeddings(bases, seed, tmp_path, trains):
    seed.embedder.save_pretrained(tmp_path / "qformer")
    settings = ReadingSettings(base=bases["opt"], qformer=tmp_path / "qformer", train_qformer=trains, rank=4)
    stage = settings.build().train()
    names = [name for name, p in stage.named_parameters() if p.requires_grad]
    assert any(".qformer." in name for name in names) == trains
    assert any("lora_" in name for name in names)
    assert not stage.model.lm.get_input_embeddings().training


def test_either_embeddings_or_codes_are_read():
    for given in ({}, {"qformer": "mini", "tokens": "mini"}):
        with pytest.raises(ValueError, match=r"either stage\.qformer or stage\.tokens"):
            ReadingSettings(base="mini", **given)
