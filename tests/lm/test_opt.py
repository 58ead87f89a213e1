"""OPT's decoder on the KV cache, against transformers' own."""

import pytest
import torch
from transformers import OPTConfig, OPTForCausalLM

from seedtok.lm.opt import OPTDecoder
from seedtok.lm.sequences import CachedSequences

SIZES = {"vocab_size": 99, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 2}


@torch.no_grad()
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("seed_lm", ["opt"], indirect=True)
def test_states_are_those_of_transformers(model, merged):
    """Of padded prompts that grow by several ids of which some are masked out, with LoRA apart and merged."""
    ids = torch.randint(3, model.vocabulary.text, (23,)).tolist()
    expected = [model.states(model.embed(torch.tensor([row])))[0, -1] for row in (ids[:9], [*ids[2:7], *ids[20:22]])]
    if merged:
        model.network.merge_adapter()
    sequences = CachedSequences(model, [ids[:7], ids[2:7]])
    assert sequences.cache is not None
    assert sequences.cache.decoder is not None
    states = sequences.extend(torch.tensor([ids[7:9], ids[20:22]]))
    torch.testing.assert_close(states[:, -1], torch.stack(expected), rtol=1e-4, atol=1e-5)
    used = torch.tensor([[True, False, True], [True, True, True]])
    states = sequences.extend(torch.tensor([[ids[9], 5, ids[10]], ids[10:13]]), used)
    longer = [ids[:11], [*ids[2:7], *ids[20:22], *ids[10:13]]]
    expected = [model.states(model.embed(torch.tensor([row])))[0, -1] for row in longer]
    torch.testing.assert_close(states[:, -1], torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_others_are_left_to_transformers():
    """OPT-350m's kind, whose norms come after and whose embeddings are projected; layers on several devices."""
    build = lambda **sizes: OPTForCausalLM(OPTConfig(**SIZES | sizes))  # noqa: E731
    assert OPTDecoder.of(build()) is not None
    assert OPTDecoder.of(build(do_layer_norm_before=False)) is None
    assert OPTDecoder.of(build(word_embed_proj_dim=16)) is None
    spread = build()
    spread.hf_device_map = {"model.decoder.layers.0": 0, "model.decoder.layers.1": 1}
    assert OPTDecoder.of(spread) is None
