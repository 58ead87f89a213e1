"""Samples of ids in packed rows."""

import numpy as np
import torch

from seedtok.lm.packing import pack


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
