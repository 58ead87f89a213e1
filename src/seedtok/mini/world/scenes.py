"""Scenes of the mini world, sampled from a seed, with their captions and pictures.

A split is decided by the combination of things and background alone, so no caption of validation or test is in train,
in any wording or arrangement. Which hands draw the scenes of a split, and whether their looks vary, is a `World`.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from seedtok.core.errors import DataError
from seedtok.mini.world.captions import PHRASINGS, WORDINGS, an, at, caption, wordings
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.drawing import SIZES, render
from seedtok.mini.world.hands import HANDS, HELD_OUT_HANDS, SEEN_HANDS, hands_of
from seedtok.mini.world.looks import random_look, tidy_look
from seedtok.mini.world.scene import CORNERS, GRID, ICON, PAIRS, TRIPLES, WITH_CROWDED, Scene, Thing

__all__ = [
    "CLASSIC", "GRID", "ICON", "PAIRS", "PHRASINGS", "SIZES", "SPLITS", "TRIPLES", "UNSEEN_HANDS", "VARIED", "WORDINGS",
    "Scene", "Split", "Thing", "World", "an", "at", "caption", "render", "sample_scene", "scene_stream", "sibling",
    "split_of", "unique_scenes", "wordings",
]  # fmt: skip

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class World:
    """Whose drawings scenes are made of. Without hands, scenes are classic: see `Scene`.

    To train image encoders on: a share `crowded` of scenes have four things, and of things a share `restyled` is in
    colours and proportions other than its artist's. In a `tidy` world things are drawn as `tidy_look` says.
    """

    hands: tuple[str, ...] = ()
    crowded: float = 0.0
    restyled: float = 0.0
    tidy: bool = False

    def __post_init__(self) -> None:
        if unknown := [hand for hand in self.hands if hand not in HANDS]:
            raise DataError(f"no hand {unknown[0]!r}: choose {', '.join(HANDS)}")

    def draws(self, scene: Scene) -> bool:
        """Whether some hand draws every thing of a scene."""
        return not self.hands or all(hands_of(thing.concept, self.hands) for thing in scene.things)

    def drawn(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """A scene with a random look by these hands; as it is in a classic world."""
        if not self.hands:
            return scene
        look = tidy_look(scene, self.hands, rng) if self.tidy else random_look(scene, self.hands, rng, self.restyled)
        return replace(scene, shift=(0, 0), look=look)


CLASSIC = World()
VARIED = World(SEEN_HANDS)
UNSEEN_HANDS = World(HELD_OUT_HANDS)


def split_of(scene: Scene) -> Split:
    """The split a scene belongs to: a hash of its background and its things, whatever their places."""
    key = "|".join([scene.background, *sorted(t.concept for t in scene.things)])
    bucket = hashlib.sha256(key.encode()).digest()[0] % 20
    return "test" if bucket == 0 else "validation" if bucket == 1 else "train"


def _pick(rng: np.random.Generator, options: tuple[Any, ...]) -> Any:
    return options[int(rng.integers(len(options)))]


def _crowded(rng: np.random.Generator) -> Scene:
    """Four random things, one in each corner."""
    return Scene(_pick(rng, tuple(BACKGROUNDS)), tuple(Thing(_pick(rng, CONCEPTS), place) for place in CORNERS))


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


def sample_scene(rng: np.random.Generator, split: Split, world: World = CLASSIC) -> Scene:
    """One random scene of a split."""
    return world.drawn(_sample_content(rng, split, world), rng)


def _sample_content(rng: np.random.Generator, split: Split, world: World) -> Scene:
    while True:
        scene = _crowded(rng) if world.crowded and rng.random() < world.crowded else _draw(rng)
        if split_of(scene) == split and world.draws(scene):
            return scene


def sibling(scene: Scene, rng: np.random.Generator, split: Split, world: World = CLASSIC) -> Scene:
    """A scene that differs from the given one in its background, one thing, or the places: a hard negative.

    It has no look yet.
    """
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
            order = rng.permutation(len(things))
            places = _pick(rng, WITH_CROWDED[len(things)])
            things = [Thing(scene.things[j].concept, p) for j, p in zip(order, places, strict=True)]
        shift = (int(rng.integers(2)), int(rng.integers(2)))
        other = Scene(background, tuple(things), shift)
        differs = (other.background, other.things) != (scene.background, scene.things)
        if differs and split_of(other) == split and world.draws(other):
            return other


def scene_stream(
    split: Split, seed: int, start: int = 0, step: int = 1, group: int = 1, world: World = CLASSIC
) -> Iterator[Scene]:
    """Endless scenes, each a function of (split, seed, index, world) alone: indices start, start + step, ...

    With `group` above 1, every index of a multiple of `group` is random and those up to the next are its siblings.
    Worlds that draw all concepts have the same scenes at the same indices, in looks of their own.
    """
    index = start
    while True:
        base, member = index - index % group, index % group
        scene = _sample_content(np.random.default_rng([SPLITS.index(split), seed, base]), split, world)
        if member:
            scene = sibling(scene, np.random.default_rng([99, seed, index]), split, world)
        yield world.drawn(scene, np.random.default_rng([57, SPLITS.index(split), seed, index]))
        index += step


def unique_scenes(split: Split, count: int, seed: int = 0, world: World = CLASSIC) -> list[Scene]:
    """`count` scenes of which no two have the same caption: an evaluation set.

    Raises DataError when the split has not that many to give.
    """
    seen: set[tuple[str, frozenset[Thing]]] = set()
    scenes: list[Scene] = []
    for tried, scene in enumerate(scene_stream(split, seed, world=world)):
        if len(scenes) == count:
            return scenes
        if tried > 100 * count + 1000:
            raise DataError(f"the {split} split gave {len(scenes)} different scenes; asked for {count}: ask for fewer")
        key = (scene.background, frozenset(scene.things))
        if key not in seen:
            seen.add(key)
            scenes.append(scene)
    raise AssertionError("unreachable")
