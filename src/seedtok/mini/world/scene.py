"""What a scene of the mini world is: a coloured background, and one to three things in named places.

A caption says all of that. What it leaves open is a scene's look: which hand drew a thing, where exactly it stands in
its place, how large, turned and mirrored, and which shades its background has. A scene without a look is a classic one:
OpenMoji drawings on a grid and a flat colour; a shift of the whole scene by one grid cell is all that is open.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from seedtok.core.errors import DataError
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.hands import HANDS, hands_of

GRID = 8  # cells a side
ICON = 3  # cells a side of a drawing of size 1; a classic one stands at cell 0, 2 or 4 of each axis, plus the shift

PAIRS = (("left", "right"), ("top", "bottom"), ("top left", "bottom right"), ("bottom left", "top right"))
TRIPLES = (("top left", "top right", "bottom"), ("top", "bottom left", "bottom right"))
CORNERS = ("top left", "top right", "bottom left", "bottom right")
LAYOUTS: dict[int, tuple[tuple[str, ...], ...]] = {1: tuple((place,) for place in PLACES), 2: PAIRS, 3: TRIPLES}
WITH_CROWDED = LAYOUTS | {4: (CORNERS,)}  # image encoders are trained on crowded scenes, and nothing is tested on them


@dataclass(frozen=True)
class Thing:
    concept: str
    place: str


@dataclass(frozen=True)
class Style:
    """How a drawing differs from its artist's: colours, and proportions. Image encoders are trained on such drawings.

    `hue` in degrees; `saturation` and `contrast` 1 as drawn; `brightness` added, of 1; `negative` inverts the colours;
    `stretch` 1 as drawn, above it wider and less high; `slant` of the height is added to x, `slope` of the width to y.
    """

    hue: float = 0.0
    saturation: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    negative: bool = False
    stretch: float = 1.0
    slant: float = 0.0
    slope: float = 0.0


@dataclass(frozen=True)
class ThingLook:
    """How a thing is drawn: `down` and `right` of the middle of its place, in cells; `turn` in degrees, clockwise."""

    hand: str
    size: float = 1.0
    down: float = 0.0
    right: float = 0.0
    turn: float = 0.0
    mirrored: bool = False
    style: Style | None = None  # None: as the hand draws it


@dataclass(frozen=True)
class Ground:
    """A background that goes from one shade of its colour to another.

    Shades are -1 (black) to 1 (white), 0 the colour itself. `angle` in degrees, 0 from left to right, 90 from top to
    bottom; `roundness` from 0 (straight across) to 1 (from the middle outwards).
    """

    start: float = 0.0
    end: float = 0.0
    angle: float = 0.0
    roundness: float = 0.0


@dataclass(frozen=True)
class Look:
    """What captions leave open of a scene; `things` in the order of the scene's."""

    ground: Ground
    things: tuple[ThingLook, ...]


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]
    shift: tuple[int, int] = (0, 0)  # (down, right), in cells, of a classic scene: not in the caption
    look: Look | None = None  # None: a classic scene

    def to_json(self) -> dict[str, Any]:
        """A JSON object, with "look" where the scene has one."""
        record: dict[str, Any] = {
            "background": self.background,
            "things": [{"concept": t.concept, "place": t.place} for t in self.things],
            "shift": list(self.shift),
        }
        if self.look is None:
            return record
        look = asdict(self.look)
        for thing in look["things"]:
            if thing["style"] is None:
                del thing["style"]
        return record | {"look": look}

    @classmethod
    def from_json(cls, record: Any) -> "Scene":
        """The inverse of `to_json`; raises DataError for anything that is not a scene of the mini world."""
        try:
            things = tuple(Thing(t["concept"], t["place"]) for t in record["things"])
            scene = cls(record["background"], things, (record["shift"][0], record["shift"][1]))
            known = scene.background in BACKGROUNDS and all(thing.concept in CONCEPTS for thing in things)
        except (KeyError, TypeError, IndexError):
            raise DataError("not a scene of the mini world: expected its background, things and shift") from None
        at_grid = all(type(s) is int and s in (0, 1) for s in scene.shift)
        if not (known and at_grid and tuple(t.place for t in things) in WITH_CROWDED.get(len(things), ())):
            raise DataError("not a scene of the mini world: it has other backgrounds, concepts or places")
        if record.get("look") is None:
            return scene
        return cls(scene.background, things, scene.shift, _look(record["look"], things))


def _floats(record: Any) -> dict[str, Any]:
    """An object of JSON, in which a number may lack its point."""
    return {name: float(value) if type(value) is int else value for name, value in record.items()}


def _thing_look(record: Any) -> ThingLook:
    known = _floats(record)
    style = known.pop("style", None)
    return ThingLook(**known, style=None if style is None else Style(**_floats(style)))


def _is_style(style: Style) -> bool:
    """Whether all numbers of a style are within the widest limits that can be drawn."""
    amounts = (style.saturation, style.contrast, style.brightness, style.slant, style.slope)
    kinds = all(type(value) is float for value in (style.hue, style.stretch, *amounts)) and type(style.negative) is bool
    return kinds and math.isfinite(style.hue) and 0.25 <= style.stretch <= 4 and all(abs(a) <= 4 for a in amounts)


def _look(record: Any, things: tuple[Thing, ...]) -> Look:
    """Raises DataError for what is not a look of these things."""
    try:
        ground = Ground(**_floats(record["ground"]))
        looks = tuple(_thing_look(thing) for thing in record["things"])
        inside = all(-1 <= shade <= 1 for shade in (ground.start, ground.end)) and 0 <= ground.roundness <= 1
        inside = inside and all(math.isfinite(degrees) for degrees in (ground.angle, *(each.turn for each in looks)))
        for each in looks:
            moved = max(abs(each.down), abs(each.right)) <= GRID
            inside = inside and moved and 0 < each.size <= GRID / ICON and type(each.mirrored) is bool
            inside = inside and (each.style is None or _is_style(each.style))
        drawn = len(looks) == len(things) and all(
            each.hand in hands_of(thing.concept, HANDS) for thing, each in zip(things, looks, strict=True)
        )
    except (KeyError, TypeError, IndexError, AttributeError):
        raise DataError("not a scene of the mini world: its look is not one of a ground and of things") from None
    if not (inside and drawn):
        raise DataError("not a scene of the mini world: its look has other hands, or numbers out of range")
    return Look(ground, looks)
