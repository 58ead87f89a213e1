"""Captions read back into scenes."""

import re
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from seedtok.mini.world.captions import at
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES, PLURALS
from seedtok.mini.world.grammar import parse_caption, read_scene, same_scene
from seedtok.mini.world.scenes import VARIED, WORDINGS, Scene, Thing, caption, scene_stream


def test_every_caption_in_every_wording_is_read_back():
    for scene in islice(scene_stream("train", 5), 60):
        for phrasing in range(WORDINGS):
            text = caption(scene, phrasing)
            assert same_scene(text, scene), text


def test_thousands_of_captions_are_read_back_exactly():
    rng = np.random.default_rng(0)
    for scene in islice(scene_stream("train", 6, world=VARIED), 3000):
        text = caption(scene, int(rng.integers(WORDINGS)))
        assert parse_caption(text) == replace(scene, look=None), text


def test_a_scene_has_many_captions():
    for scene in islice(scene_stream("train", 7, world=VARIED), 50):
        assert len({caption(scene, phrasing) for phrasing in range(WORDINGS)}) >= 30


def test_captions_fit_into_the_text_towers():
    """29 words and commas with two marks: BERT's 32 tokens, and what the mini CLIP leaves before its naming tokens."""
    scenes = list(islice(scene_stream("train", 8), 100))
    assert max(len(re.findall("[a-z]+|,", caption(s, p))) for s in scenes for p in range(WORDINGS)) == 29


def test_no_word_of_a_wording_is_a_thing_or_a_color():
    scenes = list(islice(scene_stream("train", 8), 100))
    words = {w for s in scenes for p in range(WORDINGS) for w in re.findall("[a-z]+", caption(s, p))}
    named = {n for s in scenes for t in s.things for n in (t.concept, PLURALS[t.concept])} | set(BACKGROUNDS)
    assert not (words - named) & {*CONCEPTS, *PLURALS.values(), *BACKGROUNDS}


def test_a_mutilated_caption_is_none_or_that_of_another_scene():
    rng = np.random.default_rng(1)
    read = 0
    for scene in islice(scene_stream("train", 9), 1000):
        words = caption(scene, int(rng.integers(WORDINGS))).split()
        i, j = rng.integers(len(words), size=2)
        words[i], words[j] = words[j], words[i]
        if rng.random() < 0.5:
            del words[i]
        found = parse_caption(" ".join(words))
        if found is not None:
            read += 1
            assert " ".join(words) in {caption(found, phrasing) for phrasing in range(WORDINGS)}
    assert 25 < read < 500


def test_what_is_not_right_is_told_from_what_is():
    scene = Scene("red", (Thing("fox", "left"), Thing("cat", "right")))
    assert same_scene("A fox to the left of a cat on a red background.", scene)
    assert not same_scene("a cat to the left of a fox on a red background", scene)
    assert not same_scene("a fox to the left of a cat on a blue background", scene)
    assert not same_scene("a fox on the left on a red background", scene)


def test_a_list_of_things_and_places_is_read_too():
    """Also where things are alike, of which a caption says how many there are."""
    for scene in islice(scene_stream("train", 10, world=VARIED), 300):
        things = ", ".join(f"a {thing.concept} {at(thing.place)}" for thing in scene.things)
        text = f"a picture of {things} on a {scene.background} background"
        assert same_scene(text, scene), text
        assert not same_scene(text.replace(f"on a {scene.background}", "on a pink"), scene)


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("a hat in the upper part, two hats in the lower part, on red", {"top", "bottom left", "bottom right"}),
        ("two hats at the top and a hat at the bottom, on red", {"top left", "top right", "bottom"}),
        ("on a red background, a hat in the bottom left corner", {"bottom left"}),
        ("one hat on the left side and a single hat on the right side, with a red background", {"left", "right"}),
    ],
)
def test_lists_are_read_in_any_frame(text, things):
    assert read_scene(text) == Scene("red", tuple(Thing("hat", place) for place in PLACES if place in things))


@pytest.mark.parametrize(
    "text",
    [
        "a hats at the top and a hat at the bottom, on red",
        "two hat at the top and a hat at the bottom, on red",
        "two hats on the left, on red",
        "a hat at the top and at the bottom, on red",
        "a hat at the top and a hat at the bottom, on pink",
        "a hat at the top and a hat, on red",
        "a hat at the top and a hat at the top, on red",
    ],
)
def test_what_is_no_list_is_no_scene(text):
    assert read_scene(text) is None


@pytest.mark.parametrize(
    "text", ["", "a fox", "on a red background", "a fox on the moon", "a fox a fox red", "red blue fox"]
)
def test_what_is_no_caption_is_no_scene(text):
    assert parse_caption(text) is None
