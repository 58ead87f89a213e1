"""Random looks of scenes: what captions leave open."""

import math
from dataclasses import replace
from itertools import combinations

import numpy as np

from seedtok.mini.world.concepts import PLACES
from seedtok.mini.world.hands import hands_of
from seedtok.mini.world.scene import GRID, ICON, Ground, Look, Scene, Style, ThingLook

SIZES = (0.7, 1.3)  # of a thing, 1 being that of classic scenes
TURN = 15.0  # degrees, either way
AWAY = 0.6  # of a thing's middle from that of its place, in cells, along each axis
UNMIRRORED = frozenset({"clock", "truck"})  # a dial and lettering would be wrong in a mirror
# the darkest and the lightest shade, such that every colour keeps its name
SHADES: dict[str, tuple[float, float]] = {
    "white": (-0.08, 0.0), "red": (-0.12, 0.12), "orange": (-0.08, 0.16), "yellow": (-0.1, 0.3), "green": (-0.16, 0.24),
    "blue": (-0.16, 0.24), "purple": (-0.16, 0.24), "gray": (-0.2, 0.16),
}  # fmt: skip
STEP = 0.16  # at most, from one end of a gradient to the other


def random_look(scene: Scene, hands: tuple[str, ...], rng: np.random.Generator, restyled: float = 0.0) -> Look:
    """A look of a scene by these hands, each thing by one of them; things keep to their places and do not overlap.

    Of things, a share of `restyled` is in a random style.
    """
    ground, things = random_ground(scene.background, rng), _things(scene, hands, rng)
    if restyled:
        things = tuple(replace(look, style=random_style(rng)) if rng.random() < restyled else look for look in things)
    return Look(ground, things)


def tidy_look(scene: Scene, hands: tuple[str, ...], rng: np.random.Generator) -> Look:
    """A look by an artist who draws things upright, of one size and on whole cells; the whole scene may shift by one.

    Grounds are as varied as others'.
    """
    down, right = (float(part) for part in rng.integers(2, size=2) - 0.5)
    things = (ThingLook(random_hand(t.concept, hands, rng), down=down, right=right) for t in scene.things)
    return Look(random_ground(scene.background, rng), tuple(things))


def random_style(rng: np.random.Generator) -> Style:
    """Half of them in colours all around the circle of hues, the others near the artist's."""
    u = rng.random(10).tolist()
    hue = 180 * (2 * u[1] - 1) if u[0] < 0.5 else 25 * (2 * u[1] - 1)
    numbers = {
        "hue": hue, "saturation": 1.5 * u[2], "contrast": 0.6 + 0.8 * u[3], "brightness": 0.16 * (2 * u[4] - 1),
        "stretch": math.exp(0.25 * (2 * u[6] - 1)), "slant": 0.2 * (2 * u[7] - 1), "slope": 0.2 * (2 * u[8] - 1),
    }  # fmt: skip
    return Style(negative=u[5] < 0.07, **{name: round(value, 3) for name, value in numbers.items()})


def random_ground(background: str, rng: np.random.Generator) -> Ground:
    """Shades of a background: half of them one flat shade, the others a soft gradient."""
    low, high = SHADES[background]
    start, step, angle, roundness, flat = rng.random(5).tolist()
    first = low + (high - low) * start
    if flat < 0.5:
        return Ground(round(first, 3), round(first, 3))
    last = min(max(first + STEP * (2 * step - 1), low), high)
    return Ground(round(first, 3), round(last, 3), round(360 * angle, 0), round(roundness, 2))


def random_hand(concept: str, hands: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of the hands that draw a concept."""
    able = hands_of(concept, hands)
    return able[int(rng.integers(len(able)))]


def _things(scene: Scene, hands: tuple[str, ...], rng: np.random.Generator) -> tuple[ThingLook, ...]:
    drawn_by = [random_hand(thing.concept, hands, rng) for thing in scene.things]
    places = [thing.place for thing in scene.things]
    flips = [
        t.concept not in UNMIRRORED and bool(u < 0.5)
        for t, u in zip(scene.things, rng.random(max(3, len(places))), strict=False)
    ]
    while True:  # most sizes fit, so this ends soon
        looks = [
            _placed(place, hand, flip, numbers)
            for place, hand, flip, numbers in zip(
                places, drawn_by, flips, rng.random((len(places), 4)).tolist(), strict=True
            )
        ]
        if _are_apart(places, looks):
            return tuple(looks)


def _placed(place: str, hand: str, mirrored: bool, numbers: list[float]) -> ThingLook:
    """A thing's look from four numbers of 0 to 1."""
    size = round(SIZES[0] + (SIZES[1] - SIZES[0]) * numbers[0], 3)
    turn = round(TURN * (2 * numbers[1] - 1), 1)
    down, right = (AWAY * (2 * part - 1) for part in numbers[2:])
    return kept_inside(place, ThingLook(hand, size, down, right, turn, mirrored))


def kept_inside(place: str, look: ThingLook) -> ThingLook:
    """A look moved where its thing would reach out of the picture."""
    edge = _reach(look.size, look.turn)
    row, column = (2 * at + 2 for at in PLACES[place])
    down = min(max(row + look.down, edge), GRID - edge) - row
    right = min(max(column + look.right, edge), GRID - edge) - column
    return replace(look, down=round(down, 3), right=round(right, 3))


def _reach(size: float, turn: float) -> float:
    """Half of a side of the square that a thing's ink keeps to, but for corners, in cells."""
    angle = math.radians(turn)
    return 15 / 16 * ICON * size * (math.cos(angle) + 0.8 * abs(math.sin(angle))) / 2


def _are_apart(places: list[str], looks: list[ThingLook]) -> bool:
    """Whether no two things overlap."""
    squares = []
    for place, look in zip(places, looks, strict=True):
        row, column = PLACES[place]
        squares.append((2 * row + look.down, 2 * column + look.right, _reach(look.size, look.turn)))
    return all(max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= a[2] + b[2] for a, b in combinations(squares, 2))
