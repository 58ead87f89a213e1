"""The joint language model: what trains and what stays, its logits and its loss; the layout of its ids."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from seedtok.core.errors import InputError
from seedtok.lm.native import SEED_LLAMA
from seedtok.lm.packing import block_causal_mask, pack
from seedtok.lm.seed_lm import SeedLM
from seedtok.lm.vocabulary import Vocabulary


@pytest.fixture
def ids(model) -> torch.Tensor:
    torch.manual_seed(2)
    codes = torch.randint(0, 8192, (2, 32))
    text = torch.randint(3, model.vocabulary.text, (2, 6))
    return torch.cat([text, model.vocabulary.image_ids(codes), text], dim=1)


def with_targets(ids, columns):
    """Each of the ids' rows alone, with these columns as targets."""
    return pack([(row, [i in columns for i in range(len(row))]) for row in ids.tolist()], ids.shape[1])


# ------------------------------------------------------------ ids


def test_a_layout_may_have_any_order():
    """Codes after text, as SEED-OPT and SEED-LLaMA; boundaries before them and other ids between, as another might."""
    usual, other = Vocabulary.after_text(300), Vocabulary(first_code=50, begin=40, end=41, codes=64, span=4)
    assert (usual.first_code, usual.begin, usual.end) == (300, 8492, 8493)
    assert (usual.text, usual.size, other.text, other.size) == (300, 8494, 40, 114)
    assert other.image_ids(torch.tensor([[0, 63, 5, 1]])).tolist() == [[40, 50, 113, 55, 51, 41]]
    ids = torch.tensor([39, 40, 41, 42, 50, 113, 114])
    assert other.is_visual(ids).tolist() == [False, True, True, False, True, True, False]
    assert other.is_code(ids).tolist() == [False, False, False, False, True, True, False]


def test_codes_that_are_no_image_are_refused(model):
    with pytest.raises(InputError, match="an image is 32 codes; got 31"):
        model.sequence([torch.arange(31)])
    with pytest.raises(InputError, match=r"valid are 0\.\.8191"):
        model.sequence([torch.arange(32) + 8180])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.uint64, np.dtype(">u2")])
def test_codes_of_any_integer_type_have_the_same_ids(kind):
    """Ids beyond what 16 bits hold; stored codes are read-only."""
    vocabulary = Vocabulary.after_text(151_936)
    codes = torch.arange(0, 256, 8)
    expected = [vocabulary.begin, *(codes + 151_936).tolist(), vocabulary.end]
    stored = codes.numpy().astype(kind)
    stored.flags.writeable = False
    native = stored.astype(stored.dtype.newbyteorder("="))
    for given in (stored, torch.from_numpy(native), stored.tolist(), list(stored)):
        ids = vocabulary.image_ids(given)
        assert (ids.tolist(), ids.dtype) == (expected, torch.int64)
        assert torch.equal(vocabulary.code_ids(given), ids[1:-1])
    assert vocabulary.image_ids([stored, stored]).tolist() == [expected, expected]
    assert int(vocabulary.code_ids(stored[3])) == 151_936 + 24
    assert vocabulary.code_ids(7).shape == ()
    found = vocabulary.codes_of(np.array(expected[1:-1], np.uint32))
    assert torch.equal(found, codes)
    assert found.dtype == torch.int64


def test_what_is_no_code_and_no_id_of_one_is_refused():
    vocabulary = Vocabulary.after_text(300)
    for wrong in (torch.tensor([9000, -5]), np.array([8192], np.uint16), [-1], np.array([2**64 - 1], np.uint64)):
        with pytest.raises(InputError, match=r"valid are 0\.\.8191"):
            vocabulary.code_ids(wrong)
    for wrong in (torch.rand(32), [0.5] * 32, "a fox", None):
        with pytest.raises(InputError, match=r"expected (integers|codes as rows of integers)"):
            vocabulary.image_ids(wrong)
    for wrong in (3, [], torch.tensor(3)):
        with pytest.raises(InputError, match="an image is 32 codes"):
            vocabulary.image_ids(wrong)
    for wrong in ([300, 299], [8492], -1):
        with pytest.raises(InputError, match=r"is of no code; ids of codes are 300\.\.8491"):
            vocabulary.codes_of(wrong)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_prompts_take_stored_codes(seed_lm):
    codes = torch.arange(0, 8192, 256)
    expected = seed_lm.sequence([codes, "a fox"])
    for given in (codes.numpy().astype(np.uint16), codes.to(torch.uint16), codes.short(), codes.tolist()):
        assert seed_lm.sequence([given, "a fox"]) == expected
        assert seed_lm.joint.image_ids(given) == expected[1:35]
    seed_lm.joint.names = SEED_LLAMA  # prompts are then tokenized as one text, here letter by letter
    seed_lm.joint.lm.config.max_position_embeddings = 400
    named = seed_lm.sequence([codes, "a"])
    assert seed_lm.sequence([codes.numpy().astype(np.uint16), "a"]) == named
    assert seed_lm.sequence([codes.tolist(), "a"]) == named


