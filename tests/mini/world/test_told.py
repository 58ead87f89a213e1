"""Fields of captions, on captions with one field changed and on texts that are no captions."""

import pytest

from seedtok.mini.world.captions import caption
from seedtok.mini.world.near_misses import near_misses
from seedtok.mini.world.scene import Scene, Thing
from seedtok.mini.world.scenes import VARIED, unique_scenes, wordings
from seedtok.mini.world.told import FIELDS, told_right

FOX_CAKE = Scene("blue", (Thing("fox", "left"), Thing("cake", "right")))
BIRDS = Scene("red", (Thing("bird", "top"), Thing("bird", "bottom")))

NO_SCENE = dict.fromkeys(("exact", "counts", "places", "in_place"), 0)


def shares(text: str, scene: Scene) -> dict[str, float]:
    return {field: right / total for field, (right, total) in told_right(text, scene).items()}


def test_every_wording_of_a_scene_is_all_right():
    for scene in unique_scenes("test", 30, 5, VARIED):
        for wording in range(wordings(scene)):
            assert shares(caption(scene, wording), scene) == dict.fromkeys(FIELDS, 1.0)


@pytest.mark.parametrize(
    ("text", "scene", "wrong"),
    [
        ("a fox to the left of a cake on a red background", FOX_CAKE, {"exact": 0, "backgrounds": 0}),
        ("a cat to the left of a cake on a blue background", FOX_CAKE, {"exact": 0, "things": 0.5, "in_place": 0.5}),
        ("a cake to the left of a fox on a blue background", FOX_CAKE, {"exact": 0, "in_place": 0}),
        ("a fox above a cake on a blue background", FOX_CAKE, {"exact": 0, "places": 0, "in_place": 0}),
        (
            "a fox on the left on a blue background",
            FOX_CAKE,
            {"exact": 0, "things": 0.5, "counts": 0, "places": 0, "in_place": 0.5},
        ),
        ("two birds one above the other on a red background", BIRDS, {}),
        ("a bird in the upper part and a bird at the bottom, on red", BIRDS, {}),
        ("a bird above a cat on a red background", BIRDS, {"exact": 0, "things": 0.5, "in_place": 0.5}),
        # no captions of the world
        ("fox, cake and blue", FOX_CAKE, NO_SCENE),
        ("birds in red", BIRDS, NO_SCENE),
        ("a bird, red or blue", BIRDS, NO_SCENE | {"things": 0.5, "backgrounds": 0}),
        ("", FOX_CAKE, dict.fromkeys(FIELDS, 0)),
    ],
)
def test_a_field_is_wrong_alone(text, scene, wrong):
    assert shares(text, scene) == dict.fromkeys(FIELDS, 1.0) | wrong


def test_a_near_miss_is_never_exact():
    scenes = unique_scenes("test", 40, 6, VARIED)
    for scene, miss in zip(scenes, near_misses(scenes, 6), strict=True):
        found = shares(caption(miss), scene)
        assert found["exact"] == 0
        assert sum(value == 1 for value in found.values()) >= 1
