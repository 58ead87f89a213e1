"""Samples of ids in packed rows."""

import time

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from seedtok.core.errors import SeedTokWarning
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


def slowly_distributed(lengths: list[int], length: int) -> list[list[int]]:
    """Samples, by their numbers, in rows: row by row more of them, all looked at for each sample."""
    order, count = sorted(range(len(lengths)), key=lambda i: -lengths[i]), max(1, -(-sum(lengths) // length))
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        for i in order:
            min(rows, key=lambda row: sum(lengths[j] for j in row)).append(i)
        if max(sum(lengths[j] for j in row) for row in rows) <= length:
            return rows
        count += 1


def test_the_rows_of_a_seed_stay_what_they_were():
    """Runs are resumed, and repeated, with the samples of a step in the same rows in the same order."""
    rng = np.random.default_rng(0)
    for trial in range(300):
        row = int(rng.integers(8, 60))
        least = int(rng.integers(0, row))  # also such that two samples do not fit into a row
        lengths = rng.integers(least, row + 1, int(rng.integers(0, 40))).tolist()
        ids, segments, _ = pack([([i + 1] * n, [True] * n) for i, n in enumerate(lengths)], row)
        expected = [[i + 1 for i in line for _ in range(lengths[i])] for line in slowly_distributed(lengths, row)]
        found = [line[kept].tolist() for line, kept in zip(ids, segments > 0, strict=True)]
        assert found == expected, trial


def test_many_samples_are_packed_in_no_time():
    rng = np.random.default_rng(0)
    for shortest in (2, 33):  # two of the latter do not fit into a row
        samples = [([1] * n, [True] * n) for n in rng.integers(shortest, shortest + 4, 8000).tolist()]
        begun = time.process_time()
        pack(samples, 64)
        assert time.process_time() - begun < 5


def test_what_is_longer_than_a_row_is_cut():
    with pytest.warns(SeedTokWarning, match="samples that are longer than a row, of 20 ids, are cut"):
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