# ------------------------------------------------------------ tensors


def test_text_alone_has_the_logits_of_the_base(bases, seed):
    for folder in bases.values():
        model = SeedLM.build(folder, seed).joint
        base = AutoModelForCausalLM.from_pretrained(folder).eval()
        text = torch.randint(3, model.vocabulary.text, (2, 9))
        with torch.no_grad():
            joint = model.logits(model.states(model.embed(text)))
            theirs = base(text).logits
        assert joint.shape == (2, 9, model.vocabulary.size)
        torch.testing.assert_close(joint[..., : theirs.shape[-1]], theirs)


@torch.no_grad()
def test_a_code_is_its_codebook_vector_through_the_fc_layer_and_a_linear_head(model, seed):
    adapter, code = model.adapter, 77
    (embedding,) = model.embed(torch.tensor([[model.vocabulary.first_code + code]]))[0]
    torch.testing.assert_close(embedding, adapter.input_projection(seed.codebook.weight[code]), rtol=1e-6, atol=1e-6)
    begin, end = model.embed(torch.tensor([[model.vocabulary.begin, model.vocabulary.end]]))[0]
    assert torch.equal(torch.stack([begin, end]), adapter.boundary_embeddings.weight)
    states = torch.randn(4, adapter.config.hidden)
    expected = model.logit_map.cap_logits(states @ adapter.visual_head.weight.T)
    torch.testing.assert_close(model.logits(states)[:, model.vocabulary.text :], expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_neighbour_head_scores_codes_by_their_vectors_and_is_stored_in_the_head(model):
    adapter, states = model.adapter, torch.randn(4, model.adapter.config.hidden)
    before = adapter.code_logits(states)
    adapter.add_neighbour_head()
    assert torch.equal(adapter.code_logits(states), before)
    torch.nn.init.normal_(adapter.neighbour_head.weight)
    vectors = adapter.codebook - adapter.codebook.mean(0)
    vectors /= vectors.square().mean().sqrt()
    expected = before + states @ adapter.neighbour_head.weight.T @ vectors.T
    torch.testing.assert_close(adapter.code_logits(states), expected, rtol=1e-4, atol=1e-4)
    stored = adapter.tensors()
    assert not any("neighbour" in name for name in stored)
    torch.testing.assert_close(states @ stored["visual_head.weight"][:-2].T, expected, rtol=1e-4, atol=1e-4)


def test_only_lora_and_the_adapter_train(model, ids):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for _, p in model.trainable()], lr=3.0)
    model.train()
    assert not any(m.training for n, m in model.network.named_modules() if "lora" not in n)
    model.loss(with_targets(ids, range(ids.shape[1]))).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (name.startswith("adapter.") or "lora_" in name), name
    assert "adapter.codebook" not in dict(model.named_parameters())


def test_packed_rows_are_the_sequences_alone(model, ids):
    first, second = ids[0], ids[1, :40]
    row = torch.cat([first, second, first.new_full((5,), 2)])[None]
    segments = torch.cat([torch.full((len(first),), 1), torch.full((len(second),), 2), torch.zeros(5)]).long()[None]
    mask, positions = block_causal_mask(segments)
    with torch.no_grad():
        together = model.states(model.embed(row), mask, positions)[0]
        a, b = (model.states(model.embed(x[None]))[0] for x in (first, second))
    torch.testing.assert_close(together[: len(first)], a, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together[len(first) : -5], b, rtol=1e-3, atol=1e-4)


def test_the_loss_is_that_of_the_targets(model, ids):
    rows = with_targets(ids, range(10, 20))
    assert torch.equal(rows.ids, ids)
    weights = torch.rand(len(rows.targets))
    with torch.no_grad():
        loss, weighted = model.loss(rows), model.loss(rows, weights)
        logits = model.logits(model.states(model.embed(ids)))[:, 9:19]
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 10:20].flatten(), reduction="none")
    torch.testing.assert_close(loss, each.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weighted, (each * weights).sum() / weights.sum(), rtol=1e-4, atol=1e-4)
