"""Sets of scenes by name."""

from dataclasses import replace

import pytest

from seedtok.mini.world.hands import HELD_OUT_HANDS, SEEN_HANDS
from seedtok.mini.world.near_misses import near_misses
from seedtok.mini.world.scenes import split_of, unique_scenes
from seedtok.mini.world.sets import SET_NAMES, scene_set


def test_test_sets_are_the_same_scenes_by_seen_and_unseen_hands():
    seen, unseen, classic = (
        scene_set("test", 50),
        scene_set("test-unseen-hands", 50),
        scene_set("test", 50, classic=True),
    )
    assert [replace(s, look=None) for s in seen] == [replace(s, look=None) for s in unseen]
    assert [replace(s, look=None) for s in seen] == [replace(s, shift=(0, 0)) for s in classic]
    assert {look.hand for s in seen for look in s.look.things} == set(SEEN_HANDS)
    assert {look.hand for s in unseen for look in s.look.things} == set(HELD_OUT_HANDS)
    assert classic == unique_scenes("test", 50)


@pytest.mark.parametrize("name", SET_NAMES)
def test_every_set_is_what_it_is_called(name):
    scenes = scene_set(name, 30, seed=4)
    assert scenes == scene_set(name, 30, seed=4)
    assert len(scenes) == 30
    if name.endswith("-near-misses"):
        assert scenes == near_misses(scene_set(name.removesuffix("-near-misses"), 30, seed=4), seed=4)
    else:
        assert {split_of(s) for s in scenes} == {name.partition("-")[0]}


def test_errors_say_what_is_possible():
    with pytest.raises(
        ValueError, match="no set 'dev': choose train, validation, test, test-unseen-hands, test-all-hands, test-n"
    ):
        scene_set("dev", 1)
    with pytest.raises(ValueError, match="drawn by OpenMoji alone: test-unseen-hands is of varied ones"):
        scene_set("test-unseen-hands-near-misses", 1, classic=True)
