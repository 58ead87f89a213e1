"""The KV cache, and which models it is found to work for."""

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
)

from seedtok.lm import probe, texts
from seedtok.lm.adapter import AdapterConfig, VisualAdapter
from seedtok.lm.cache import PreallocatedCache
from seedtok.lm.decoding import draw_codes
from seedtok.lm.model import JointLM
from seedtok.lm.prompts import TextSettings
from tiny_lms import text_tokenizer

SIZES = {"vocab_size": 300, "hidden_size": 32, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
OTHERS = {
    "bloom": (BloomForCausalLM, BloomConfig(**SIZES, n_layer=2, n_head=2, initializer_range=0.3)),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(
        **SIZES, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, initializer_range=0.3,
    )),
    "mamba2": (Mamba2ForCausalLM, Mamba2Config(
        **SIZES, num_hidden_layers=2, num_heads=4, head_dim=16, state_size=8, n_groups=1, chunk_size=8,
    )),
}  # fmt: skip


@pytest.fixture
def other(request) -> JointLM:
    """A tiny model of a family that is not among the usual ones, without LoRA."""
    torch.manual_seed(0)
    kind, config = OTHERS[request.param]
    adapter = VisualAdapter(AdapterConfig(text=300, embedding=32, hidden=32))
    adapter.initialise(torch.randn(8192, 32), torch.randn(300, 32))
    return JointLM(kind(config), text_tokenizer(), adapter.config.vocabulary, adapter).eval()


def test_every_usual_family_is_supported(model):
    assert probe.supports_cache(model)
    assert probe.supports_beam_search(model)


@torch.no_grad()
@pytest.mark.parametrize(
    ("other", "cache", "beams"), [("neox", True, True), ("bloom", True, False), ("mamba2", False, False)],
    indirect=["other"],
)  # fmt: skip
def test_others_are_tried(other, monkeypatch, cache, beams):
    """What does not work is found, and text and images are right all the same."""
    assert probe.supports_cache(other) == cache
    assert probe.supports_beam_search(other) == beams
    prompt, settings = other.sequence(["a fox"]), TextSettings(num_beams=2, max_new_tokens=5)
    found = texts.complete(other, [prompt], settings)
    monkeypatch.setattr(texts, "supports_beam_search", lambda _: False)
    assert found == texts.complete(other, [prompt], settings)
    (codes,) = draw_codes(other, [prompt])
    ids = [*prompt, other.vocabulary.begin]
    for code in codes[:6].tolist():
        assert code == int(other.code_logits(other.states(other.embed(torch.tensor([ids])))[0, -1]).argmax())
        ids.append(other.vocabulary.first_code + code)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_model_that_raises_is_decoded_by_generate(model, monkeypatch):
    def states(*_: object, **__: object) -> torch.Tensor:
        raise TypeError("unknown mask")

    monkeypatch.setattr(model, "states", states)
    assert not probe.supports_beam_search(model)
    assert not probe.supports_cache(model)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_request_that_ends_while_a_model_is_tried_says_nothing_of_the_model(model):
    def ended() -> None:
        raise RuntimeError("the client left")

    model.before_states.append(ended)
    assert probe.supports_beam_search(model)
    assert probe.supports_cache(model)
    assert model.before_states == [ended]


@pytest.mark.parametrize("seed_lm", ["opt"], indirect=True)
def test_a_model_in_training_mode_is_tried_without_dropout(model):
    model.train()
    training = {name for name, module in model.named_modules() if module.training}
    assert probe.supports_cache(model)
    assert training == {name for name, module in model.named_modules() if module.training} != set()


@torch.no_grad()
def test_a_cache_that_was_reset_is_empty(model):
    ids = torch.tensor([model.sequence(["a photo of a fox"])])
    cache = PreallocatedCache(model.lm, room=4)
    first = model.states(model.embed(ids), cache=cache)
    assert cache.get_seq_length() == ids.shape[1]
    cache.reset()
    assert cache.get_seq_length() == 0
    assert torch.equal(model.states(model.embed(ids), cache=cache), first)
    assert cache.get_seq_length() == ids.shape[1]


@torch.no_grad()
def test_truncated_selected_and_replaced_rows(model):
    """A cache after any of its operations stands for the ids that are then in it."""

    def run(cache: PreallocatedCache, rows: list[list[int]]) -> torch.Tensor:
        return model.states(model.embed(torch.tensor(rows)), cache=cache)

    one, other = PreallocatedCache(model.lm, room=3), PreallocatedCache(model.lm, room=3)
    run(one, [[5, 6, 7, 8], [9, 10, 11, 12]])
    run(other, [[13, 14, 15, 16]])
    one.truncate(3)
    one.select_rows(torch.tensor([1, 0, 1]))
    one.truncate(3)
    run(one, [[20], [21], [22]])
    one.replace_row(1, other, 0)
    found = run(one, [[30]] * 3)
    for row, ids in enumerate(([9, 10, 11, 20, 30], [13, 14, 15, 16, 30], [9, 10, 11, 22, 30])):
        expected = model.states(model.embed(torch.tensor([ids])))[0, -1]
        torch.testing.assert_close(found[row, 0], expected, rtol=1e-4, atol=1e-4)
    one.select_positions(torch.tensor([[0, 1, 2]] * 3))
    torch.testing.assert_close(
        run(one, [[20], [40], [22]])[0, 0], model.states(model.embed(torch.tensor([[9, 10, 11, 20]])))[0, -1],
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip
