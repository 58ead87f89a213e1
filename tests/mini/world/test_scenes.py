"""The mini world: the same from the same seed, split by combination, described in good English."""

from itertools import islice

import numpy as np
import pytest

from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, EMOJI, PLACES, PLURALS
from seedtok.mini.world.scenes import (
    PHRASINGS,
    SPLITS,
    Scene,
    Thing,
    caption,
    icon,
    render,
    sample_scene,
    scene_stream,
    sibling,
    split_of,
    unique_scenes,
)


def scene(*things: tuple[str, str], background: str = "blue", shift: tuple[int, int] = (0, 0)) -> Scene:
    return Scene(background, tuple(Thing(*thing) for thing in things), shift)


@pytest.fixture(scope="module")
def streams() -> dict[str, list[Scene]]:
    return {split: list(islice(scene_stream(split, seed=5), 2000)) for split in SPLITS}


def test_vocabulary_is_whole():
    assert len(CONCEPTS) >= 100
    assert len(BACKGROUNDS) == 8
    assert len(set(CONCEPTS)) == len(CONCEPTS) == len(set(EMOJI.values()))
    assert PLURALS["snowman"] == "snowmen"
    assert PLURALS["strawberry"] == "strawberries"
    assert PLURALS["fox"] == "foxes"
    assert PLURALS["sheep"] == "sheep"
    assert PLURALS["key"] == "keys"


@pytest.mark.parametrize("split", SPLITS)
def test_a_stream_is_a_function_of_split_seed_and_index(split):
    first = list(islice(scene_stream(split, seed=1), 40))
    assert first == list(islice(scene_stream(split, seed=1), 40))
    assert first != list(islice(scene_stream(split, seed=2), 40))
    assert first[7:] == list(islice(scene_stream(split, seed=1, start=7), 33))
    assert first[1::3] == list(islice(scene_stream(split, seed=1, start=1, step=3), 13))


def test_grouped_stream_resumes_within_a_group():
    whole = list(islice(scene_stream("train", seed=1, group=4), 24))
    assert whole[6:] == list(islice(scene_stream("train", seed=1, start=6, group=4), 18))
    for base in range(0, 24, 4):
        assert all(member != whole[base] for member in whole[base + 1 : base + 4])


def test_scenes_stay_in_their_split(streams):
    for split, scenes in streams.items():
        assert all(split_of(s) == split for s in scenes)


def test_splits_share_no_caption_in_any_phrasing(streams):
    said = {
        split: {caption(s, phrasing) for s in scenes for phrasing in range(PHRASINGS)}
        for split, scenes in streams.items()
    }
    assert said["train"].isdisjoint(said["validation"])
    assert said["train"].isdisjoint(said["test"])
    assert said["validation"].isdisjoint(said["test"])


def test_split_ignores_places_order_and_shift():
    one = scene(("cat", "left"), ("dog", "right"))
    other = scene(("dog", "top"), ("cat", "bottom"), shift=(1, 1))
    assert split_of(one) == split_of(other)


def test_every_concept_background_and_place_is_trained_on(streams):
    scenes = streams["train"]
    assert {t.concept for s in scenes for t in s.things} == set(CONCEPTS)
    assert {s.background for s in scenes} == set(BACKGROUNDS)
    assert {t.place for s in scenes for t in s.things} == set(PLACES)
    assert {len(s.things) for s in scenes} == {1, 2, 3}


def test_two_captions_are_equal_only_for_equal_scenes(streams):
    for phrasing in (0, PHRASINGS - 1):
        shown: dict[str, tuple] = {}
        for s in streams["train"]:
            content = (s.background, frozenset(s.things))
            assert shown.setdefault(caption(s, phrasing), content) == content


def test_sibling_differs_in_what_a_caption_says(streams):
    rng = np.random.default_rng(0)
    for s in streams["train"][:500]:
        other = sibling(s, rng, "train")
        assert caption(other) != caption(s)
        assert split_of(other) == "train"
        assert len(other.things) == len(s.things)


