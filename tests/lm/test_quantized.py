"""Language models whose matrices are held in 8 and 4 bits: near the whole one, and every image whole."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import QuantoConfig

from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.core.errors import CheckpointError, ConfigError
from seedtok.evaluation.prompts import PAPER
from seedtok.evaluation.readers import SeedReader
from seedtok.lm.base import Quantization, load_base, quantization
from seedtok.lm.prompts import ANSWERING, CAPTION, CAPTIONING
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.evaluation import MiniSet
from tiny_lms import save_llama_of_blocks, with_random_lora

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_llama_of_blocks(tmp_path_factory.mktemp("quantized") / "base")


@pytest.fixture(scope="module")
def saved(base, seed) -> Path:
    """A SEED LM: an adapter on its base."""
    torch.manual_seed(1)
    with_random_lora(SeedLM.build(base, seed)).save_pretrained(base.parent / "lm")
    return base.parent / "lm"


def size_of(model: SeedLM) -> int:
    """Bytes of the matrices in the LM's layers."""
    return sum(
        p.numel() * p.element_size() for n, p in model.joint.lm.named_parameters() if "_proj" in n and "lora" not in n
    )


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "tolerance"), [("8bit", 0.1), ("4bit", 0.5)])
def test_the_lm_is_near_the_whole_one_and_draws(saved, seed, bits, tolerance):
    pytest.importorskip("bitsandbytes")
    whole, quantized = SeedLM.from_pretrained(saved, seed=seed), SeedLM.from_pretrained(saved, seed=seed, quantize=bits)
    assert size_of(quantized) <= size_of(whole) * int(bits[0]) / 32
    codes = quantized.draw_codes(["a fox", "a photo of a red fox"])
    assert codes.shape == (2, 32)
    ids = torch.tensor([whole.joint.sequence([row, "a photo"]) for row in codes])
    with torch.no_grad():
        states = [
            model.joint.lm.model(inputs_embeds=model.joint.embed(ids)).last_hidden_state for model in (whole, quantized)
        ]
    assert (states[1] - states[0]).norm() / states[0].norm() < tolerance
    assert len(quantized.caption(codes, max_new_tokens=4)) == 2


@pytest.mark.slow
def test_what_is_written_of_a_quantized_lm_is_its_adapter(saved, seed, tmp_path):
    pytest.importorskip("bitsandbytes")
    quantized = SeedLM.from_pretrained(saved, seed=seed, quantize="8bit")
    with pytest.raises(CheckpointError, match="a quantized language model is not written as a whole"):
        quantized.save_plain(tmp_path / "plain")
    quantized.save_pretrained(tmp_path / "adapter")
    again, whole = (SeedLM.from_pretrained(folder, seed=seed) for folder in (tmp_path / "adapter", saved))
    for one, other in zip(again.joint.state_dict().values(), whole.joint.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(("table", "bits"), [("captioning", "8bit"), ("vqa", "4bit")])
def test_an_evaluation_of_a_quantized_lm_says_so(saved, seed, cli, monkeypatch, tmp_path, table, bits):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("shutil.which", lambda name: None)  # no Java, which tokenises captions slowly
    arguments = ("evaluate", table, "--model", saved, "--data", "mini:test", "--count", 3, "--beams", 1, "--out")
    code, out, error = cli(*arguments, tmp_path / "out", "--quantize", bits, "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert found["settings"]["quantize"] == bits
    assert found["settings"]["models"]["seed_opt"]["quantization"][f"load_in_{bits}"] is True
    reader = SeedReader(SeedLM.from_pretrained(saved, seed=seed, quantize=bits))
    data, decoding = MiniSet(3, every_wording=True, classic=False), CAPTIONING if table == "captioning" else ANSWERING
    asked = [[CAPTION if table == "captioning" else PAPER.asked(entry.questions[0].text)] for entry in data]
    said = reader.write([data.picture(i) for i in range(3)], asked, replace(decoding, num_beams=1))
    written = json.loads((tmp_path / "out/seed_opt.json").read_text())
    assert [record["caption" if table == "captioning" else "answer"] for record in written] == said
    code, _, error = cli(*arguments, tmp_path / "out")
    assert code == 2
    assert f'made with quantize "{bits}", not null' in error


def test_a_baseline_is_not_quantized(bases, seed, cli, tmp_path):
    seed.embedder.save_pretrained(tmp_path / "qformer")
    PrefixLM.on_qformer(bases["opt"], tmp_path / "qformer").save_pretrained(tmp_path / "baseline")
    code, _, error = cli("evaluate", "vqa", "--model", tmp_path / "baseline", "--quantize", "8bit", "--count", 1)
    assert (code, error.count("\n")) == (2, 1)
    assert "is no SEED language model, and of others none is quantized" in error


def test_what_is_missing_or_unknown_is_said_in_a_line(base, monkeypatch, cli):
    with pytest.raises(ConfigError, match="unknown quantization '2bit': expected 8bit or 4bit"):
        quantization("2bit", torch.float32, CPU)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    code, _, error = cli("draw", "a fox", "--out", "x.png", "--quantize", "4bit")
    assert (code, error.count("\n")) == (2, 1)
    assert "pip install 'seedtok[quantize]'" in error
    with pytest.raises(ConfigError, match=r"cannot quantize .*quanto"):
        load_base(str(base), torch.float32, Quantization(QuantoConfig(weights="int8"), CPU))
