"""The mini world: the same from the same seed, split by combination, described in good English."""

import hashlib
import json
import math
from dataclasses import replace
from itertools import combinations, islice, product

import numpy as np
import pytest

from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, EMOJI, PLACES, PLURALS
from seedtok.mini.world.drawing import render
from seedtok.mini.world.hands import HELD_OUT_HANDS, SEEN_HANDS
from seedtok.mini.world.looks import AWAY, SHADES, SIZES, STEP, TURN, UNMIRRORED
from seedtok.mini.world.scene import Ground
from seedtok.mini.world.scenes import (
    CLASSIC,
    PHRASINGS,
    SPLITS,
    UNSEEN_HANDS,
    VARIED,
    WORDINGS,
    Scene,
    Thing,
    World,
    caption,
    sample_scene,
    scene_stream,
    sibling,
    split_of,
    unique_scenes,
    wordings,
)

pytestmark = pytest.mark.slow


def scene(*things: tuple[str, str], background: str = "blue", shift: tuple[int, int] = (0, 0)) -> Scene:
    return Scene(background, tuple(Thing(*thing) for thing in things), shift)


@pytest.fixture(scope="module")
def streams() -> dict[str, list[Scene]]:
    counts = {"train": 2000, "validation": 400, "test": 400}
    return {split: list(islice(scene_stream(split, seed=5), counts[split])) for split in SPLITS}


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
        split: {caption(s, phrasing) for s in scenes for phrasing in (0, 7, WORDINGS // 2, WORDINGS - 1)}
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
    for phrasing in (0, PHRASINGS - 1, WORDINGS // 2, WORDINGS - 1):
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


def test_a_split_that_runs_out_says_so(monkeypatch):
    monkeypatch.setattr(
        "seedtok.mini.world.scenes.scene_stream", lambda *_, **__: iter([scene(("apple", "middle"))] * 2000)
    )
    with pytest.raises(ValueError, match="gave 1 different scenes; asked for 5"):
        unique_scenes("test", 5)


# ---------------------------------------------------------------- classic and varied worlds


def test_classic_scenes_and_captions_are_what_they_always_were():
    """As when the shipped weights were trained."""
    digest = hashlib.sha256()
    for s in islice(scene_stream("test", 3, group=4), 400):
        for phrasing in range(PHRASINGS):
            digest.update(caption(s, phrasing).encode())
        digest.update(json.dumps(s.to_json()).encode())
    assert digest.hexdigest() == "af162adff83d7f000efc4a7116037ea6b36d68df918aa6b9c7a657e24a9ceb6d"
    assert PHRASINGS == wordings(s) == 10


@pytest.mark.parametrize("world", [VARIED, UNSEEN_HANDS])
def test_worlds_have_the_same_scenes_in_looks_of_their_own(world):
    classic, varied = (list(islice(scene_stream("test", 2, group=2, world=w), 200)) for w in (CLASSIC, world))
    assert [replace(s, shift=(0, 0)) for s in classic] == [replace(s, look=None) for s in varied]
    assert {look.hand for s in varied for look in s.look.things} == set(world.hands)
    assert varied[5:] == list(islice(scene_stream("test", 2, 5, group=2, world=world), 195))
    assert varied[1::3] == list(islice(scene_stream("test", 2, 1, 3, group=2, world=world), 67))
    assert all(wordings(s) == WORDINGS > 80 for s in varied)


def test_no_split_of_the_varied_world_shows_a_held_out_hand():
    for split in SPLITS:
        hands = {look.hand for s in islice(scene_stream(split, 0, world=VARIED), 150) for look in s.look.things}
        assert hands == set(SEEN_HANDS)
        assert not hands & set(HELD_OUT_HANDS)


def test_looks_vary_as_far_as_they_may():
    scenes = list(islice(scene_stream("train", 9, world=VARIED), 3000))
    looks = [look for s in scenes for look in s.look.things]
    sizes, turns = [look.size for look in looks], [look.turn for look in looks]
    assert SIZES[0] <= min(sizes) < SIZES[0] + 0.01
    assert SIZES[1] - 0.01 < max(sizes) <= SIZES[1]
    assert TURN - 0.2 < max(turns) <= TURN
    assert -TURN <= min(turns) < -TURN + 0.2
    away = [abs(part) for look in looks for part in (look.down, look.right)]
    assert AWAY - 0.01 < max(away) <= AWAY
    assert 0.45 < np.mean([look.mirrored for look in looks]) < 0.52
    unmirrored = [
        look for s in scenes for t, look in zip(s.things, s.look.things, strict=True) if t.concept in UNMIRRORED
    ]
    assert len(unmirrored) > 30
    assert not any(look.mirrored for look in unmirrored)
    for color, (low, high) in SHADES.items():
        shades = [s.look.ground for s in scenes if s.background == color]
        assert low <= min(min(g.start, g.end) for g in shades) < low + 0.03
        assert high - 0.03 < max(max(g.start, g.end) for g in shades) <= high
        assert all(abs(g.start - g.end) <= STEP + 1e-9 for g in shades)
    assert 0.4 < np.mean([s.look.ground.start == s.look.ground.end for s in scenes]) < 0.7


def test_things_keep_inside_the_picture_and_apart():
    for s in islice(scene_stream("train", 10, world=VARIED), 2000):
        boxes = []
        for thing, look in zip(s.things, s.look.things, strict=True):
            row, column = PLACES[thing.place]
            half = 45 / 32 * look.size * math.cos(math.radians(look.turn))
            boxes.append((2 * row + 2 + look.down, 2 * column + 2 + look.right, half))
            assert all(half <= at <= 8 - half for at in boxes[-1][:2])
        for (y, x, half), (other_y, other_x, other_half) in combinations(boxes, 2):
            assert max(abs(y - other_y), abs(x - other_x)) >= half + other_half


def test_a_tidy_artist_draws_as_classic_scenes_are_drawn():
    """On whole cells, upright, of one size: but for the ground, and how a drawing is reduced, pixel for pixel."""
    tidy = list(islice(scene_stream("train", 11, world=World(("openmoji",), tidy=True)), 40))
    for s in tidy:
        down, right = (int(part + 0.5) for part in (s.look.things[0].down, s.look.things[0].right))
        plain = replace(s, look=replace(s.look, ground=Ground()))
        near, moved = (
            np.abs(render(plain).astype(float) - render(replace(s, look=None, shift=shift))).mean()
            for shift in ((down, right), (1 - down, right))
        )
        assert near < 0.4 * moved
    assert {(s.look.things[0].down, s.look.things[0].right) for s in tidy} == set(product((-0.5, 0.5), repeat=2))
    assert len({s.look.ground for s in tidy}) > 30


def test_a_world_of_one_hand_has_what_that_hand_draws():
    (first, *_) = scenes = list(islice(scene_stream("test", 0, group=2, world=World(("emojione",))), 300))
    assert first.look is not None
    assert not {t.concept for s in scenes for t in s.things} & {"giraffe", "kite", "peacock"}
    with pytest.raises(ValueError, match="no hand 'picasso': choose openmoji,"):
        World(("picasso",))


def test_json_round_trip_of_looks():
    for s in islice(scene_stream("test", 0, world=VARIED), 200):
        assert Scene.from_json(json.loads(json.dumps(s.to_json()))) == s


@pytest.mark.parametrize(
    "change",
    [
        {"things": []}, {"things": 3}, {"ground": {"start": 2}}, {"ground": {"roundness": 1.5}}, {"ground": {"hue": 1}},
        {"ground": None}, {"things": [{"hand": "picasso"}]}, {"things": [{"hand": "emojione"}]}, {"things": [{}]},
        {"things": [{"hand": "noto", "size": 0}]}, {"things": [{"hand": "noto", "size": "large"}]},
        {"things": [{"hand": "noto", "turn": math.nan}]}, {"things": [{"hand": "noto", "mirrored": 1}]},
        {"things": [{"hand": "noto", "down": 1e9}]}, {"things": [{"hand": ["noto"]}]},
    ],
)  # fmt: skip
def test_what_is_no_look_is_no_scene(change):
    s = replace(scene(("kite", "left")), look=None).to_json()
    right = {"ground": {"start": 0.0, "end": 0.1}, "things": [{"hand": "twemoji"}]}
    assert Scene.from_json(s | {"look": right}).look is not None
    with pytest.raises(ValueError, match="not a scene of the mini world: its look"):
        Scene.from_json(s | {"look": right | change})


def test_sample_scene_gives_looks_in_a_varied_world():
    drawn = [sample_scene(np.random.default_rng(3), "test", VARIED) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0].look is not None
