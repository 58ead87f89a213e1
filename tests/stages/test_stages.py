"""Every mini recipe, made tiny: built, trained in the order in which they need one another, exported, loaded again."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel

import publishers
from seedtok.core.errors import ConfigError, DataError
from seedtok.data.batches import Batch
from seedtok.data.codes import tokenize_shards
from seedtok.data.origins import Maker
from seedtok.mini.judge import SceneJudge
from seedtok.mini.networks.patch_autoencoder import PatchAutoencoder
from seedtok.mini.scene_clip import SceneClip
from seedtok.mini.text import bert_tokenizer, clip_tokenizer
from seedtok.mini.world.scenes import caption
from seedtok.mini.world.shards import write_scene_shards
from seedtok.mini.world.source import scenes_of
from seedtok.stages.contrastive import ContrastiveStage
from seedtok.stages.quantization import QuantizationStage
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.vision import VisionTransformer
from seedtok.training.config import RunConfig
from seedtok.training.loop import train
from seedtok.training.optimizer import parameter_groups
from seedtok.training.stage import Stage
from tiny_runs import TINY, first_batches, recipes, tiny, training_batches

FROZEN = {
    "diffusion": 2,
    "lcm": 4,
    "bidirectional": 1,
    "stage1": 1,
    "stage2": 2,
    "stage3a": 1,
    "stage3b": 1,
    "instructed": 1,
    "blip2": 2,
    "reader": 2,
    "vqvae": 1,
    "beit2": 1,
    "gill": 2,
}
RATES = {"judge": 1e-3, "lcm": 3e-4, "reader": 3e-2}  # of the reader only an FC layer learns


def ready(config: RunConfig) -> tuple[Stage, Batch]:
    """A new stage, and the batch it is to learn."""
    torch.manual_seed(0)
    stage = config.stage.build()
    stage.initialize(first_batches(config, 4))
    stage.train()
    return stage, next(iter(first_batches(config, 1)))


def learn(stage: Stage, batch: Batch, steps: int, lr: float = 3e-3) -> list[float]:
    """Losses of steps on one batch, whose noise is the same in each."""
    optimizer = torch.optim.AdamW(parameter_groups(stage, 0.0), lr=lr)
    losses = []
    for _ in range(steps):
        torch.manual_seed(0)
        loss = stage(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def frozen(stage: Stage) -> Iterator[nn.Module]:
    return (module for module in stage.modules() if hasattr(module, "seedtok_frozen"))


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


# ---------------------------------------------------------------- every recipe


def test_every_recipe_is_tested_here():
    assert set(TINY) == set(recipes())


@pytest.mark.parametrize("name", TINY)
def test_a_recipe_is_one_configuration_that_json_keeps(name):
    config = recipes()[name]()
    assert config.recipe == f"mini.{name}"
    record = json.loads(config.model_dump_json())
    assert record["optimization"]["steps"] == config.optimization.steps
    assert recipes()[name].__doc__


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vision", "text", "autoencoder", "judge", "eval_clip"])
def test_foundations_are_built_at_their_real_size(name):
    stage = recipes()[name]().stage.build()
    assert sum(p.numel() for p in stage.parameters() if p.requires_grad) > 500_000


@pytest.mark.parametrize("name", TINY)
def test_a_run_leaves_what_it_should(runs, name):
    lines = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [0, 1, 2]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 3]
    assert (runs / name / "checkpoints" / "00000003" / "stage.safetensors").is_file()
    pictures = sorted(p.name for p in (runs / name).glob("pictures/*.png"))
    drawn = name in ("autoencoder", "diffusion", "lcm", "stage2", "vqvae", "gill")
    assert pictures == (["00000002.png", "00000003.png"] if drawn else [])


@pytest.mark.parametrize("name", TINY)
def test_frozen_parts_stay_as_they_are_and_the_loss_falls(runs, name):
    stage, batch = ready(tiny(name, runs))
    parts = list(frozen(stage))
    assert len(parts) == FROZEN.get(name, 0)
    before = [state(part) for part in parts]
    trained = {n: p.detach().clone() for n, p in stage.named_parameters() if p.requires_grad}
    losses = learn(stage, batch, 30, RATES.get(name, 3e-3))
    assert losses[-1] < 0.95 * losses[0]

    for part, was in zip(parts, before, strict=True):
        assert not any(module.training for module in part.modules())
        assert all(p.grad is None and not p.requires_grad for p in part.parameters())
        assert all(torch.equal(tensor, was[key]) for key, tensor in part.state_dict().items())
    now = dict(stage.named_parameters())
    still = [n for n, was in trained.items() if torch.equal(now[n], was)]
    assert still == [], "trainable, and yet untrained"


@pytest.mark.parametrize("name", ["bidirectional", "stage2"])
def test_a_checkpoint_holds_all_but_the_frozen_parts(runs, name):
    stage, batch = ready(tiny(name, runs))
    learn(stage, batch, 2)
    kept = {key: tensor.clone() for key, tensor in stage.own_state().items()}
    assert not any(key.startswith(("embedder.vision.", "seed.embedder.", "text_encoder.")) for key in kept)
    again, _ = ready(tiny(name, runs))
    again.load_own_state(kept)
    for key, tensor in stage.state_dict().items():
        assert torch.equal(again.state_dict()[key], tensor), key


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_stage_resumes_exactly(runs, tmp_path, name):
    shutil.copytree(runs / name, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "00000003")
    shutil.rmtree(tmp_path / "run" / "final")
    train(tiny(name, runs), tmp_path / "run", resume=True)
    whole, again = ((folder / "log.jsonl").read_text() for folder in (runs / name, tmp_path / "run"))
    for a, b in zip(whole.splitlines(), again.splitlines(), strict=True):
        assert json.loads(b) == pytest.approx(json.loads(a), abs=1e-6, nan_ok=True)


@pytest.mark.slow
def test_text_tokenizers_are_the_same_every_time():
    """A resumed run, and a stage on another's result, build their own."""
    assert clip_tokenizer().get_vocab() == clip_tokenizer().get_vocab()
    assert clip_tokenizer().backend_tokenizer.to_str() == clip_tokenizer().backend_tokenizer.to_str()
    assert bert_tokenizer().get_vocab() == bert_tokenizer().get_vocab()


