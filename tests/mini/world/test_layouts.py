"""The floor of retrieval among scenes: what background and places alone tell apart."""

import pytest
import torch

from seedtok.core.recalls import retrieval_recalls
from seedtok.mini.evaluation import MiniSet, PublishedSet, layout_floor
from seedtok.mini.world.layouts import layout


@pytest.mark.parametrize(
    "data",
    [
        MiniSet(40, classic=False),
        MiniSet(40, name="test+near-misses", classic=False),
        PublishedSet("coco", 40),
    ],
    ids=["scenes", "near misses", "several captions"],
)
def test_recalls_of_a_layout_are_those_of_similarities_that_are_1_or_0_with_ties_in_random_order(data):
    seen = [layout(scene) for scene in data.scenes]
    owners = torch.tensor([i for i in range(len(data)) for _ in data[i].captions])
    alike = torch.tensor([[float(one == seen[owner]) for owner in owners] for one in seen])
    queries = torch.arange(len(data)) < data.queries
    noise = torch.Generator().manual_seed(0)
    drawn = [
        retrieval_recalls(alike + 0.5 * torch.rand(alike.shape, generator=noise), owners, queries) for _ in range(400)
    ]
    found = layout_floor(data)
    assert set(found) == set(drawn[0])
    for name, value in found.items():
        assert value == pytest.approx(sum(recalls[name] for recalls in drawn) / len(drawn), abs=1.5), name


def test_most_of_the_recall_among_500_scenes_needs_no_thing():
    assert layout_floor(MiniSet(500, classic=False))["r_mean"] == pytest.approx(67.6, abs=0.05)
    assert layout_floor(MiniSet(500, name="test+near-misses", classic=False))["r_mean"] == pytest.approx(49.7, abs=0.05)
