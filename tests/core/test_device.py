"""Devices by name; models that move as a whole; everything that runs on one device runs on another alike."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mock_device import DEVICE, mock_device
from seedtok.core.device import device_and_dtype, device_named, dtype_named, set_training_device
from seedtok.core.errors import ConfigError, InputError
from seedtok.core.hub import shipped
from seedtok.evaluation.generation import evaluate_generation
from seedtok.evaluation.readers import SeedReader
from seedtok.evaluation.retrieval import evaluate_retrieval
from seedtok.evaluation.retrieval_models import TokenizerRetrieval
from seedtok.evaluation.run import Run
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm import interleaved
from seedtok.lm.decoding import Sampling
from seedtok.lm.prompts import TextSettings
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.evaluation import MiniSet, SceneScorer, load_features
from seedtok.mini.judge import SceneJudge
from seedtok.mini.world.scenes import render, unique_scenes
from seedtok.tokenizer import layers
from seedtok.tokenizer.seed import SeedTokenizer

# one of the two scenes is far by the measured distance: a false alarm, of which there are 5 in 1,000
pytestmark = pytest.mark.filterwarnings("ignore::seedtok.core.errors.SeedTokWarning")
PROMPT = "a cake in the middle on a blue background"
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.fromarray(render(scene)) for scene in unique_scenes("test", 2, 5)]


@pytest.fixture
def mini() -> SeedLM:
    model = SeedLM.from_pretrained("mini")
    assert model.seed.image_decoder is not None  # loaded now: diffusers loads by way of the meta device
    return model


# ---------------------------------------------------------------- names


def test_the_cpu_and_whatever_is_best_have_names():
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("auto").type in ("cuda", "mps", "cpu")
    assert device_named(torch.device("meta")) == torch.device("meta")
    with pytest.raises(ConfigError, match="device cuda:99: "):
        device_named(99)


def test_dtypes_by_name():
    assert dtype_named("bfloat16") == dtype_named(torch.bfloat16) == torch.bfloat16
    assert SeedTokenizer.from_pretrained("mini", dtype="float16").dtype == torch.float16
    with pytest.raises(ConfigError, match="float8"):
        SeedTokenizer.from_pretrained("mini", dtype="float8")
    with pytest.raises(ConfigError, match="half"):
        SeedLM.from_pretrained("mini", dtype="half")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CUDA", "meta", "cuda:0,1"])
def test_unknown_names_are_refused(name: str):
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, cuda:N or mps"):
        device_named(name)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="2 CUDA GPUs, cuda:0 to cuda:1"):
        device_named("cuda:2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no CUDA GPU"):
        device_named("cuda")


@pytest.mark.parametrize(
    ("args", "options", "expected"),
    [
        (("meta",), {}, (torch.device("meta"), None)),
        ((torch.float16,), {}, (None, torch.float16)),
        ((torch.device("cpu"), torch.float16, True), {}, (torch.device("cpu"), torch.float16)),
        ((), {"device": "cpu", "dtype": torch.float64}, (torch.device("cpu"), torch.float64)),
        ((torch.zeros(1, dtype=torch.float16),), {}, (torch.device("cpu"), torch.float16)),
        ((), {"memory_format": torch.channels_last}, (None, None)),
    ],
)
def test_the_arguments_of_to(args: Any, options: dict[str, Any], expected: tuple[Any, Any]):
    assert device_and_dtype(args, options) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        "encode IMAGE", "reconstruct IMAGE --out OUT", "decode --out OUT --codes 1", "imagine x --out OUT/x.png",
        "caption IMAGE", "ask IMAGE what", "draw x --out OUT/x.png", "chat --out OUT", "demo --out OUT",
        "evaluate retrieval", "evaluate generation", "evaluate codebook", "evaluate captioning", "evaluate vqa",
        "evaluate drawing", "train mini.stage1 --out OUT",
    ],
)  # fmt: skip
def test_every_command_that_runs_a_model_takes_a_device(cli, tmp_path: Path, images: list[Image.Image], command: str):
    images[0].save(tmp_path / "x.png")
    words = command.replace("IMAGE", str(tmp_path / "x.png")).replace("OUT", str(tmp_path / "out")).split()
    code, out, error = cli(*words, "--device", "abacus")
    assert (code, out) == (2, "")
    assert error == "error: unknown device 'abacus': expected auto, cpu, cuda, cuda:N or mps\n"
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- moving and casting


def test_a_tokenizer_moves_and_casts_as_a_whole(tiny_tokenizer: Path):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    decoder = model.image_decoder
    model.bfloat16()
    assert (model.dtype, decoder.dtype, decoder.pipeline.text_encoder.dtype) == (torch.bfloat16,) * 3
    assert model.codebook.weight.dtype == torch.float32  # the nearest code is always found in float32
    model.float().to("meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    parts = (decoder.pipeline.unet, decoder.pipeline.vae, decoder.pipeline.text_encoder)
    assert {part.device.type for part in parts} == {"meta"}
    assert decoder.dtype == torch.float32


def test_an_image_decoder_follows_a_tokenizer_that_moved_as_a_part(tiny_tokenizer: Path):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    assert model.image_decoder.device.type == "cpu"
    torch.nn.Sequential(model).to("meta")
    assert model.image_decoder.device.type == "meta"


def test_cast_as_a_part_it_keeps_its_code_vectors(tiny_tokenizer: Path):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    codebook = model.codebook_id
    for cast in (torch.nn.Sequential(model).to(torch.bfloat16), torch.nn.Sequential(model).half()):
        assert model.dtype == next(cast.parameters()).dtype
        assert (model.codebook.weight.dtype, model.codebook_id) == (torch.float32, codebook)
    assert torch.nn.Sequential(model).to("meta", torch.bfloat16)[0].codebook.weight.device.type == "meta"
    assert model.codebook.weight.dtype == torch.float32


def test_inference_leaves_no_traces_in_training(images: list[Image.Image]):
    """Neither in BatchNorm, which the ViT has, nor in a codebook whose codes restart."""
    model = SeedTokenizer.from_pretrained("mini")
    model.codebook.config = dataclasses.replace(model.codebook.config, restart_after=1)
    model.codebook.register_buffer("unused_steps", torch.full((8192,), 5))

    def made() -> list[torch.Tensor]:
        codes = model.encode(images)
        return [codes, model.encode_pixels(model.pixels(images)), model.embed_images(images),
                model.embed_images(images, from_codes=True), model.embed_texts([PROMPT])]  # fmt: skip

    expected = made()
    model.train()
    model.embedder.qformer.eval()
    modes = {name: part.training for name, part in model.named_modules()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert all(map(torch.equal, made(), expected))
    with pytest.raises(InputError):
        model.decode([[1, 2]])
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model(model.pixels(images)).quantized.codes.shape == (2, 32)
    assert int(model.codebook.unused_steps.min()) == 0  # a forward in training mode is a step


def test_the_default_device_of_new_tensors_is_not_that_of_a_model(tiny_tokenizer: Path, images: list[Image.Image]):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    expected = model.encode(images)
    layers._are_two_products_faster.cache_clear()
    with torch.device("meta"):
        assert torch.equal(model.encode(images), expected)
        assert torch.equal(model.lookup(expected.tolist()), model.lookup(expected))


def test_casting_equals_loading_in_that_dtype(tiny_tokenizer: Path, images: list[Image.Image]):
    cast = SeedTokenizer.from_pretrained(tiny_tokenizer).to(torch.bfloat16)
    loaded = SeedTokenizer.from_pretrained(tiny_tokenizer, dtype=torch.bfloat16)
    assert torch.equal(cast.encode(images), loaded.encode(images))


def test_a_language_model_takes_its_tokenizer_along(mini: SeedLM):
    seed = mini.seed
    mini.bfloat16()
    assert (seed.dtype, seed.image_decoder.dtype, mini.joint.lm.dtype) == (torch.bfloat16,) * 3
    torch.nn.Sequential(mini).to("meta")  # as a part of another module
    assert (mini.seed.device.type, mini.seed.image_decoder.device.type) == ("meta", "meta")


# ---------------------------------------------------------------- drawing in another precision


def test_drawing_in_lower_precision_is_asked_for(tiny_tokenizer: Path, images: list[Image.Image]):
    model = SeedTokenizer.from_pretrained(tiny_tokenizer)
    codes = model.encode(images[0])
    exact, again, lower = (
        np.asarray(model.decode(codes, generator=noise(), dtype=dtype)[0]).astype(int)
        for dtype in (None, torch.float32, torch.bfloat16)
    )
    assert np.array_equal(exact, again)
    assert not np.array_equal(exact, lower)
    assert np.abs(exact - lower).mean() < 3
    with pytest.raises(ConfigError, match="load it in float32"):
        model.bfloat16().decode(codes, dtype=torch.float32)


# ---------------------------------------------------------------- on another device


def test_the_mock_device_refuses_what_a_gpu_refuses():
    with mock_device():
        away = torch.zeros(2, 3).to(DEVICE)
        assert (away + 1).device == torch.ones_like(away).device == DEVICE
        assert (away + torch.tensor([1, 2, 3], device=DEVICE)).tolist() == [[1, 2, 3]] * 2
        with pytest.raises(RuntimeError, match="one device"):
            away + torch.ones(3)
        with pytest.raises(RuntimeError, match="generator"):
            torch.multinomial(away + 1, 1, generator=noise())
        with pytest.raises((RuntimeError, TypeError)):
            away.numpy()


def made_by_the_tokenizer(seed: SeedTokenizer, images: list[Image.Image]) -> dict[str, Any]:
    codes = seed.encode(images)
    assert codes.device == seed.device
    return {
        "codes": codes.tolist(),
        "picture": np.asarray(seed.decode(codes[:1], 2, generator=noise())[0]) / 255,
        "similarity": (seed.embed_images(images, from_codes=True) @ seed.embed_texts([PROMPT]).T).tolist(),
    }


def made_by_the_lm(lm: SeedLM, images: list[Image.Image]) -> dict[str, Any]:
    segments = [lm.seed.encode(images[0])[0], "A photo of"]
    return {
        "captions": lm.caption(images, num_beams=2, max_new_tokens=6),
        "greedy": lm.caption(images, num_beams=1, max_new_tokens=4),
        "answer": lm.answer(images[0], "What color is the background?", num_beams=2),
        "drawn": lm.draw_codes([PROMPT]).tolist(),
        "sampled": lm.draw_codes([PROMPT], Sampling(1.0, 0.9, noise())).tolist(),
        "mixed": [str(part) for part in interleaved.generate(lm.joint, segments, max_new_tokens=3)],
    }


def check_alike(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    for name, value in one.items():
        if name in ("picture", "similarity"):
            assert np.allclose(value, other[name], atol=tolerance), name
        else:
            assert value == other[name], name


def test_the_tokenizer_on_another_device(mini: SeedLM, images: list[Image.Image]):
    here = made_by_the_tokenizer(mini.seed, images)
    with mock_device():
        check_alike(here, made_by_the_tokenizer(mini.seed.to(DEVICE), images), tolerance=0.02)


@pytest.mark.slow
def test_the_language_model_on_another_device(mini: SeedLM, images: list[Image.Image]):
    here = made_by_the_lm(mini, images)
    with mock_device():
        check_alike(here, made_by_the_lm(mini.to(DEVICE), images), tolerance=0.02)


@pytest.mark.slow
def test_evaluations_run_on_another_device(mini: SeedLM):
    seed, data = mini.seed, MiniSet(3, 5)
    seed.config = dataclasses.replace(seed.config, num_inference_steps=2)
    judge, clip = SceneJudge.from_pretrained(shipped("judge")), load_features(shipped("eval_clip"))
    with torch.no_grad(), mock_device():
        for part in (mini, judge, clip.clip):
            part.to(DEVICE)
        run, scorer = Run(batch_size=2), SceneScorer(data, judge)
        drawn = evaluate_generation(seed, data, run, clip, scorer)
        found = evaluate_retrieval({"seed": TokenizerRetrieval(seed)}, data, run)
        answered = evaluate_vqa({"seed_opt": SeedReader(mini)}, data, run, decoding=TextSettings(2, 4))
    assert drawn["judge_on_real"]["background"] == 100
    assert 0 < drawn["clip_similarity"]["seed"] <= 100
    assert found["causal_embedding"]["r_mean"] == 100
    assert set(answered["seed_opt"]) >= {"accuracy", "exact_match"}


@on_a_gpu
def test_a_gpu_gives_what_the_cpu_gives(mini: SeedLM, images: list[Image.Image]):
    here = made_by_the_tokenizer(mini.seed, images) | made_by_the_lm(mini, images)
    mini.cuda()
    check_alike(here, made_by_the_tokenizer(mini.seed, images) | made_by_the_lm(mini, images), tolerance=0.05)
    loaded = SeedLM.from_pretrained("mini", device="cuda")
    assert loaded.seed.device.type == loaded.seed.image_decoder.device.type == "cuda"


@on_a_gpu
@pytest.mark.parametrize("name", ["retrieval", "generation", "codebook", "captioning", "vqa", "drawing"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_evaluations_on_a_gpu(cli, name: str, dtype: str):
    code, out, error = cli(
        "evaluate", name, "--count", 4, "--batch-size", 2, "--device", "cuda", "--dtype", dtype, "--json"
    )
    assert (code, error) == (0, "")
    assert out.startswith("{")


# ---------------------------------------------------------------- training


@pytest.mark.parametrize(("name", "expected"), [("cpu", {"ACCELERATE_USE_CPU": "true"})])
def test_accelerate_is_told_of_a_device(monkeypatch: pytest.MonkeyPatch, name: str, expected: dict[str, str]):
    monkeypatch.setattr("os.environ", {"WORLD_SIZE": "1"})
    set_training_device(name)
    chosen = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"}
    assert chosen == expected


def test_several_processes_take_no_single_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("os.environ", {"WORLD_SIZE": "2"})
    with pytest.raises(ConfigError, match="its own GPU"):
        set_training_device("cuda:1")
    monkeypatch.setattr("os.environ", {})
    set_training_device("cuda:1")
    assert os.environ == {"ACCELERATE_TORCH_DEVICE": "cuda:1"}
