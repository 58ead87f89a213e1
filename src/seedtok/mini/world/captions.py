"""Captions of scenes: many wordings, each of which says all that a scene's caption has to say."""

from itertools import product

from seedtok.mini.world.concepts import PLURALS
from seedtok.mini.world.scene import Scene, Thing

FRAMES = (
    "{things} on a {color} background",
    "a picture of {things} on a {color} background",
    "on a {color} background, {things}",
    "a {color} background with {things}",
    "{things}, on {color}",
    "an image of {things} on a {color} background",
    "a drawing of {things} against a {color} background",
    "{things} in front of a {color} background",
    "against a {color} background, {things}",
    "this picture shows {things} on a {color} background",
    "{things}, with a {color} background",
    "we see {things} on a {color} background",
)
_CLASSIC_FRAMES = 5
_DESCRIPTIONS = 8  # ways to describe the things, the second of which is the first turned round

# frame and description of each wording: first those of classic scenes, then all others that read well
_WORDINGS = [*((f, d) for d in range(2) for f in range(_CLASSIC_FRAMES))]
_WORDINGS += [
    (f, d)
    for d, f in product(range(_DESCRIPTIONS), range(len(FRAMES)))
    if (f, d) not in _WORDINGS and not (d == 1 and f >= _CLASSIC_FRAMES)
]
PHRASINGS = 2 * _CLASSIC_FRAMES  # wordings of classic scenes
WORDINGS = len(_WORDINGS)  # wordings of scenes with a look


def caption(scene: Scene, phrasing: int = 0) -> str:
    """What a scene shows, in one of `WORDINGS` wordings; 0 is the canonical one.

    The first `PHRASINGS` are those that classic scenes are trained on. Where a scene gives fewer wordings, some
    coincide.
    """
    frame, description = _WORDINGS[phrasing]
    ways = _descriptions(scene.things)
    things = ways[description] if description < 2 else ways[2 + (description - 2) % (len(ways) - 2)]
    text = FRAMES[frame].format(things=things, color=scene.background)
    return text.replace("a orange", "an orange")


def wordings(scene: Scene) -> int:
    """How many of `caption`'s wordings a scene is told in: from 0 to one below this."""
    return PHRASINGS if scene.look is None else WORDINGS


def an(noun: str) -> str:
    """A noun with its article."""
    return ("an " if noun[0] in "aeiou" and noun != "unicorn" else "a ") + noun


def at(place: str) -> str:
    return {"middle": "in the middle", "left": "on the left", "right": "on the right"}.get(place, f"at the {place}")


def inside(place: str) -> str:
    """Another way to say `at`."""
    if " " in place:
        return f"in the {place} corner"
    vertical = {"top": "in the upper part", "middle": "in the center", "bottom": "in the lower part"}
    return vertical.get(place, f"on the {place} side")


def _descriptions(things: tuple[Thing, ...]) -> list[str]:
    """The canonical description, the same turned round, and others."""
    nouns, places = [t.concept for t in things], [t.place for t in things]
    if len(things) == 1:
        return _one(nouns[0], places[0])
    if len(things) == 2:
        same = nouns[0] == nouns[1]
        return _two_alike(nouns[0], *places) if same else _two(nouns[0], nouns[1], *places)
    if len(things) == 4:
        return _several(nouns, places)
    two_up = places[0] == "top left"
    if len(set(nouns)) == 1:
        return _three_alike(nouns[0], two_up)
    if two_up and nouns[0] == nouns[1]:
        return _two_and_one(nouns[0], nouns[2], two_up)
    if not two_up and nouns[1] == nouns[2]:
        return _two_and_one(nouns[1], nouns[0], two_up)
    return _several(nouns, places)


def _one(noun: str, place: str) -> list[str]:
    return [
        f"{an(noun)} {at(place)}", f"{at(place)} {an(noun)}", f"one {noun} {at(place)}", f"{an(noun)} {inside(place)}",
        f"a single {noun} {at(place)}", f"one {noun} {inside(place)}",
    ]  # fmt: skip


def _two_alike(noun: str, first: str, second: str) -> list[str]:
    how = {"left": "side by side", "top": "one above the other"}.get(first, f"{at(first)} and the {second}")
    many = PLURALS[noun]
    each = f"one {at(first)} and one {at(second)}"
    return [
        f"two {many} {how}", f"two {many} {how}", f"two {many}, {each}",
        f"{an(noun)} {at(first)} and another {at(second)}", f"a pair of {many} {how}",
        f"two {many}, one {inside(first)} and one {inside(second)}",
        f"{an(noun)} {inside(first)} and another {inside(second)}", f"a pair of {many}, {each}",
    ]  # fmt: skip


def _two(one: str, other: str, first: str, second: str) -> list[str]:
    a, b = an(one), an(other)
    apart = [f"{a} {at(first)} and {b} {at(second)}", f"{b} {at(second)} and {a} {at(first)}"]
    within = [f"{a} {inside(first)} and {b} {inside(second)}", f"{b} {inside(second)} and {a} {inside(first)}"]
    if first == "left":
        beside = [f"{a} to the left of {b}", f"{b} to the right of {a}"]
        return [*beside, *apart, f"{a} with {b} to its right", f"{b} with {a} to its left", *within]
    if first == "top":
        return [f"{a} above {b}", f"{b} below {a}", *apart, f"{a} with {b} below it", f"{b} with {a} above it", *within]
    listed = [f"{a} {at(first)}, {b} {at(second)}", f"{b} {at(second)}, {a} {at(first)}"]
    return [*apart, *within, *listed]


def _three_alike(noun: str, two_up: bool) -> list[str]:
    many = PLURALS[noun]
    counts = "two at the top and one at the bottom" if two_up else "one at the top and two at the bottom"
    pair, single = (f"two {many} {'at the top' if two_up else 'at the bottom'}", "bottom" if two_up else "top")
    rows = f"{pair} and a third at the {single}"
    return [f"three {many}, {counts}", f"three {many}, {counts}", rows, f"three {many} with {counts}"]


def _two_and_one(pair: str, single: str, two_up: bool) -> list[str]:
    """Of two alike in one row and another thing in the other."""
    many, one = f"two {PLURALS[pair]}", an(single)
    upper, lower = (many, one) if two_up else (one, many)
    top, bottom = f"{upper} at the top", f"{lower} at the bottom"
    higher, deeper = f"{upper} in the upper part", f"{lower} in the lower part"
    return [
        f"{top} and {bottom}", f"{bottom} and {top}", f"{upper} above {lower}", f"{lower} below {upper}",
        f"{higher} and {deeper}", f"{deeper} and {higher}",
    ]  # fmt: skip


def _several(nouns: list[str], places: list[str]) -> list[str]:
    """Of three or four different things."""
    parts = [f"{an(n)} {at(p)}" for n, p in zip(nouns, places, strict=True)]
    within = [f"{an(n)} {inside(p)}" for n, p in zip(nouns, places, strict=True)]
    return [
        *(_listed(way) for way in (parts, parts[::-1], within, within[::-1])),
        f"{parts[0]} and {parts[1]}, with {' and '.join(parts[2:])}",
        f"{' and '.join(parts[2:])}, with {parts[0]} and {parts[1]}",
    ]  # fmt: skip


def _listed(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1]
