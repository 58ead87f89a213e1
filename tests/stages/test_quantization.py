"""How stage II starts its codebook, and what it says when codes fall out of use."""

import json
from itertools import count

import pytest
import torch

from seedtok.core.errors import SeedTokWarning
from seedtok.data.batches import Batch
from seedtok.mini import recipes as mini
from seedtok.recipes import paper
from seedtok.stages import image_codes, quantization
from seedtok.training.loop import train
from tiny_runs import first_batches, tiny

COLLAPSED = ("stage.kmeans_per_code=0", "stage.restart_after=none", "optimization.batch_size=16")


def test_the_default_recipe_starts_by_k_means_and_the_published_one_does_not():
    run, published = paper.stage2().stage, paper.stage2_published().stage
    assert run.kmeans_per_code >= 40
    assert run.restart_after is not None
    assert (published.kmeans_per_code, published.restart_after, published.ema_decay) == (0, None, None)
    assert run.model_copy(update={"kmeans_per_code": 0, "restart_after": None}) == published
    assert paper.stage2_published().recipe == "paper.stage2_published"


def test_what_is_ours_is_off_in_the_papers_recipes_and_on_in_the_mini_ones():
    for name in ("scale_decode_head", "mean_feature_bias"):
        assert not getattr(paper.stage2().stage, name)
        assert getattr(mini.stage2().stage, name)
    for recipe in ("stage3a", "stage3b"):
        assert not getattr(paper, recipe)().stage.neighbour_head
        assert getattr(mini, recipe)().stage.neighbour_head
    assert paper.stage1().stage.temperature_bounds is None
    assert mini.stage1().stage.temperature_bounds == (0.01, 0.5)


@pytest.mark.parametrize("wanted", [True, False])
def test_the_output_projections_bias_starts_at_the_mean_text_feature_where_asked(runs, wanted):
    config = tiny("stage2", runs, f"stage.mean_feature_bias={str(wanted).lower()}")
    stage = config.stage.build()
    batches = list(first_batches(config, 8))
    bias = stage.seed.reverse_qformer.output.bias.detach().clone()
    stage.initialize(batches)
    mean = torch.cat([stage.decoder.text_features(batch.canonical) for batch in batches]).mean((0, 1))
    torch.testing.assert_close(stage.seed.reverse_qformer.output.bias.detach(), mean if wanted else bias)


@torch.no_grad()
@pytest.mark.parametrize("normalize", [False, True])
def test_the_decode_head_is_scaled_on_vectors_as_it_gets_them(runs, normalize):
    config = tiny("stage2", runs, f"stage.normalize={str(normalize).lower()}")
    stage = config.stage.build()
    batches = list(first_batches(config, 8))
    stage.initialize(batches)
    vectors = torch.cat([stage._encoder_outputs(batch) for batch in batches])
    if normalize:
        vectors = vectors / vectors.norm(dim=-1, keepdim=True)
    out = stage.seed.decode_head(vectors)
    torch.testing.assert_close(out.mean(0), torch.zeros_like(out[0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(0), torch.ones_like(out[0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("world", [1, 3])
def test_k_means_gets_as_many_outputs_as_the_codes_need_whatever_the_ranks(runs, monkeypatch, world):
    """64 codes at 9 outputs a code are 576: 5 batches of 4 pictures of 32 outputs, or 6 where 3 ranks share them."""
    config = tiny("stage2", runs, "stage.kmeans_per_code=9", "stage.scale_decode_head=false")
    (one,) = first_batches(config, 1)
    given = []
    for rank in range(world):
        stage = config.stage.build()
        for module in (quantization, image_codes):
            monkeypatch.setattr(module, "rank_and_world", lambda rank=rank: (rank, world))
        monkeypatch.setattr(stage.seed.codebook, "initialise", lambda samples: given.append(samples))
        monkeypatch.setattr(stage, "_encoder_outputs", lambda batch: batch.pixels.float().mean().expand(128, 8))
        endless = (Batch(torch.full_like(one.pixels, n), one.captions, one.canonical) for n in count())
        stage.initialize(endless)
    assert len({len(samples) for samples in given}) == 1
    numbers = torch.cat(given)[:, 0].int().bincount()
    assert numbers.tolist() == [128] * (5 if world == 1 else 6)


def test_a_collapsing_codebook_is_warned_of_once(runs, tmp_path):
    config = tiny("stage2", runs, *COLLAPSED, "stage.usage_warning=1.0", "optimization.steps=8")
    with pytest.warns(SeedTokWarning, match=r"of 64 codes are in use") as seen:
        train(config, tmp_path / "run")
    assert sum(warning.category is SeedTokWarning for warning in seen) == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    (warned,) = [line for line in lines if line["kind"] == "warning"]
    assert "stage.kmeans_per_code" in warned["message"]
    assert 2 <= warned["step"] < 7  # once enough codes were counted: 20 * 64, of 512 a step


@pytest.mark.slow
@pytest.mark.parametrize("least", ["none", "0.0"])
def test_the_warning_can_be_switched_off(runs, tmp_path, least):
    config = tiny("stage2", runs, *COLLAPSED, f"stage.usage_warning={least}", "optimization.steps=4")
    train(config, tmp_path / "run")
    assert '"warning"' not in (tmp_path / "run" / "log.jsonl").read_text()
