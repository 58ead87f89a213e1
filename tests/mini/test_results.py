"""What `seedtok evaluate --json` says of scenes, on tiny models in place of the shipped ones."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.evaluation import blind_accuracy
from seedtok.mini.judge import JudgeConfig, SceneJudge
from seedtok.mini.scene_clip import SceneClip, SceneClipConfig
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.tokenizer.vision import VisionConfig

SETS = ("test", "test-unseen-hands", "test+near-misses")
FIELDS = {"exact", "things", "backgrounds", "counts", "places", "in_place"}
VISION = VisionConfig(image_size=64, patch_size=8, width=16, layers=1, heads=2, mlp_width=32)
CLIP = SceneClipConfig(VISION, text_width=16, text_layers=1, projection=12)


@pytest.fixture(scope="module")
def weights(tiny_tokenizer, bases, seed, tmp_path_factory) -> Path:
    """A folder of tiny models by the names of the shipped parts."""
    folder = tmp_path_factory.mktemp("shipped")
    torch.manual_seed(0)
    SeedTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(folder / "tokenizer")
    for part in ("lm", "lm_captions"):
        SeedLM.build(bases["opt"], SeedTokenizer.from_pretrained(folder / "tokenizer")).save_pretrained(folder / part)
    config = seed.embedder.config
    config = replace(config, qformer=replace(config.qformer, causal=False))
    ImageTextEmbedder(config, seed.embedder.text_tokenizer).save_pretrained(folder / "bidirectional")
    PrefixLM.on_qformer(bases["opt"], folder / "bidirectional").save_pretrained(folder / "blip2")
    SceneJudge(JudgeConfig(VISION)).save_pretrained(folder / "judge")
    SceneClip(CLIP).save_pretrained(folder / "eval_clip")
    return folder


@pytest.fixture
def evaluated(weights, cli, monkeypatch):
    """The result of a command on a set, without what it was made by."""
    for module in ("core.hub", "cli.evaluate_support"):
        monkeypatch.setattr(f"seedtok.{module}.shipped", lambda part: weights / part)
    monkeypatch.setattr("seedtok.mini.evaluation.blind_accuracy", partial(blind_accuracy, told=200))
    monkeypatch.setattr("shutil.which", lambda name: None)  # no Java, which tokenises captions slowly

    def run(table: str, name: str, *options: object) -> dict:
        code, out, error = cli("evaluate", table, "--data", f"mini:{name}", "--count", 4, "--json", *options)
        assert (code, error) == (0, "")
        return json.loads(out)

    return run


def check_percent(*groups: dict[str, float]) -> None:
    for scores in groups:
        assert all(0 <= value <= 100 for value in scores.values()), scores


@pytest.mark.parametrize("name", SETS)
def test_captions(evaluated, weights, name):
    found = evaluated("captioning", name, "--beams", 1, "--beside", weights / "blip2")
    for row in ("seed_opt", "blip2"):
        assert set(found[row]) == FIELDS | {"bleu4", "meteor", "rouge_l", "cider", "spice"}
        check_percent({field: found[row][field] for field in FIELDS})


@pytest.mark.parametrize("name", SETS)
def test_answers(evaluated, weights, name):
    found = evaluated("vqa", name, "--beams", 1, "--beside", weights / "blip2")
    for row in ("instructed", "zero_shot", "blip2", "blind_prior"):
        assert "accuracy" in found[row]
        check_percent(found[row])
    assert found["count"] == (8 if "near" in name else 4)


@pytest.mark.parametrize("name", SETS)
def test_drawings(evaluated, name):
    found = evaluated("generation", name)
    ways = {"caption", "seed"}
    assert set(found["frechet"]) == ways | {"real"}
    assert all(value >= 0 for value in found["frechet"].values())
    for score in ("things_right", "background_right"):
        assert set(found[score]) == ways
        check_percent(found[score])
    assert set(found["clip_similarity"]) == ways
    check_percent(found["judge_on_real"])


@pytest.mark.parametrize("name", SETS)
def test_recalls(evaluated, weights, name):
    found = evaluated("retrieval", name, "--beside", weights / "bidirectional")
    for row in ("bidirectional", "causal_embedding", "causal_code"):
        assert set(found[row]) == {f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)} | {"r_mean"}
        check_percent(found[row])
