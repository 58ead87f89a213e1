"""Draws a sheet of the varied world's scenes to look at: three rows by seen hands, two rows by held-out ones.

python tools/world_sheet.py [--out docs/world.png] [--seed 0]
"""

import argparse
from pathlib import Path

from PIL import Image

from seedtok.mini.world.drawing import render
from seedtok.mini.world.scene import Scene
from seedtok.mini.world.sets import scene_set

COLUMNS, SIDE, GAP = 8, 128, 4


def sheet(scenes: list[Scene]) -> Image.Image:
    """Pictures in rows of COLUMNS, on white."""
    step = SIDE + GAP
    rows = -(-len(scenes) // COLUMNS)
    whole = Image.new("RGB", (COLUMNS * step - GAP, rows * step - GAP), "white")
    for number, scene in enumerate(scenes):
        row, column = divmod(number, COLUMNS)
        whole.paste(Image.fromarray(render(scene, SIDE)), (column * step, row * step))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/world.png"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    scenes = scene_set("train", 3 * COLUMNS, given.seed) + scene_set("test-unseen-hands", 2 * COLUMNS, given.seed)
    sheet(scenes).save(given.out, optimize=True)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
