"""Near misses: a scene with exactly one thing, place, count or colour changed, and all else the same.

What a description must tell apart from the scene it describes: candidates of retrieval, and the floor of similarity.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS
from seedtok.mini.world.hands import HELD_OUT_HANDS, SEEN_HANDS, hands_of
from seedtok.mini.world.looks import SHADES, UNMIRRORED, kept_inside
from seedtok.mini.world.scene import LAYOUTS, PAIRS, TRIPLES, Look, Scene, Thing, ThingLook

KINDS = ("thing", "place", "count", "color")
Standing = tuple[Thing, ThingLook | None]  # a thing and its look


def near_misses(scenes: Sequence[Scene], seed: int = 0) -> list[Scene]:
    """One for each scene; the kinds of change take turns, as far as a scene has that kind.

    A near miss may be of any split. Its things are drawn by seen hands, or by held-out ones, as those of its scene.
    """
    return [near_miss(scene, number, np.random.default_rng([58, seed, number])) for number, scene in enumerate(scenes)]


def changed(scene: Scene, miss: Scene) -> str:
    """In which of `KINDS` a near miss differs from its scene; "swap" where two things have changed places."""
    concepts, others = (sorted(thing.concept for thing in some.things) for some in (scene, miss))
    if scene.background != miss.background:
        return "color"
    if len(concepts) != len(others):
        return "count"
    if concepts != others:
        return "thing"
    taken, now = ({thing.place for thing in some.things} for some in (scene, miss))
    return "swap" if taken == now else "place"


def near_miss(scene: Scene, turn: int, rng: np.random.Generator) -> Scene:
    """A scene with one change: of kind number `turn` modulo four, or of the first after it that the scene has."""
    standing = list(zip(scene.things, scene.look.things if scene.look else [None] * 3, strict=False))
    for number in range(turn, turn + len(KINDS)):
        match KINDS[number % len(KINDS)]:
            case "thing":
                return _with(scene, _other_thing(standing, rng))
            case "place":
                options = _places(standing)
            case "count":
                options = _counts(standing)
            case _:
                others = [color for color in BACKGROUNDS if color != scene.background]
                return _recolored(scene, others[int(rng.integers(len(others)))])
        if options:
            return _with(scene, options[int(rng.integers(len(options)))])
    raise AssertionError("unreachable: every scene has other things")


def _with(scene: Scene, standing: list[Standing]) -> Scene:
    things = tuple(thing for thing, _ in standing)
    if scene.look is None:
        return replace(scene, things=things)
    looks = tuple(kept_inside(thing.place, look) for thing, look in standing if look is not None)
    return replace(scene, things=things, look=Look(scene.look.ground, looks))


def _recolored(scene: Scene, color: str) -> Scene:
    """The scene on another colour, whose shades are as far between its darkest and its lightest."""
    if scene.look is None:
        return replace(scene, background=color)
    (low, high), (darkest, lightest) = SHADES[scene.background], SHADES[color]
    ground = scene.look.ground
    start, end = (
        round(darkest + (shade - low) / (high - low) * (lightest - darkest), 3) for shade in (ground.start, ground.end)
    )
    return Scene(color, scene.things, look=Look(replace(ground, start=start, end=end), scene.look.things))


def _other_thing(standing: list[Standing], rng: np.random.Generator) -> list[Standing]:
    """One thing is another, by the same hand where that draws it."""
    number = int(rng.integers(len(standing)))
    thing, look = standing[number]
    others = [concept for concept in CONCEPTS if concept not in {t.concept for t, _ in standing}]
    other = others[int(rng.integers(len(others)))]
    if look is not None:
        pool = SEEN_HANDS if look.hand in SEEN_HANDS else HELD_OUT_HANDS
        able = hands_of(other, pool)
        hand = look.hand if look.hand in able else able[int(rng.integers(len(able)))]
        look = replace(look, hand=hand, mirrored=look.mirrored and other not in UNMIRRORED)
    return [*standing[:number], (replace(thing, concept=other), look), *standing[number + 1 :]]


def _places(standing: list[Standing]) -> list[list[Standing]]:
    """Two unlike things change places; without such, all move to another layout."""
    swapped = []
    for i, j in combinations(range(len(standing)), 2):
        (one, look), (other, other_look) = standing[i], standing[j]
        if one.concept != other.concept:
            moved = list(standing)
            moved[i] = (replace(other, place=one.place), other_look)
            moved[j] = (replace(one, place=other.place), look)
            swapped.append(moved)
    here = tuple(thing.place for thing, _ in standing)
    return swapped or [_at(standing, places) for places in LAYOUTS[len(standing)] if places != here]


def _at(standing: list[Standing], places: tuple[str, ...]) -> list[Standing]:
    return [(replace(thing, place=place), look) for (thing, look), place in zip(standing, places, strict=True)]


def _counts(standing: list[Standing]) -> list[list[Standing]]:
    """One more of a thing, or one fewer; the others stay, but for two of a row of which one is left in its middle."""
    if len(standing) == 1:
        return [_at(standing * 2, pair) for pair in PAIRS if standing[0][0].place in pair]
    if len(standing) == 3:
        one, other = standing[:2] if standing[0][0].place == "top left" else standing[1:]  # the row of two
        return [_at([standing[0], standing[2]], PAIRS[1])] if one[0].concept == other[0].concept else []
    fewer = [[one] for one in standing]
    if standing[0][0].place != "top":
        return fewer
    above, below = standing
    return [*fewer, _at([above, above, below], TRIPLES[0]), _at([above, below, below], TRIPLES[1])]
