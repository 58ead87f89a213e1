"""What of a scene a caption tells right: each field that a caption of the mini world has."""

import re
from collections import Counter

from seedtok.mini.world.concepts import BACKGROUNDS, NOUNS, PLURALS
from seedtok.mini.world.grammar import read_scene, same_scene
from seedtok.mini.world.scene import Scene

FIELDS = ("exact", "things", "backgrounds", "counts", "places", "in_place")


def told_right(text: str, scene: Scene) -> dict[str, tuple[int, int]]:
    """By field of `FIELDS`, how much of a scene a caption tells right, and of how much.

    "exact" is the whole caption, "things" each thing of the scene, wherever it is said to stand, "backgrounds" the
    colour, "counts" how many things there are, "places" all places that are taken, whatever stands there, "in_place"
    each thing, named where it stands. Of a text that is no caption of any scene, things and colour count by the words
    alone, and all else is wrong.
    """
    read, words = read_scene(text), re.findall("[a-z]+", text.lower())
    wanted = Counter(thing.concept for thing in scene.things)
    named = _named(words, wanted) if read is None else Counter(thing.concept for thing in read.things)
    colors = [word for word in words if word in BACKGROUNDS]
    there = sorted(thing.place for thing in scene.things)
    standing = Counter((thing.concept, thing.place) for thing in scene.things)
    said = Counter[tuple[str, str]]() if read is None else Counter((t.concept, t.place) for t in read.things)
    return {
        "exact": (int(same_scene(text, scene)), 1),
        "things": ((named & wanted).total(), wanted.total()),
        "backgrounds": (int(colors == [scene.background]), 1),
        "counts": (int(read is not None and len(read.things) == len(scene.things)), 1),
        "places": (int(read is not None and sorted(thing.place for thing in read.things) == there), 1),
        "in_place": ((standing & said).total(), wanted.total()),
    }


def _named(words: list[str], wanted: Counter[str]) -> Counter[str]:
    """How often words name each concept; a plural names as many as are wanted, and at least two."""
    found: Counter[str] = Counter()
    for word in words:
        if word in NOUNS:
            concept = NOUNS[word]
            found[concept] += max(2, wanted[concept]) if word == PLURALS[concept] else 1
    return found