# ---------------------------------------------------------------- what they export


def test_image_and_text_encoders_load_again(runs):
    for name, model in (
        ("vision", VisionTransformer.from_pretrained(runs / "vision" / "final")),
        ("text", CLIPTextModel.from_pretrained(runs / "text" / "final")),
    ):
        checkpoint = load_file(runs / name / "checkpoints" / "00000003" / "stage.safetensors")
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, checkpoint[f"{name}.{key}"]), key


@pytest.mark.parametrize("name", ["clip", "bidirectional"])
def test_a_q_former_stands_on_an_image_encoder_or_on_a_clip(runs, tmp_path, name):
    publishers.clip(tmp_path)
    config = tiny("bidirectional", runs, *([f"stage.clip={tmp_path}"] if name == "clip" else []))
    stage = config.stage.build()
    assert isinstance(stage, ContrastiveStage)
    assert (stage.embedder.vision.stem is None) == (name == "clip")


def test_the_evaluations_clip_loads_again(runs):
    model = SceneClip.from_pretrained(runs / "eval_clip" / "final")
    checkpoint = load_file(runs / "eval_clip" / "checkpoints" / "00000003" / "stage.safetensors")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, checkpoint[f"clip.{key}"]), key


def test_autoencoder_loads_again(runs):
    model = PatchAutoencoder.from_pretrained(runs / "autoencoder" / "final")
    latents = model.encode(torch.zeros(2, 3, 64, 64)).latents
    assert latents.shape == (2, 4, 8, 8)
    assert model.decode(latents).sample.shape == (2, 3, 64, 64)


def test_latents_are_as_far_apart_as_the_patches_they_stand_for(runs):
    """Within the span of the encoder's rows; what is decoded does not change."""
    model = PatchAutoencoder(image_size=32, patch_size=8, latent_channels=6, width=16, layers=1, heads=2)
    images = torch.rand(2, 3, 32, 32)
    before = model.decode(model.encode(images).latents).sample
    model.keep_distances()
    torch.testing.assert_close(model.decode(model.encode(images).latents).sample, before)
    rows = model.encoder.weight
    torch.testing.assert_close(rows @ rows.T, torch.eye(6), atol=1e-5, rtol=0)
    exported = PatchAutoencoder.from_pretrained(runs / "autoencoder" / "final").encoder.weight
    torch.testing.assert_close(exported @ exported.T, torch.eye(len(exported)), atol=1e-5, rtol=0)


