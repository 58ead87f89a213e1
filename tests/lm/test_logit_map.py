"""Our logits of text are the LM's own, whatever it does between its decoder and its logits."""

import pytest
import torch
from torch import nn
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from seedtok.core.errors import CheckpointError
from seedtok.lm.logit_map import LogitMap, measure_logit_map
from seedtok.lm.seed_lm import SeedLM

SIZES = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 64, "max_position_embeddings": 160, "vocab_size": 300, "initializer_range": 0.5,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
}  # fmt: skip
SCALED = {
    "cohere": (CohereForCausalLM, CohereConfig, {"logit_scale": 0.0625}, LogitMap(scale=0.0625)),
    "cohere2": (Cohere2ForCausalLM, Cohere2Config, {"logit_scale": 0.25}, LogitMap(scale=0.25)),
    "granite": (GraniteForCausalLM, GraniteConfig, {"logits_scaling": 6.0}, LogitMap(scale=1 / 6)),
    "gemma2": (Gemma2ForCausalLM, Gemma2Config, {"final_logit_softcapping": 5.0}, LogitMap(cap=5.0)),
    "llama": (LlamaForCausalLM, LlamaConfig, {}, LogitMap()),
}


def tiny(family: str):
    kind, config, settings, _ = SCALED[family]
    torch.manual_seed(0)
    return kind(config(**SIZES, **settings)).eval()


@pytest.mark.parametrize("family", SCALED)
def test_the_joint_logits_of_text_are_those_of_the_model(family, tmp_path, bases, seed):
    lm = tiny(family)
    lm.save_pretrained(tmp_path / family)
    for file in bases["llama"].glob("tokenizer*"):
        (tmp_path / family / file.name).write_bytes(file.read_bytes())
    model = SeedLM.build(tmp_path / family, seed).joint
    ids = torch.randint(3, 300, (2, 9))
    with torch.no_grad():
        theirs = lm(ids).logits
        ours = model.logits(model.states(model.embed(ids)))[..., :300]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SCALED)
def test_the_scale_and_the_cap_are_measured_exactly(family, dtype):
    found, expected = measure_logit_map(tiny(family).to(dtype)), SCALED[family][3]
    assert (found.state_scale, found.cap) == (expected.state_scale, expected.cap)
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)


class Divided(LlamaForCausalLM):
    """A model that divides its states before the head, as MiniCPM does."""

    def forward(self, input_ids=None, **options):
        states = self.model(input_ids=input_ids).last_hidden_state
        return type("Output", (), {"logits": self.lm_head(states / 4)})


class Shifted(LlamaForCausalLM):
    """A model whose logits have a bias that is no part of its head."""

    def forward(self, input_ids=None, **options):
        logits = self.lm_head(self.model(input_ids=input_ids).last_hidden_state)
        return type("Output", (), {"logits": logits + torch.arange(logits.shape[-1])})


class Deeper(LlamaForCausalLM):
    """A model with a layer between its decoder and its head."""

    def forward(self, input_ids=None, **options):
        states = nn.functional.relu(self.model(input_ids=input_ids).last_hidden_state)
        return type("Output", (), {"logits": self.lm_head(states)})


def test_states_may_be_scaled_before_the_head():
    assert measure_logit_map(Divided(LlamaConfig(**SIZES)).eval()).state_scale == pytest.approx(0.25, rel=1e-6)


@pytest.mark.parametrize("kind", [Shifted, Deeper])
def test_what_would_be_wrong_is_refused(kind):
    with pytest.raises(CheckpointError, match="not supported"):
        measure_logit_map(kind(LlamaConfig(**SIZES)).eval())


def test_the_probe_leaves_nothing_behind():
    lm = tiny("granite")
    ids = torch.randint(3, 300, (1, 5))
    with torch.no_grad():
        before = lm(ids).logits
        measure_logit_map(lm)
        assert torch.equal(lm(ids).logits, before)


def test_a_model_without_values_gets_no_map():
    with torch.device("meta"):
        lm = LlamaForCausalLM(LlamaConfig(**SIZES))
    assert measure_logit_map(lm) == LogitMap()
