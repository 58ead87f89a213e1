"""Samples of ids in packed rows."""

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seedtok.lm.packing import block_causal_mask, pack


def test_packing_keeps_every_sequence_and_wastes_little():
    rng = np.random.default_rng(0)
    for count in (1, 5, 32, 64):
        given = [([i] * n, [False] * (n - 2) + [True] * 2) for i, n in enumerate(rng.integers(30, 60, count), start=3)]
        ids, segments, (rows, columns) = pack(given, 256, pad=1)
        targets = torch.zeros_like(ids, dtype=torch.bool)
        targets[rows, columns] = True
        assert ids.shape == segments.shape
        assert ids.shape[1] <= 256
        found = {}
        for row, number in {(r, int(n)) for r, line in enumerate(segments) for n in line if n}:
            here = segments[row] == number
            found[int(ids[row][here][0])] = (ids[row][here].tolist(), targets[row][here].tolist())
        assert [found[i] for i in sorted(found)] == given
        assert (ids[segments == 0] == 1).all()
        assert not targets[segments == 0].any()
        if count >= 32:
            assert (segments == 0).float().mean() < 0.1


def test_what_is_longer_than_a_row_is_cut():
    rows = pack([([5] * 30, [True] * 30), ([6] * 4, [True] * 4)], 20)
    assert rows.ids.shape == (2, 20)
    assert rows.segments.sum(1).tolist() == [20, 4]
    assert rows.targets.tolist() == [5] * 19 + [6] * 3  # the first of a sequence is predicted by nothing


@pytest.mark.parametrize(("attention", "dtype"), [("eager", torch.float32), ("sdpa", torch.float32), ("sdpa", None)])
def test_a_model_of_transformers_sees_each_sequence_alone(attention, dtype):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=40, **sizes, initializer_range=0.5, attn_implementation=attention)
    ).eval()
    samples = [(torch.randint(3, 40, (n,)).tolist(), [True] * n) for n in (5, 9, 7, 4, 6)]
    rows = pack(samples, 16)
    mask, positions = block_causal_mask(rows.segments, dtype)
    with torch.no_grad():
        logits = model(input_ids=rows.ids, attention_mask=mask, position_ids=positions).logits
        found = logits.log_softmax(-1)
        for ids, _ in samples:
            alone = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            ((row, start),) = (rows.ids.unfold(1, len(ids), 1) == torch.tensor(ids)).all(-1).nonzero().tolist()
            torch.testing.assert_close(found[row, start : start + len(ids)], alone, rtol=1e-4, atol=1e-4)
