"""Stages I and II from a trained tokenizer: which of its parts learn, and which stay to the last bit."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.stages.contrastive import ContrastiveSettings
from seedtok.stages.quantization import QuantizationSettings
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.training.optimizer import parameter_groups
from seedtok.training.stage import Stage

CAPTIONS = ["a fox", "an owl on red", "two cakes", "a car"]


@pytest.fixture
def batch() -> Batch:
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(pixels, CAPTIONS, CAPTIONS)


@pytest.fixture
def embedder(tiny_tokenizer: Path, tmp_path: Path) -> Path:
    SeedTokenizer.from_pretrained(tiny_tokenizer).embedder.save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder"


def learn(stage: Stage, batch: Batch) -> None:
    stage.initialize([batch])
    stage.train()
    optimizer = torch.optim.AdamW(parameter_groups(stage, 0.0), lr=1e-2)
    stage(batch)["loss"].backward()
    optimizer.step()


@pytest.mark.parametrize("learns", [True, False])
def test_the_image_encoder_learns_where_it_is_to(embedder, batch, tmp_path, learns):
    assert ContrastiveSettings().train_vision is False
    stage = ContrastiveSettings(start=embedder, train_vision=learns).build()
    learn(stage, batch)
    stage.export(tmp_path / "after")
    before, after = (ImageTextEmbedder.from_pretrained(path).state_dict() for path in (embedder, tmp_path / "after"))
    vision = {name for name in before if name.startswith("vision.")}
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert (not vision & same) if learns else vision <= same
    assert "qformer.query_tokens" not in same
    assert vision <= {f"vision.{name}" for name in stage.embedder.vision.state_dict()}
    assert any(name.startswith("embedder.vision.") for name in stage.own_state()) == learns


@torch.no_grad()
def test_stage_2_needs_no_text_branch(settings, embedder, batch, tmp_path):
    """Without one, images cannot be retrieved by texts, and the rest is validated all the same."""
    whole = ImageTextEmbedder.from_pretrained(embedder)
    bare = ImageTextEmbedder(replace(whole.config, projection=None))
    own = bare.state_dict()
    bare.load_state_dict({name: value for name, value in whole.state_dict().items() if name in own})
    bare.save_pretrained(tmp_path / "bare")
    found = [
        settings.model_copy(update={"embedder": path}).build().eval().validate([batch])
        for path in (embedder, tmp_path / "bare")
    ]
    assert found[0].pop("r_mean") >= 0
    assert found[0] == pytest.approx(found[1])


@pytest.fixture
def settings(embedder: Path, tiny_tokenizer: Path, tiny_diffusion: Path) -> QuantizationSettings:
    return QuantizationSettings(
        embedder=embedder, image_decoder=tiny_diffusion, start=tiny_tokenizer, train_codebook=False,
        mean_feature_bias=True, kmeans_per_code=1.0,
    )  # fmt: skip


def test_a_tokenizer_goes_on_with_the_codebook_it_has(settings, tiny_tokenizer, batch, tmp_path):
    before = SeedTokenizer.from_pretrained(tiny_tokenizer)
    stage = settings.build()
    for name, tensor in before.state_dict().items():
        assert torch.equal(stage.seed.state_dict()[name], tensor), name
    learn(stage, batch)
    stage.validate([batch])
    stage.export(tmp_path / "after")
    after = SeedTokenizer.from_pretrained(tmp_path / "after")
    assert after.codebook_id == before.codebook_id
    assert not any("codebook" in name for name in stage.own_state())
    for part in ("encode_head", "decode_head", "code_decoder", "text_decoder", "reverse_qformer"):
        pairs = zip(getattr(before, part).parameters(), getattr(after, part).parameters(), strict=True)
        assert any(not torch.equal(old, new) for old, new in pairs), part
    assert after.image_decoder_source == before.image_decoder_source
    assert torch.equal(before.embedder.qformer.query_tokens, after.embedder.qformer.query_tokens)


def test_a_frozen_codebook_stays_in_float32(settings, tiny_tokenizer):
    stage = settings.build()
    stage.cast_frozen(torch.bfloat16)
    assert stage.seed.codebook_id == SeedTokenizer.from_pretrained(tiny_tokenizer).codebook_id
    assert stage.seed.embedder.ln_vision.weight.dtype == torch.bfloat16


def test_a_codebook_that_learns_moves(settings, tiny_tokenizer, batch):
    stage = settings.model_copy(update={"train_codebook": True}).build()
    learn(stage, batch)
    assert stage.seed.codebook_id != SeedTokenizer.from_pretrained(tiny_tokenizer).codebook_id


@pytest.mark.parametrize(
    ("name", "value"),
    [("restart_after", 7), ("ema_decay", 0.5), ("beta", 9.0), ("dropout", 0.3), ("decoder_layers", 9)],
)
def test_settings_that_a_tokenizer_to_go_on_from_would_ignore_are_refused(settings, tiny_tokenizer, name, value):
    with pytest.raises(ConfigError, match=rf"stage\.{name}={value}, but .* has .* and keeps it: set stage\.{name}="):
        settings.model_copy(update={name: value}).build()
    kept = SeedTokenizer.from_pretrained(tiny_tokenizer).config.codebook
    settings.model_copy(update={"codebook_size": kept.size, "restart_after": kept.restart_after}).build()


def test_an_embedder_of_another_width_is_refused(settings, tmp_path):
    embedder = ImageTextEmbedder.from_pretrained(settings.embedder)
    config = replace(embedder.config, qformer=replace(embedder.config.qformer, width=16))
    ImageTextEmbedder(config, embedder.text_tokenizer).save_pretrained(tmp_path / "narrow")
    with pytest.raises(ConfigError, match=r"another width than stage\.embedder"):
        settings.model_copy(update={"embedder": tmp_path / "narrow"}).build()
