"""Reads captions of the mini world back into scenes: the inverse of `captions.caption`."""

import re
from collections.abc import Iterator
from functools import lru_cache

from seedtok.mini.world.captions import WORDINGS, caption
from seedtok.mini.world.concepts import BACKGROUNDS, NOUNS
from seedtok.mini.world.scene import LAYOUTS, Scene, Thing

_SAMPLES = ("cat", "dog", "pig")  # stand for any three concepts


def parse_caption(text: str) -> Scene | None:
    """The scene (its look and shift aside) that a caption in any wording describes; None for anything else."""
    text = " ".join(text.lower().split()).rstrip(".")
    words = re.findall(r"[a-z]+", text)
    nouns = [NOUNS[word] for word in words if word in NOUNS]
    colors = [word for word in words if word in BACKGROUNDS]
    known = _patterns().get(_pattern(text))
    if known is None or len(colors) != 1:
        return None
    phrasing, layout = known
    scene = Scene(colors[0], tuple(Thing(nouns[at], place) for at, place in layout))
    return scene if caption(scene, phrasing) == text else None  # else an article, a plural or a number is wrong


def same_scene(text: str, scene: Scene) -> bool:
    """Whether a caption names every thing, place and colour of a scene right, in any wording."""
    read = parse_caption(text)
    return read is not None and read.background == scene.background and set(read.things) == set(scene.things)


def _pattern(text: str) -> str:
    """A caption with # for nouns, % for its colour, and one article."""
    replaced = re.sub(r"[a-z]+", lambda m: "#" if m[0] in NOUNS else "%" if m[0] in BACKGROUNDS else m[0], text)
    return re.sub(r"\ban(?= [#%])", "a", replaced)


Layout = tuple[tuple[int, str], ...]  # for each thing: which of a caption's nouns names it, and its place


@lru_cache(maxsize=1)
def _patterns() -> dict[str, tuple[int, Layout]]:
    """The wording and layout of every pattern that a caption can have."""
    known: dict[str, tuple[int, Layout]] = {}
    for scene in _outlines():
        for phrasing in range(WORDINGS):
            text = caption(scene, phrasing)
            nouns = [NOUNS[word] for word in re.findall(r"[a-z]+", text) if word in NOUNS]
            layout = tuple((nouns.index(thing.concept), thing.place) for thing in scene.things)
            known.setdefault(_pattern(text), (phrasing, layout))
    return known


def _outlines() -> Iterator[Scene]:
    """A scene of every layout, with every way in which its things can be alike; unlike ones first."""
    alike = {1: ((0,),), 2: ((0, 1), (0, 0)), 3: ((0, 1, 2), (0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 0, 0))}
    for count, layouts in LAYOUTS.items():
        for places in layouts:
            for kinds in alike[count]:
                things = (Thing(_SAMPLES[kind], place) for kind, place in zip(kinds, places, strict=True))
                yield Scene("red", tuple(things))
