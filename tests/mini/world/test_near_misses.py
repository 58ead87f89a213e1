"""Near misses: one change a scene, of each kind in turn, and all else the same."""

from collections import Counter
from dataclasses import replace

import pytest

from seedtok.mini.world.captions import caption
from seedtok.mini.world.grammar import parse_caption
from seedtok.mini.world.hands import HELD_OUT_HANDS, SEEN_HANDS
from seedtok.mini.world.looks import SHADES
from seedtok.mini.world.near_misses import changed, near_misses
from seedtok.mini.world.scene import LAYOUTS, Scene
from seedtok.mini.world.scenes import CLASSIC, UNSEEN_HANDS, VARIED, World, unique_scenes


def kind_of(scene: Scene, miss: Scene) -> str:
    """What was changed; fails where that is not one thing alone."""
    if miss.background != scene.background:
        assert miss.things == scene.things
        return "color"
    if len(miss.things) != len(scene.things):
        assert abs(len(miss.things) - len(scene.things)) == 1
        return "count"
    concepts, others = (Counter(t.concept for t in s.things) for s in (scene, miss))
    places, elsewhere = ([t.place for t in s.things] for s in (scene, miss))
    if concepts == others:
        return "place"
    assert places == elsewhere
    assert sum(a != b for a, b in zip(scene.things, miss.things, strict=True)) == 1
    return "thing"


@pytest.mark.slow
@pytest.mark.parametrize("world", [CLASSIC, VARIED, UNSEEN_HANDS])
def test_one_thing_place_count_or_color_is_changed(world: World):
    scenes = unique_scenes("test", 400, 3, world)
    misses = near_misses(scenes)
    assert misses == near_misses(scenes)
    kinds = Counter(kind_of(scene, miss) for scene, miss in zip(scenes, misses, strict=True))
    assert min(kinds.values()) > 60
    assert set(kinds) == {"thing", "place", "count", "color"}
    for scene, miss in zip(scenes, misses, strict=True):
        assert caption(miss) != caption(scene)
        assert tuple(t.place for t in miss.things) in LAYOUTS[len(miss.things)]
        assert parse_caption(caption(miss)) == replace(miss, shift=(0, 0), look=None)
        assert Scene.from_json(miss.to_json()) == miss
        if scene.look is None:
            assert miss.look is None
            assert miss.shift == scene.shift


def test_what_is_said_to_have_changed_is_what_has():
    scenes = unique_scenes("test", 200, 5, VARIED)
    for scene, miss in zip(scenes, near_misses(scenes), strict=True):
        kind = kind_of(scene, miss)
        places, elsewhere = ({t.place for t in s.things} for s in (scene, miss))
        assert changed(scene, miss) == ("swap" if kind == "place" and places == elsewhere else kind)


@pytest.mark.parametrize(("world", "hands"), [(VARIED, SEEN_HANDS), (UNSEEN_HANDS, HELD_OUT_HANDS)])
def test_what_is_not_changed_looks_the_same(world: World, hands: tuple[str, ...]):
    scenes = unique_scenes("test", 300, 4, world)
    for scene, miss in zip(scenes, near_misses(scenes), strict=True):
        assert scene.look
        assert miss.look
        assert {look.hand for look in miss.look.things} <= set(hands)
        low, high = SHADES[miss.background]
        assert low <= miss.look.ground.start <= high
        assert low <= miss.look.ground.end <= high
        match kind_of(scene, miss):
            case "color":
                assert miss.look.things == scene.look.things
                assert miss.look.ground.angle == scene.look.ground.angle
            case "thing":
                assert miss.look.ground == scene.look.ground
                for thing, other, look, own in zip(
                    scene.things, miss.things, scene.look.things, miss.look.things, strict=True
                ):
                    same = replace(own, hand=look.hand, mirrored=look.mirrored) == look
                    assert same if thing != other else own == look
            case "place" | "count":
                assert miss.look.ground == scene.look.ground
                before, after = (
                    {
                        (t.concept, look.hand, look.size, look.turn)
                        for t, look in zip(s.things, s.look.things, strict=True)
                    }
                    for s in (scene, miss)
                )
                assert before == after or len(miss.things) < len(scene.things)
                assert after <= before
