"""Reads captions of the mini world back into scenes: the inverse of `captions.caption`, and lists of things."""

import re
from collections.abc import Iterator
from functools import lru_cache

from seedtok.mini.world.captions import FRAMES, WORDINGS, at, caption, inside
from seedtok.mini.world.concepts import BACKGROUNDS, NOUNS, PLACES, PLURALS
from seedtok.mini.world.scene import LAYOUTS, Scene, Thing

_SAMPLES = ("cat", "dog", "pig")  # stand for any three concepts


def parse_caption(text: str) -> Scene | None:
    """The scene (its look and shift aside) that a caption in any wording describes; None for anything else."""
    text = _plain(text)
    words = re.findall(r"[a-z]+", text)
    nouns = [NOUNS[word] for word in words if word in NOUNS]
    colors = [word for word in words if word in BACKGROUNDS]
    known = _patterns().get(_pattern(text))
    if known is None or len(colors) != 1:
        return None
    phrasing, layout = known
    scene = Scene(colors[0], tuple(Thing(nouns[at], place) for at, place in layout))
    return scene if caption(scene, phrasing) == text else None  # else an article, a plural or a number is wrong


def read_scene(text: str) -> Scene | None:
    """The scene that a text describes: a caption, or a list of things and their places; None for anything else.

    A caption says "two birds at the top"; a list may say "a bird at the top left and a bird at the top right".
    """
    return parse_caption(text) or _read_list(text)


def same_scene(text: str, scene: Scene) -> bool:
    """Whether a text names every thing, place and colour of a scene right, as `read_scene` reads it."""
    read = read_scene(text)
    return read is not None and read.background == scene.background and set(read.things) == set(scene.things)


_ITEM = re.compile(r"(a single|an?|one|two) ([a-z]+) (.+)")
_ONE = {said(place): (place,) for said in (at, inside) for place in PLACES}
_TWO = {said(row): (f"{row} left", f"{row} right") for said in (at, inside) for row in ("top", "bottom")}


def _frame_pattern(frame: str) -> re.Pattern[str]:
    pattern = re.escape(frame).replace(r"\{things\}", "(?P<things>.+)").replace(r"a\ \{color\}", r"an?\ \{color\}")
    return re.compile(pattern.replace(r"\{color\}", f"(?P<color>{'|'.join(BACKGROUNDS)})"))


_FRAMES = [_frame_pattern(frame) for frame in FRAMES]


def _read_list(text: str) -> Scene | None:
    """The scene of a list of things in any frame; None where an item is none, or two stand in one place."""
    text = _plain(text)
    for frame in _FRAMES:
        if found := frame.fullmatch(text):
            read = [_read_item(item) for item in re.split(r", and |, | and ", found["things"])]
            by_place = {thing.place: thing for some in read for thing in some}
            if all(read) and len(by_place) == sum(map(len, read)):
                return Scene(found["color"], tuple(by_place[place] for place in PLACES if place in by_place))
    return None


def _read_item(item: str) -> list[Thing]:
    """The things of "a fox on the left" or "two foxes at the top"; none of anything else."""
    found = _ITEM.fullmatch(item)
    concept = NOUNS.get(found[2]) if found else None
    if found is None or concept is None:
        return []
    two = found[1] == "two"
    noun, where = (PLURALS[concept], _TWO) if two else (concept, _ONE)
    return [Thing(concept, place) for place in where.get(found[3], ())] if found[2] == noun else []


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(".")


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
