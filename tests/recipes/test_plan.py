"""The paper's recipes are built, and a plan says what a run then takes."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from seedtok.cli.plan import PAPER
from seedtok.mini import recipes as mini
from seedtok.mini.text import bert_tokenizer, clip_tokenizer, lm_tokenizer
from seedtok.recipes import paper, paper_size
from seedtok.recipes.paper_size import TextTokenizers, image_decoder
from seedtok.recipes.plan import cost, plan
from seedtok.training.config import RunConfig, with_overrides
from seedtok.training.optimizer import parameter_groups
from seedtok.training.stage import Stage
from tiny_runs import first_batches, recipes

RECIPES = {name: getattr(paper, name) for name in PAPER}


def outline(config: RunConfig) -> Stage:
    return paper_size.outline(config, TextTokenizers(bert_tokenizer(), clip_tokenizer(), lm_tokenizer(2048)))


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.slow
def test_the_image_decoder_has_the_published_size():
    with torch.device("meta"):
        decoder = image_decoder(clip_tokenizer()).pipeline
    assert size(decoder.unet) == 859_520_964
    assert size(decoder.vae) == 83_653_863
    assert size(decoder.text_encoder) == 123_060_480


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_the_papers_recipes_are_built(name):
    config = RECIPES[name]()
    assert config.recipe == f"paper.{name}"
    assert RECIPES[name].__doc__
    assert RunConfig.model_validate(config.model_dump() | {"stage": config.stage}) == config
    with torch.device("meta"):
        stage = outline(config)
    assert all(p.is_meta for p in stage.parameters())
    frozen = sum(p.numel() for p in stage.parameters() if not p.requires_grad)
    assert frozen > 9e8


@pytest.mark.slow
def test_a_recipe_that_is_not_the_papers_has_no_outline():
    with pytest.raises(ValueError, match=r"mini\.judge"):
        outline(mini.judge())


def measured(stage, config, batch) -> tuple[float, float]:
    """Operations and the most bytes of a training step, by PyTorch's profiler."""
    optimizer = torch.optim.AdamW(parameter_groups(stage, 0.0), lr=1e-5, fused=True)

    def step():
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = stage(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    with sdpa_kernel(SDPBackend.MATH), profile(activities=[ProfilerActivity.CPU], with_flops=True) as products:
        step()  # by two products, since the profiler counts none of the kernel that has both
    kept = [*stage.parameters(), *stage.buffers(), *(t for s in optimizer.state.values() for t in s.values())]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        step()
    events = sorted(run.profiler.kineto_results.events(), key=lambda e: e.start_ns())
    now = most = 0
    for event in events:
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return sum(e.flops for e in products.key_averages()), sum(storages.values()) + most


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "smaller"), [("bidirectional", ["stage.layers=2"]), ("opt", ["optimization.batch_size=8"])]
)
def test_counts_are_what_is_measured(name, smaller):
    config = with_overrides(getattr(mini, name)(), ["optimization.batch_size=32", *smaller])
    torch.manual_seed(0)
    stage = config.stage.build()
    pictures = next(iter(first_batches(config, 1)))
    torch.manual_seed(0)
    counted = cost(stage, config, pictures)
    operations, memory = measured(stage.train(), config, pictures)
    assert counted.flops == pytest.approx(operations, rel=0.1)
    assert counted.memory == pytest.approx(memory, rel=0.1)


@pytest.mark.slow
def test_a_plan_adds_up():
    config = with_overrides(RECIPES["stage1"](), ["optimization.accumulate=2", "optimization.steps=10"])
    with torch.device("meta"):
        stage = outline(config)
    stage.cast_frozen(torch.float16)
    one = cost(stage, config, config.data.outline(64, config.seed))
    vit = 64 * 257 * 2 * (size(stage.embedder.vision) + 39 * 2 * 257 * 1408)  # products with weights, and attention's
    assert 1.0 * vit < one.flops < 1.15 * vit  # the rest is the Q-Former
    assert one.frozen_weights == pytest.approx(2 * (one.parameters - one.trained), rel=0.01)
    assert one.optimizer == 8 * one.trained
    whole = plan(one, config, "h100", gpus=8, utilisation=0.5)
    assert whole.samples == 10 * 2 * 64 * 8
    assert whole.flops == one.flops * 2 * 8
    assert whole.step_seconds == pytest.approx(one.flops * 2 / (989e12 * 0.5))
    assert whole.days == pytest.approx(whole.step_seconds * 10 / 86400)
    assert whole.fits


@pytest.mark.slow
def test_on_the_command_line(cli):
    code, out, _ = cli("plan", "paper.stage3a", "--gpu", "v100-32gb", "--json", "optimization.batch_size=2")
    assert code == 0
    record = json.loads(out)
    assert record["gpus"] == 64
    assert record["cost"]["trained"] < 0.02 * record["cost"]["parameters"]
    code, out, _ = cli("plan", "paper.stage1", "--gpu", "v100-32gb", "optimization.batch_size=2048")
    assert code == 0
    assert "does not fit" in out
    assert "5.7 days" in out


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes())
def test_every_mini_recipe_is_planned_before_any_run_is_made(cli, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("plan", f"mini.{name}", "--gpus", 1, "optimization.batch_size=2")
    assert code == 0, err
    assert "samples seen" in out
    assert "GFLOP" in out
    assert "minutes" in out
    waits = {"stage2": "runs/stage1/final", "stage3b": "runs/stage3a/final", "instructed": "runs/stage3b/final"}
    waits |= dict.fromkeys(("stage1", "blip2"), "runs/bidirectional/final")
    assert ("is not there yet" in out) == (name in waits)
    assert waits.get(name, "") in out


@pytest.mark.slow
def test_restarts_of_codes_do_not_stand_in_the_way_of_a_plan(cli):
    code, out, err = cli("plan", "paper.stage2", "--json", "optimization.batch_size=2")
    assert code == 0, err
    assert json.loads(out)["cost"]["flops"] > 1e12


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paper.stage1", "--gpu", "abacus"], ["abacus", "h100"]),
        (["paper.stage1", "--utilisation", "2"], ["utilisation"]),
        (["paper.stage1", "--gpus", "0"], ["at least 1 GPU"]),
        (["paper.stage9"], ["unknown recipe 'paper.stage9'", "paper.stage"]),
    ],
)
def test_plans_of_nothing_known(cli, arguments, words):
    code, _, err = cli("plan", *arguments)
    assert code == 2
    assert all(word in err for word in words)
