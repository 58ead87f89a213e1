"""The start of the mini OPT: what its heads look at before they have learnt anything."""

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from seedtok.mini.mimetic import start_by_copying

WIDTH, HEADS, LENGTH = 256, 4, 40


@pytest.fixture(scope="module")
def lm() -> OPTForCausalLM:
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=500, hidden_size=WIDTH, word_embed_proj_dim=WIDTH, ffn_dim=WIDTH, num_hidden_layers=2,
        num_attention_heads=HEADS, max_position_embeddings=64, dropout=0.0, attn_implementation="eager",
    )  # fmt: skip
    lm = OPTForCausalLM(config).eval()
    start_by_copying(lm, looking=1)
    return lm


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    ids = torch.randperm(400, generator=torch.Generator().manual_seed(1))[:LENGTH] + 10
    ids[30] = ids[10]
    return ids


@torch.no_grad()
def test_heads_look_back_a_word_two_and_three(lm, ids):
    first, second = (layer[0] for layer in lm(ids[None], output_attentions=True).attentions)
    for head in range(1, HEADS):
        assert first[head].diagonal(-head).min() > 0.9
    alike = first[0, 30, 10]
    assert alike > 3 * first[0, 30, 11:30].mean()
    assert not any(second[head].diagonal(-head).mean() > 0.5 for head in range(1, HEADS))


@torch.no_grad()
def test_what_is_looked_at_is_said(lm, ids):
    first, second = (layer.self_attn for layer in lm.model.decoder.layers)
    seen = torch.randn(WIDTH)
    torch.testing.assert_close(second.out_proj.weight @ second.v_proj.weight @ seen, seen, rtol=1e-4, atol=1e-4)
    brought = first.out_proj.weight @ first.v_proj.weight @ seen
    assert abs(torch.cosine_similarity(brought, seen, dim=0)) < 0.6  # three of four heads keep it apart
    assert 0.3 < lm(ids[None]).logits.std() < 3