def test_sample_scene_follows_its_generator():
    drawn = [sample_scene(np.random.default_rng(3), "test") for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_unique_scenes_have_unique_captions():
    scenes = unique_scenes("validation", 500, seed=2)
    assert len({caption(s) for s in scenes}) == 500
    assert scenes == unique_scenes("validation", 500, seed=2)
    assert scenes[:100] == unique_scenes("validation", 100, seed=2)


def test_json_round_trip(streams):
    for s in streams["test"][:200]:
        assert Scene.from_json(s.to_json()) == s


@pytest.mark.parametrize(
    ("given", "phrasing", "expected"),
    [
        (scene(("apple", "middle")), 0, "an apple in the middle on a blue background"),
        (scene(("unicorn", "left")), 0, "a unicorn on the left on a blue background"),
        (scene(("umbrella", "top left")), 5, "at the top left an umbrella on a blue background"),
        (
            scene(("owl", "left"), ("fox", "right"), background="orange"),
            0,
            "an owl to the left of a fox on an orange background",
        ),
        (scene(("owl", "left"), ("fox", "right")), 5, "a fox to the right of an owl on a blue background"),
        (scene(("owl", "top"), ("fox", "bottom")), 1, "a picture of an owl above a fox on a blue background"),
        (scene(("owl", "top"), ("fox", "bottom")), 9, "a fox below an owl, on blue"),
        (
            scene(("snowman", "left"), ("snowman", "right")),
            2,
            "on a blue background, two snowmen side by side",
        ),
        (
            scene(("bee", "top left"), ("bee", "bottom right")),
            0,
            "two bees at the top left and the bottom right on a blue background",
        ),
        (
            scene(*((("sheep", p)) for p in ("top left", "top right", "bottom")), background="orange"),
            3,
            "an orange background with three sheep, two at the top and one at the bottom",
        ),
        (
            scene(("egg", "top"), ("fish", "bottom left"), ("fish", "bottom right")),
            0,
            "an egg at the top and two fish at the bottom on a blue background",
        ),
        (
            scene(("owl", "top left"), ("cat", "top right"), ("dog", "bottom")),
            4,
            "an owl at the top left, a cat at the top right and a dog at the bottom, on blue",
        ),
    ],
)
def test_captions_read_well(given, phrasing, expected):
    assert caption(given, phrasing) == expected


@pytest.mark.parametrize("size", [64, 128])
def test_render_draws_things_where_the_scene_puts_them(size):
    s = scene(("apple", "top left"), ("fox", "bottom right"))
    picture = render(s, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, render(s, size))
    inked = (picture != BACKGROUNDS["blue"]).any(-1)
    half = size // 2
    assert inked[:half, :half].any()
    assert inked[half:, half:].any()
    assert not inked[:half, half:].any()
    assert not inked[half:, :half].any()


def test_shift_moves_the_whole_scene_by_a_cell():
    still = render(scene(("apple", "middle")), 128)
    moved = render(scene(("apple", "middle"), shift=(1, 0)), 128)
    assert np.array_equal(np.roll(still, 16, axis=0), moved)


def test_icons_fit_and_are_read_only():
    for concept in CONCEPTS[::10]:
        ink = icon(concept, 24)
        assert ink.shape == (24, 24, 4)
        assert ink[..., 3].max() > 200
        assert not ink.flags.writeable


def test_errors_say_what_is_possible():
    with pytest.raises(ValueError, match="64 or 128 pixels, not 100"):
        render(scene(("apple", "middle")), 100)


def test_a_split_that_runs_out_says_so(monkeypatch):
    monkeypatch.setattr("seedtok.mini.world.scenes.scene_stream", lambda *_: iter([scene(("apple", "middle"))] * 2000))
    with pytest.raises(ValueError, match="gave 1 different scenes; asked for 5"):
        unique_scenes("test", 5)
