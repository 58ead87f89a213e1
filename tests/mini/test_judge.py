"""The scene judge's labels and verdicts, against reading scenes one by one."""

import itertools

import torch

from seedtok.mini.judge import SceneJudge, Verdict, labels, places_of
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.scenes import unique_scenes

SCENES = unique_scenes("test", 40, 3)


def test_labels_are_what_stands_where():
    things, backgrounds = labels(SCENES)
    for scene, row, background in zip(SCENES, things.tolist(), backgrounds.tolist(), strict=True):
        standing = {thing.place: thing.concept for thing in scene.things}
        expected = [0 if place not in standing else 1 + CONCEPTS.index(standing[place]) for place in PLACES]
        assert row == expected
        assert list(BACKGROUNDS)[background] == scene.background


def test_the_verdict_on_the_truth_is_all_right_and_on_others_what_they_share(monkeypatch):
    """Logits that are certain of the labels of some scenes, compared with those of others."""
    judge = SceneJudge()
    shown = SCENES[:20]
    things, backgrounds = labels(shown)
    logits = torch.eye(1 + len(CONCEPTS))[things], torch.eye(len(BACKGROUNDS))[backgrounds]
    monkeypatch.setattr(judge, "forward", lambda images: logits)
    images = torch.zeros(20, 3, 128, 128)
    truth = judge.verdict(images, shown)
    count = sum(len(scene.things) for scene in shown)
    assert truth == Verdict(count, count, 20, 20)
    assert (truth.thing_share, truth.background_share) == (100, 100)
    others = SCENES[20:]
    right = sum(thing in shown[i].things for i, scene in enumerate(others) for thing in scene.things)
    same = sum(a.background == b.background for a, b in zip(shown, others, strict=True))
    found = judge.verdict(images, others)
    assert found == Verdict(right, sum(len(scene.things) for scene in others), same, 20)
    assert truth + found == Verdict(count + right, count + found.things, 20 + same, 40)


def test_a_place_is_the_mean_of_its_patches():
    """A thing is 3 x 3 cells, at cell 0, 2 or 4 of each axis and possibly one further: 4 x 4 cells in all."""
    patches = torch.randn(2, 64, 5)
    found = places_of(patches)
    for number, (row, column) in enumerate(itertools.product(range(3), range(3))):
        cells = [8 * (2 * row + y) + 2 * column + x for y in range(4) for x in range(4)]
        torch.testing.assert_close(found[:, number], patches[:, cells].mean(1))
    assert list(PLACES.values()) == list(itertools.product(range(3), range(3)))
