"""Measures how far pictures are from those the mini tokenizer was trained on, and what the measure is worth.

python tools/familiarity.py [--write] [--count N] [NAME=FOLDER ...]

Fits it to N training scenes (10,000), sets its threshold on 0.4 N validation scenes, and prints the share that is far
of 0.1 N test scenes, twice (false alarms), of flat, noisy and shaded squares, of rendered text, and of the pictures in
each FOLDER. With --write, the shipped tokenizer gets it.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seedtok import SeedTokenizer
from seedtok.core.hub import shipped
from seedtok.core.image_search import list_images
from seedtok.core.images import load_image
from seedtok.mini.world.scenes import VARIED, Split, render, unique_scenes
from seedtok.tokenizer.familiarity import Familiarity, pooled_features

COMPONENTS = 192  # of 384 pooled features
SIDE = 128


def scenes(split: Split, count: int, seed: int = 0) -> Iterable[np.ndarray]:
    return (render(scene) for scene in unique_scenes(split, count, seed, world=VARIED))


def squares() -> dict[str, list[np.ndarray]]:
    """Pictures without things: one colour, noise of two grains, shades from one colour to another."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (30, 2, 3))
    ramp = np.linspace(0, 1, SIDE)[:, None, None] * np.ones((1, SIDE, 1))
    shades = [((1 - ramp) * a + ramp * b).astype(np.uint8) for a, b in colors]
    grains = [rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (SIDE, 8) for _ in range(20)]
    return {
        "black": [np.zeros((SIDE, SIDE, 3), np.uint8)],
        "white": [np.full((SIDE, SIDE, 3), 255, np.uint8)],
        "one colour": [np.full((SIDE, SIDE, 3), c[0], np.uint8) for c in colors],
        "noise": [np.asarray(Image.fromarray(g).resize((SIDE, SIDE))) for g in grains],
        "shades": [shade if i % 2 else shade.transpose(1, 0, 2) for i, shade in enumerate(shades)],
    }


def screens(count: int = 30) -> list[Image.Image]:
    """Windows full of text, light and dark."""
    made = []
    for i in range(count):
        rng = np.random.default_rng(i)
        ground, ink = (((255,) * 3, (0,) * 3), ((30,) * 3, (220,) * 3), ((245,) * 3, (0,) * 3))[i % 3]
        screen = Image.new("RGB", (640, 640) if i % 2 else (1280, 800), ground)
        draw, font = ImageDraw.Draw(screen), ImageFont.load_default(16 + 4 * (i % 3))
        draw.rectangle((0, 0, screen.width, 40), fill=tuple(map(int, rng.integers(0, 255, 3))))
        for y in range(60, screen.height - 20, 28):
            words = ("".join(map(chr, rng.integers(97, 123, n))) for n in rng.integers(2, 9, rng.integers(4, 14)))
            draw.text((20, y), " ".join(words), fill=ink, font=font)
        made.append(screen)
    return made


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--count", type=int, default=10_000, metavar="N")
    given = parser.parse_args()
    folders = dict(argument.split("=", 1) for argument in given.folders)
    tokenizer = SeedTokenizer.from_pretrained("mini")
    training = pooled_features(tokenizer, scenes("train", given.count))
    held_out = pooled_features(tokenizer, scenes("validation", 2 * given.count // 5))
    found = Familiarity.fit(training, held_out, COMPONENTS)
    pictures = {f"test scenes, seed {seed}": scenes("test", given.count // 10, seed) for seed in (0, 1)}
    pictures |= squares() | {"screens": screens()}
    pictures |= {name: [load_image(path) for path in list_images(Path(folder))] for name, folder in folders.items()}
    for name, images in pictures.items():
        distances = found.squared(pooled_features(tokenizer, images)) / found.threshold
        far, nearest, median = 100 * (distances > 1).float().mean(), distances.min(), distances.median()
        print(f"{name}: {far:.1f} % of {len(distances)} far; nearest {nearest:.2f}, median {median:.2f}")
    if given.write:
        found.save(shipped("tokenizer"))
        print(f"written to {shipped('tokenizer')}")


if __name__ == "__main__":
    main()