def test_diffusion_loads_again_with_its_average(runs):
    decoder = ImageDecoder.from_pretrained(runs / "diffusion" / "final")
    pictures = decoder.draw(decoder.text_features(["a cat in the middle on a red background"]), 2, 2.0)
    assert [picture.size for picture in pictures] == [(64, 64)]
    average = load_file(runs / "diffusion" / "checkpoints" / "00000003" / "ema.safetensors")
    for key, tensor in decoder.pipeline.unet.state_dict().items():
        assert torch.equal(tensor, average[f"unet.{key}"]), key


@pytest.mark.parametrize("name", ["bidirectional", "stage1"])
def test_embedder_loads_again(runs, name):
    model = ImageTextEmbedder.from_pretrained(runs / name / "final")
    assert model.config.qformer.causal == (name == "stage1")
    images = model.project_queries(model.qformer(model.patch_features(torch.zeros(2, 3, 64, 64))))
    assert images.shape == ((2, 16) if name == "stage1" else (2, 32, 16))
    assert model.similarity(images, model.embed_texts(["a cat"])).shape == (2, 1)


def test_stage1_starts_from_the_bidirectional_embedder(runs):
    before = ImageTextEmbedder.from_pretrained(runs / "bidirectional" / "final").state_dict()
    stage = tiny("stage1", runs).stage.build()
    for key, tensor in stage.state_dict().items():
        if key.startswith("auxiliary."):  # heads of its own, not kept
            continue
        expected = before["temperature"].log() if key == "log_temperature" else before[key.removeprefix("embedder.")]
        assert torch.equal(tensor, expected), key


def test_positions_are_new_where_the_embedder_before_had_none(runs, tmp_path):
    train(tiny("bidirectional", runs, "stage.positions=false", "optimization.steps=1"), tmp_path / "run")
    start = f"stage.start={tmp_path / 'run' / 'final'}"
    stage = tiny("stage1", runs, start).stage.build()
    assert isinstance(stage, ContrastiveStage)
    assert stage.embedder.patch_positions is not None
    assert 0.9 < float(stage.embedder.patch_positions.detach().std()) < 1.1
    assert tiny("stage1", runs, start, "stage.positions=false").stage.build().embedder.patch_positions is None
    assert tiny("stage1", runs, "stage.positions=false").stage.build().embedder.patch_positions is None


def test_naming_needs_scenes(runs):
    stage = tiny("stage1", runs).stage.build()
    pixels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"stage\.auxiliary=none"):
        stage.check_batch(Batch(pixels, ["a fox", "a cat"], ["a fox", "a cat"]))


def test_tokenizer_loads_again(runs):
    model = SeedTokenizer.from_pretrained(runs / "stage2" / "final")
    embedder = ImageTextEmbedder.from_pretrained(runs / "stage1" / "final")
    for key, tensor in embedder.state_dict().items():
        assert torch.equal(model.embedder.state_dict()[key], tensor), key
    codes = model.encode(torch.zeros(3, 64, 64, dtype=torch.uint8))
    assert codes.shape == (1, 32)
    assert 0 <= int(codes.min()) <= int(codes.max()) < 64
    for given in (codes, codes[0], codes.tolist()):
        assert [picture.size for picture in model.decode(given)] == [(64, 64)]


def test_judge_loads_again(runs):
    model = SceneJudge.from_pretrained(runs / "judge" / "final")
    things, backgrounds = model(torch.zeros(2, 3, 128, 128))
    assert (things.shape[:2], len(backgrounds)) == ((2, 9), 2)


# ---------------------------------------------------------------- stage II's codebooks


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("stage.ema_decay=0.99", "stage.kmeans_per_code=0", "stage.restart_after=none"),
        ("stage.ema_decay=none", "stage.kmeans_per_code=0", "stage.restart_after=none"),
        ("stage.ema_decay=none", "stage.kmeans_per_code=4", "stage.restart_after=2"),
        ("stage.ema_decay=0.99", "stage.kmeans_per_code=4", "stage.normalize=true"),
    ],
    ids=["moving averages", "gradient", "k-means and restart", "normalised"],
)
def test_codebooks(runs, tmp_path, overrides):
    config = tiny("stage2", runs, *overrides)
    stage, batch = ready(config)
    assert isinstance(stage, QuantizationStage)
    before = stage.seed.codebook.weight.detach().clone()
    losses = learn(stage, batch, 12)
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    assert not torch.equal(stage.seed.codebook.weight, before)
    assert isinstance(stage.seed.codebook.weight, nn.Parameter) == ("stage.ema_decay=none" in overrides)
    final = train(config, tmp_path / "run")
    trained = SeedTokenizer.from_pretrained(final).codebook.weight
    assert trained.shape == (64, 8)
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert 1 <= last["codes_used"] <= 64
    assert 1 <= last["perplexity"] <= last["codes_used"] + 1e-6


