"""Captions read back into scenes."""

from itertools import islice

import pytest

from seedtok.mini.world.grammar import parse_caption, same_scene
from seedtok.mini.world.scenes import PHRASINGS, Scene, Thing, caption, scene_stream


def test_every_caption_in_every_phrasing_is_read_back():
    for scene in islice(scene_stream("train", 5), 150):
        for phrasing in range(PHRASINGS):
            text = caption(scene, phrasing)
            assert same_scene(text, scene), text


def test_what_is_not_right_is_told_from_what_is():
    scene = Scene("red", (Thing("fox", "left"), Thing("cat", "right")))
    assert same_scene("A fox to the left of a cat on a red background.", scene)
    assert not same_scene("a cat to the left of a fox on a red background", scene)
    assert not same_scene("a fox to the left of a cat on a blue background", scene)
    assert not same_scene("a fox on the left on a red background", scene)


@pytest.mark.parametrize(
    "text", ["", "a fox", "on a red background", "a fox on the moon", "a fox a fox red", "red blue fox"]
)
def test_what_is_no_caption_is_no_scene(text):
    assert parse_caption(text) is None
