"""The floor of retrieval among scenes: what background and places alone tell apart."""

import pytest
import torch

from seedtok.core.recalls import retrieval_recalls
from seedtok.evaluation.retrieval import NEAR_MISS, choices, near_pairs
from seedtok.mini.evaluation import MiniSet, PublishedSet, blind_accuracy, layout_accuracy, recall_floors
from seedtok.mini.world.balanced import Question
from seedtok.mini.world.layouts import layout, told_layout
from seedtok.mini.world.scene import Scene, Thing


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
    found = recall_floors(data)["layout"]
    assert set(found) == set(drawn[0])
    for name, value in found.items():
        assert value == pytest.approx(sum(recalls[name] for recalls in drawn) / len(drawn), abs=1.5), name


def test_choices_of_a_layout_are_those_of_similarities_that_are_1_or_0_with_ties_in_random_order():
    data, noise = MiniSet(200, name="test+near-misses", classic=False), torch.Generator().manual_seed(0)
    seen = [layout(scene) for scene in data.scenes]
    alike = torch.tensor([[float(one == other) for other in seen] for one in seen])
    pairs = near_pairs([{"image_id": entry.id, NEAR_MISS: entry.near_miss or (None, "")} for entry in data])
    floors = recall_floors(data)
    assert set(floors) == {"layout", *(f"layout near miss {what}" for what in pairs)}
    for what, some in pairs.items():
        drawn = [
            choices(alike + 0.5 * torch.rand(alike.shape, generator=noise), torch.arange(len(data)), some)
            for _ in range(100)
        ]
        for name, value in floors[f"layout near miss {what}"].items():
            assert value == pytest.approx(sum(found[name] for found in drawn) / len(drawn), abs=3), (what, name)
    assert floors["layout near miss swap"]["i2t_choice"] == floors["layout near miss thing"]["t2i_choice"] == 50
    assert floors["layout near miss place"]["i2t_choice"] == 100


def test_most_of_the_recall_among_500_scenes_needs_no_thing():
    for name, expected in (("test", 67.6), ("test+near-misses", 49.7)):
        floors = recall_floors(MiniSet(500, name=name, classic=False))
        assert floors["layout"]["r_mean"] == pytest.approx(expected, abs=0.05)


def test_answers_of_a_layout_know_the_background_and_where_a_lone_thing_is_but_no_thing():
    scene = Scene("red", (Thing("fox", "top"), Thing("bee", "left")))
    asked = [Question("color", "What color is the background?", "red"), Question("where", "Where is the fox?", "top")]
    told = [told_layout(question, scene) for question in asked]
    assert [question.text for question in told] == [
        "red: What color is the background?", "left, top: Where is the fox?",
    ]  # fmt: skip
    assert [(question.kind, question.answer) for question in told] == [(q.kind, q.answer) for q in asked]
    data = MiniSet(300, classic=False)
    found, blind = layout_accuracy(data, 4000), blind_accuracy(data)
    assert set(found) == set(blind)
    assert found["color"] == 100
    assert max(found["what"], found["relation"]) < 5  # of 120 things
    alone = [q for scene, q in data.asked_of if q.kind == "where" and len(scene.things) == 1]
    assert found["where"] > 100 * len(alone) / sum(q.kind == "where" for q in data.asked)
    assert blind["accuracy"] + 30 < found["accuracy"] < 70


def test_published_questions_have_a_floor_too():
    data = PublishedSet("gqa", 20)
    assert [question for _, question in data.asked_of] == data.asked
    assert len(data.asked) > len(data)
    assert layout_accuracy(data, 500)["color"] == 100
