"""What of a scene a caption tells right: each field that a caption of the mini world has."""

import re
from collections import Counter

from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLURALS
from seedtok.mini.world.grammar import parse_caption, same_scene
from seedtok.mini.world.scene import Scene

FIELDS = ("exact", "things", "backgrounds", "counts", "places")


def told_right(text: str, scene: Scene) -> dict[str, tuple[int, int]]:
    """By field of `FIELDS`, how much of a scene a caption tells right, and of how much.

    "exact" is the whole caption, "things" each thing of the scene, wherever it is said to stand, "backgrounds" the
    colour, "counts" how many things there are, "places" all places that are taken, whatever stands there. Of a text
    that is no caption of any scene, things and colour count by the words alone, and count and places are wrong.
    """
    read = parse_caption(text)
    named = Counter(_concepts(text, scene)) if read is None else Counter(t.concept for t in read.things)
    wanted = Counter(thing.concept for thing in scene.things)
    colors = [word for word in re.findall("[a-z]+", text.lower()) if word in BACKGROUNDS]
    there = sorted(thing.place for thing in scene.things)
    return {
        "exact": (int(same_scene(text, scene)), 1),
        "things": ((named & wanted).total(), wanted.total()),
        "backgrounds": (int(colors == [scene.background]), 1),
        "counts": (int(read is not None and len(read.things) == len(scene.things)), 1),
        "places": (int(read is not None and sorted(thing.place for thing in read.things) == there), 1),
    }


def _concepts(text: str, scene: Scene) -> list[str]:
    """The concepts that the words of a text name; a plural names as many as the scene has."""
    wanted = Counter(thing.concept for thing in scene.things)
    plurals = {plural: concept for concept, plural in PLURALS.items()}
    found = []
    for word in re.findall("[a-z]+", text.lower()):
        if word in plurals:
            found += [plurals[word]] * max(2, wanted[plurals[word]])
        elif word in CONCEPTS:
            found.append(word)
    return found
