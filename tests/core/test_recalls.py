"""Recalls and similarities, against counting one by one."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from seedtok.core.recalls import best_cosines, retrieval_recalls


def by_hand(similarity: torch.Tensor, owners: list[int], queries: list[bool] | None = None) -> dict[str, float]:
    """Ranks by sorting, a picture found by the first of its texts; whatever ties stands before."""
    asks = queries or [True] * len(similarity)
    images, texts = similarity.shape
    ranks: dict[str, list[int]] = {"i2t": [], "t2i": []}
    for i in range(images):
        own = [t for t in range(texts) if owners[t] == i]
        if own and asks[i]:
            best = max(float(similarity[i, t]) for t in own)
            others = [t for t in range(texts) if t not in own and float(similarity[i, t]) >= best]
            ranks["i2t"].append(1 + len(others))
    for t in [t for t in range(texts) if asks[owners[t]]]:
        mine = float(similarity[owners[t], t])
        ranks["t2i"].append(1 + sum(i != owners[t] and float(similarity[i, t]) >= mine for i in range(images)))
    out = {f"{way}_r{k}": 100 * float(np.mean([rank <= k for rank in ranks[way]])) for way in ranks for k in (1, 5, 10)}
    return out | {"r_mean": float(np.mean(list(out.values())))}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("levels", [4, 10_000])  # few levels make many ties
def test_recalls_are_those_counted_one_by_one(seed: int, levels: int):
    rng = np.random.default_rng(seed)
    images = int(rng.integers(2, 40))
    owners = [*range(images), *rng.integers(images, size=int(rng.integers(0, 4 * images)))]
    rng.shuffle(owners)
    owners = list(map(int, owners))
    similarity = torch.from_numpy(rng.integers(levels, size=(images, len(owners))).astype(np.float32))
    assert retrieval_recalls(similarity, torch.tensor(owners)) == pytest.approx(by_hand(similarity, owners))
    queries = [bool(q) for q in rng.random(images) < 0.6]
    queries[0] = True
    found = retrieval_recalls(similarity, torch.tensor(owners), torch.tensor(queries))
    assert found == pytest.approx(by_hand(similarity, owners, queries))
    if levels == 4:
        return
    square = similarity[:, :images]
    assert retrieval_recalls(square) == pytest.approx(by_hand(square, list(range(images))))


def test_a_picture_without_a_text_is_not_asked_for_one():
    similarity = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.1, 0.1]])
    assert retrieval_recalls(similarity, torch.tensor([0, 1]))["i2t_r1"] == 100


def test_what_is_no_number_finds_nothing():
    assert retrieval_recalls(torch.full((3, 3), float("nan")))["r_mean"] == 0
    similarity = torch.eye(3)
    similarity[1] = float("nan")
    assert retrieval_recalls(similarity)["i2t_r10"] == pytest.approx(200 / 3)


@pytest.mark.parametrize("queries", [None, 1, 7])
@pytest.mark.parametrize("room", [1, 3000, 1 << 28])
def test_cosines_are_of_the_best_query_however_little_room_there_is(queries, room):
    torch.manual_seed(0)
    shape = (13, 16) if queries is None else (13, queries, 16)
    images, texts = torch.randn(shape), torch.randn(29, 16)
    each = [[(image.view(-1, 16) @ text).max() for text in texts] for image in images]
    torch.testing.assert_close(best_cosines(images, texts, room), torch.tensor(each), rtol=1e-5, atol=1e-5)


def test_cosines_take_no_more_than_their_room():
    """All at once, the cosines of all queries would be 13 MB."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            largest = max(largest, out.nbytes if isinstance(out, torch.Tensor) else 0)
            return out

    images, texts = torch.randn(200, 32, 4), torch.randn(500, 4)
    with Watch():
        best_cosines(images, texts, 1 << 20)
    assert largest <= 1 << 20
