"""The temperature of stage I: learned as its logarithm, and held in bounds that leave its gradient."""

import json

import pytest
import torch
from safetensors.torch import load_file

from seedtok.core.errors import ConfigError
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.training.config import with_overrides
from seedtok.training.loop import train
from seedtok.training.losses import contrastive_loss
from tiny_runs import first_batches, recipes, tiny


@pytest.fixture
def ready(runs):
    config = tiny("stage1", runs, "stage.auxiliary=none", "stage.caption_weight=0")
    return config.stage.build(), next(iter(first_batches(config, 1)))


def gradient(stage, batch) -> float:
    stage.zero_grad()
    stage.eval()(batch)["loss"].backward()
    return float(stage.log_temperature.grad)


def test_its_gradient_is_that_of_the_temperature_itself_by_the_chain_rule(ready):
    stage, batch = ready
    with torch.no_grad():
        image, text = stage.embed(batch)
    temperature = stage.temperature().detach().requires_grad_()
    contrastive_loss(image, text, image, text, temperature).backward()
    assert gradient(stage, batch) == pytest.approx(float(temperature.grad * temperature.detach()), rel=1e-3)


@pytest.mark.parametrize(("start", "bound"), [(0.001, 0.01), (3.0, 0.5)])
def test_at_a_bound_it_has_the_gradient_that_it_has_without(ready, start, bound):
    stage, batch = ready
    with torch.no_grad():
        stage.log_temperature.fill_(torch.tensor(start).log())
    held = gradient(stage, batch)
    assert float(stage.temperature()) == pytest.approx(bound)
    stage.settings = stage.settings.model_copy(update={"temperature_bounds": None})
    assert gradient(stage, batch) == pytest.approx(held, rel=1e-4)
    assert abs(held) > 1e-6


def test_without_bounds_it_may_be_any(ready):
    stage, batch = ready
    stage.settings = stage.settings.model_copy(update={"temperature_bounds": None})
    with torch.no_grad():
        stage.log_temperature.fill_(2.0)
    assert float(stage(batch)["temperature"]) == pytest.approx(7.389, rel=1e-3)


def test_a_run_starts_at_the_checkpoints_temperature_and_writes_the_one_it_learnt(runs, tmp_path):
    start = load_file(runs / "bidirectional" / "final" / "model.safetensors")["temperature"]
    config = tiny("stage1", runs, "optimization.lr=0.02", "optimization.min_lr=0.02")
    assert float(config.stage.build().temperature()) == pytest.approx(float(start))
    final = train(config, tmp_path / "run")
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    last = [line["temperature"] for line in logged if line["kind"] == "train"][-1]
    written = float(ImageTextEmbedder.from_pretrained(final).temperature)
    assert abs(written - float(start)) > 1e-4
    assert written == pytest.approx(last, rel=0.03)  # logged before the last step, written after it
    assert written != pytest.approx(last, rel=1e-6)


def test_a_new_embedder_starts_at_0_07_and_a_stored_one_keeps_its_own(runs):
    new = with_overrides(recipes()["bidirectional"](), ["stage.width=32", "stage.layers=1", "stage.heads=2"])
    assert float(new.stage.build().temperature()) == pytest.approx(0.07)
    folder = runs / "bidirectional" / "final"
    stored = load_file(folder / "model.safetensors")["temperature"]
    assert torch.equal(ImageTextEmbedder.from_pretrained(folder).temperature, stored)


@pytest.mark.parametrize("bounds", ["[0.5, 0.01]", "[0, 1]", "[0.1]"])
def test_bounds_out_of_order_are_an_error(bounds):
    with pytest.raises(ConfigError, match="temperature_bounds"):
        with_overrides(recipes()["stage1"](), [f"stage.temperature_bounds={bounds}"])
