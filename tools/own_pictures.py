"""Draws the test case of `seedtok finetune`: things by an artist whose drawings no training saw, with short captions.

    python tools/own_pictures.py OUT [--hand twemoji] [--concepts 50] [--each 10] [--model mini] [--seed 0]

Takes the concepts that MODEL names least often in `PROBES` pictures of each, and writes EACH pictures of every one,
`OUT/fox-3.png` and the like: anywhere on a background, in a random size, turned and mirrored. Beside each lies its
caption, "a picture of a fox", as `seedtok data pack OUT` reads it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from seedtok import SeedLM
from seedtok.mini.world.captions import an
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, NOUNS, PLACES
from seedtok.mini.world.drawing import render
from seedtok.mini.world.hands import HELD_OUT_HANDS, hands_of
from seedtok.mini.world.looks import random_look
from seedtok.mini.world.scene import Scene, Thing

PROBES = 4


def picture(concept: str, hand: str, seed: list[int]) -> Image.Image:
    """A picture of a concept by a hand, in a random place, look and background."""
    rng = np.random.default_rng(seed)
    place, ground = rng.choice(list(PLACES)), rng.choice(list(BACKGROUNDS))
    scene = Scene(str(ground), (Thing(concept, str(place)),))
    return Image.fromarray(render(replace(scene, look=random_look(scene, (hand,), rng)), 128))


def named(model: SeedLM, concepts: list[str], hand: str, seed: int) -> dict[str, int]:
    """In how many of `PROBES` pictures of each concept the model's caption names it."""
    probes = [(concept, picture(concept, hand, [seed, 1, i, n])) for i, concept in enumerate(concepts)
              for n in range(PROBES)]  # fmt: skip
    found = dict.fromkeys(concepts, 0)
    captions = model.caption([image for _, image in probes], num_beams=1)
    for (concept, _), text in zip(probes, captions, strict=True):
        found[concept] += concept in {NOUNS.get(word) for word in text.replace(",", "").split()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--hand", choices=HELD_OUT_HANDS, default="twemoji")
    parser.add_argument("--concepts", type=int, default=50)
    parser.add_argument("--each", type=int, default=10)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    able = [concept for concept in CONCEPTS if hands_of(concept, (given.hand,))]
    found = named(SeedLM.from_pretrained(given.model), able, given.hand, given.seed)
    chosen = sorted(able, key=lambda concept: found[concept])[: given.concepts]
    right, probes = sum(found[concept] for concept in chosen), PROBES * len(chosen)
    print(
        f"{given.model} names {sum(found.values())} of {PROBES * len(able)} things; of those chosen {right} of {probes}"
    )
    given.out.mkdir(parents=True)
    for number, concept in enumerate(chosen):
        for i in range(given.each):
            path = given.out / f"{concept}-{i}.png"
            picture(concept, given.hand, [given.seed, 2, number, i]).save(path)
            path.with_suffix(".txt").write_text(f"a picture of {an(concept)}\n")
    print(f"{len(chosen) * given.each} pictures in {given.out}: {', '.join(chosen)}")


if __name__ == "__main__":
    main()