def test_kmeans_uses_more_codes_than_the_papers_start(runs):
    used = {}
    for per_code in (0, 8):
        stage, batch = ready(tiny("stage2", runs, f"stage.kmeans_per_code={per_code}"))
        used[per_code] = stage.eval().validate([batch])["codes_used"]
    assert used[8] > used[0]


# ---------------------------------------------------------------- shards in place of scenes


def test_a_run_on_shards(runs, tmp_path):
    write_scene_shards(tmp_path / "shards", "train", 10, size=64, shard_size=4)
    config = tiny("eval_clip", runs, f"data.shards={tmp_path / 'shards'}", "data.validation=0.5")
    train(config, tmp_path / "run")
    batch = next(training_batches(config, 4))
    scenes = scenes_of(batch)
    assert scenes is not None
    assert batch.canonical == [caption(scene) for scene in scenes]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_scene_shards(folder, "train", 40, size=64, shard_size=9)
    return folder


@pytest.fixture(scope="module")
def codes(tmp_path_factory, runs, shards) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    tokenizer = SeedTokenizer.from_pretrained(runs / "stage2" / "final")
    maker = Maker(tokenizer.codebook_id, tokenizer.encoder_fingerprint)
    tokenize_shards(shards, folder, lambda images: tokenizer.encode(images).numpy(), maker)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stage3a", "stage3b", "instructed"])
@pytest.mark.parametrize("validation", ["0.3", "CODES", "SHARDS", "scenes"])
def test_a_run_on_stored_codes(runs, shards, codes, tmp_path, kind, validation):
    validation = validation.replace("CODES", str(tmp_path / "others")).replace("SHARDS", str(shards))
    (tmp_path / "others").mkdir()
    shutil.copy(min(codes.glob("*.parquet")), tmp_path / "others")
    train(tiny(kind, runs, f"data.codes={codes}", f"data.validation={validation}"), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [2, 3]


def test_data_that_a_stage_cannot_learn_from_stop_a_run_before_it_begins(runs, shards, codes, tmp_path):
    other = tmp_path / "other"
    (tmp_path / "empty").mkdir()
    tuned = tmp_path / "tuned"
    tokenize_shards(shards, other, lambda images: torch.zeros(len(images), 32).numpy(), "another tokenizer")
    codebook = SeedTokenizer.from_pretrained(runs / "stage2" / "final").codebook_id
    maker = Maker(codebook, "another encoder")
    tokenize_shards(shards, tuned, lambda images: torch.zeros(len(images), 32).numpy(), maker)
    for kind, settings, message in (
        ("stage3a", [f"data.codes={other}", "data.validation=0.5"], "codes are of another tokenizer"),
        ("stage3a", [f"data.codes={codes}", f"data.validation={other}"], "codes are of another tokenizer"),
        ("stage3a", [f"data.codes={tuned}", "data.validation=0.5"], "of another encoder .* with the same codebook"),
        ("vision", [f"data.codes={codes}", "data.validation=0.5"], "learns from pictures, and codes have none"),
        ("vision", [f"data.shards={shards}", f"data.validation={codes}"], "learns from pictures, and codes have none"),
        ("stage3a", [f"data.codes={codes}"], "data.codes without data.validation"),
        ("vision", [f"data.shards={shards}"], "data.shards without data.validation"),
        ("vision", ["data.validation=0.1"], "no data.shards or data.codes to hold it out of"),
        (
            "vision",
            [f"data.shards={shards}", f"data.validation={shards}/../{shards.name}"],
            "is what data.shards trains",
        ),
        ("vision", [f"data.shards={shards}", "data.validation=1e-9"], "leaves none to validate on"),
        ("vision", [f"data.shards={shards}", f"data.validation={tmp_path / 'empty'}"], "has no shards .* and no codes"),
        ("vision", [f"data.shards={shards}", f"data.codes={codes}"], "are both given"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            train(tiny(kind, runs, *settings), tmp_path / "run")
        assert not (tmp_path / "run").exists()
