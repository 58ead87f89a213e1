"""The joint vocabulary and the LM under it: what trains, what stays, packing, files."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from seedtok.core.errors import CheckpointError
from seedtok.lm.packing import pack, packed
from seedtok.lm.seed_lm import SeedLM


@pytest.fixture
def ids(model) -> torch.Tensor:
    torch.manual_seed(2)
    codes = torch.randint(0, 8192, (2, 32))
    text = torch.randint(3, model.vocabulary.config.text, (2, 6))
    return torch.cat([text, model.vocabulary.span(codes), text], dim=1)


def test_text_alone_is_what_the_base_says(bases, seed):
    for folder in bases.values():
        model = SeedLM.build(folder, seed)
        base = AutoModelForCausalLM.from_pretrained(folder).eval()
        text = torch.randint(3, model.vocabulary.config.text, (2, 9))
        with torch.no_grad():
            joint = model.logits(model.states(model.embed(text)))
            theirs = base(text).logits
        assert joint.shape == (2, 9, len(model.vocabulary))
        torch.testing.assert_close(joint[..., : theirs.shape[-1]], theirs)


def learning(ids, columns):
    """Each of the ids' rows alone, of which these columns are learnt."""
    return pack([(row, [i in columns for i in range(len(row))]) for row in ids.tolist()], ids.shape[1])


def test_only_lora_and_visual_layers_train(model, ids):
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for _, p in model.trainable()], lr=3.0)
    model.train()
    assert not any(m.training for n, m in model.adapter.named_modules() if "lora" not in n)
    model.loss(learning(ids, range(ids.shape[1]))).backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved == (name.startswith("vocabulary.") or "lora_" in name), name
    assert "codebook" not in dict(model.named_parameters())


def test_packed_rows_are_the_sequences_alone(model, ids):
    first, second = ids[0], ids[1, :40]
    row = torch.cat([first, second, first.new_full((5,), 2)])[None]
    segments = torch.cat([torch.full((len(first),), 1), torch.full((len(second),), 2), torch.zeros(5)]).long()[None]
    mask, positions = packed(segments)
    with torch.no_grad():
        together = model.states(model.embed(row), mask, positions)[0]
        a, b = (model.states(model.embed(x[None]))[0] for x in (first, second))
    torch.testing.assert_close(together[: len(first)], a, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together[len(first) : -5], b, rtol=1e-3, atol=1e-4)


def test_packing_keeps_every_sequence_and_wastes_little():
    rng = np.random.default_rng(0)
    for count in (1, 5, 32, 64):
        given = [([i] * n, [False] * (n - 2) + [True] * 2) for i, n in enumerate(rng.integers(30, 60, count), start=3)]
        ids, segments, (rows, columns) = pack(given, 256, pad=1)
        learnt = torch.zeros_like(ids, dtype=torch.bool)
        learnt[rows, columns] = True
        assert ids.shape == segments.shape
        assert ids.shape[1] <= 256
        found = {}
        for row, number in {(r, int(n)) for r, line in enumerate(segments) for n in line if n}:
            here = segments[row] == number
            found[int(ids[row][here][0])] = (ids[row][here].tolist(), learnt[row][here].tolist())
        assert [found[i] for i in sorted(found)] == given
        assert (ids[segments == 0] == 1).all()
        assert not learnt[segments == 0].any()
        if count >= 32:
            assert (segments == 0).float().mean() < 0.1


def test_what_is_longer_than_a_row_is_cut():
    rows = pack([([5] * 30, [True] * 30), ([6] * 4, [True] * 4)], 20)
    assert rows.ids.shape == (2, 20)
    assert rows.segments.sum(1).tolist() == [20, 4]
    assert rows.targets.tolist() == [5] * 19 + [6] * 3  # the first of a sequence is predicted by nothing


def test_loss_is_of_the_learnt_tokens(model, ids):
    rows = learning(ids, range(10, 20))
    assert torch.equal(rows.ids, ids)
    weights = torch.rand(len(rows.targets))
    with torch.no_grad():
        loss, weighted = model.loss(rows), model.loss(rows, weights)
        logits = model.logits(model.states(model.embed(ids)))[:, 9:19]
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 10:20].flatten(), reduction="none")
    torch.testing.assert_close(loss, each.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weighted, (each * weights).sum() / weights.sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("merged", [False, True])
def test_saved_and_loaded_it_says_the_same(model, ids, tmp_path, seed, merged):
    with torch.no_grad():
        before = model.logits(model.states(model.embed(ids)))
    model.save_pretrained(tmp_path / "lm", merged=merged)
    again = SeedLM.from_pretrained(tmp_path / "lm", seed=seed)
    assert (tmp_path / "lm" / "base").is_dir() == merged
    with torch.no_grad():
        after = again.logits(again.states(again.embed(ids)))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_what_does_not_fit_is_refused(bases, seed, tmp_path):
    SeedLM.build(bases["opt"], seed).save_pretrained(tmp_path / "lm")
    with pytest.raises(CheckpointError, match="another base"):
        SeedLM.from_pretrained(tmp_path / "lm", base=bases["llama"], seed=seed)
    with pytest.raises(CheckpointError, match="nowhere/at-all: no such folder"):
        SeedLM.from_pretrained(tmp_path / "lm", base="nowhere/at-all", seed=seed)
    kept = seed.codebook.weight.data.clone()
    seed.codebook.weight.data.neg_()
    try:
        with pytest.raises(CheckpointError, match="another codebook"):
            SeedLM.from_pretrained(tmp_path / "lm", seed=seed)
    finally:
        seed.codebook.weight.data.copy_(kept)
    record = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps(record | {"format": "else"}))
    with pytest.raises(CheckpointError, match="not a SEED language model"):
        SeedLM.from_pretrained(tmp_path / "lm", seed=seed)


@pytest.mark.parametrize("model", ["opt"], indirect=True)
def test_saved_over_an_older_save_it_is_itself_and_other_files_stay(model, ids, tmp_path, seed):
    with torch.no_grad():
        expected = model.logits(model.states(model.embed(ids)))
    folder = tmp_path / "lm"
    model.save_pretrained(folder)
    (folder / "adapter" / "notes.md").write_text("mine")
    model.save_pretrained(folder, merged=True)
    assert (folder / "adapter" / "notes.md").read_text() == "mine"
    assert not list(folder.glob("adapter/adapter_*"))  # it is in the base now, and not applied twice
    for _ in range(2):  # and again in place, where its base is
        again = SeedLM.from_pretrained(folder, seed=seed)
        with torch.no_grad():
            found = again.logits(again.states(again.embed(ids)))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        again.save_pretrained(folder)
