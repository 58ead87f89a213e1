"""Reads captions of the mini world back into scenes: the inverse of `scenes.caption`."""

import re
from itertools import product

from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES, PLURALS
from seedtok.mini.world.scenes import PAIRS, PHRASINGS, TRIPLES, Scene, Thing, caption

_NOUNS = {noun: noun for noun in CONCEPTS} | {plural: noun for noun, plural in PLURALS.items()}
_LAYOUTS = (*((place,) for place in PLACES), *PAIRS, *TRIPLES)


def parse_caption(text: str) -> Scene | None:
    """The scene (its shift aside) that a caption in any phrasing describes; None where it is no caption of a scene."""
    text = " ".join(text.lower().split()).rstrip(".")
    words = re.findall(r"[a-z]+", text)
    nouns = list(dict.fromkeys(_NOUNS[word] for word in words if word in _NOUNS))
    colors = [word for word in words if word in BACKGROUNDS]
    if not nouns or len(nouns) > 3 or len(colors) != 1:
        return None
    for places in _LAYOUTS:
        if len(places) < len(nouns):
            continue
        for chosen in product(nouns, repeat=len(places)):
            things = tuple(Thing(noun, place) for noun, place in zip(chosen, places, strict=True))
            scene = Scene(colors[0], things)
            if len(set(chosen)) == len(nouns) and any(caption(scene, p) == text for p in range(PHRASINGS)):
                return scene
    return None


def same_scene(text: str, scene: Scene) -> bool:
    """Whether a caption names every thing, place and colour of a scene right, in any phrasing."""
    read = parse_caption(text)
    return read is not None and read.background == scene.background and set(read.things) == set(scene.things)
