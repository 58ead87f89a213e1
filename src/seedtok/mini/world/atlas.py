"""The drawings of the concepts by every hand: one file, drawn beforehand by `tools/atlas.py`."""

from functools import cache, lru_cache
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from PIL import Image, ImageFilter

from seedtok.mini.world.concepts import CONCEPTS

ATLAS = Path(__file__).with_name("atlas.zip")
CELL, MARGIN, COLUMNS = 96, 6, 12  # a drawing's longer side is CELL - MARGIN
CLASSIC_SIZES = (48, 24)  # pixels a side of classic drawings, in scenes of 128 and 64 pixels
_SIDES = (36, 72, CELL)  # to which drawings are reduced, well above their size in a picture of 64 or 128 pixels
_OUTLINE = (40, 40, 40)


def sheet_size(pixels: int) -> tuple[int, int]:
    """Width and height of a hand's sheet, whose cells are pixels x pixels."""
    return COLUMNS * pixels, -(-len(CONCEPTS) // COLUMNS) * pixels


@cache
def _sheet(name: str) -> Image.Image:
    with ZipFile(ATLAS) as archive:
        return Image.open(BytesIO(archive.read(f"{name}.webp"))).convert("RGBA")


def _cell(name: str, concept: str, pixels: int) -> Image.Image:
    row, column = divmod(CONCEPTS.index(concept), COLUMNS)
    return _sheet(name).crop((column * pixels, row * pixels, (column + 1) * pixels, (row + 1) * pixels))


@lru_cache(maxsize=2 * len(CONCEPTS))
def classic_drawing(concept: str, pixels: int) -> np.ndarray:
    """An OpenMoji drawing at one of CLASSIC_SIZES: (pixels, pixels, 4) float32, colours premultiplied, 0 to 255."""
    out = np.asarray(_cell(f"classic-{pixels}", concept, pixels)).astype(np.float32)
    out.flags.writeable = False
    return out


@lru_cache(maxsize=8192)
def drawing(hand: str, concept: str, pixels: int, outlined: bool = False) -> Image.Image:
    """A hand's drawing of a concept, "RGBa", at the smallest size kept that has as many pixels a side, or the largest.

    It lies in the middle, a thirty-second of the side from its edges. `outlined`: with a dark line around it.
    """
    side = next((side for side in _SIDES if side >= pixels), CELL)
    cell = _cell(hand, concept, CELL)
    if outlined:
        line = Image.new("RGBA", cell.size, _OUTLINE)
        line.putalpha(cell.getchannel("A").filter(ImageFilter.MaxFilter(MARGIN + 1)))
        cell = Image.alpha_composite(line, cell)
    small = cell.convert("RGBa")
    return small if side == CELL else small.resize((side, side), Image.Resampling.LANCZOS)


@cache
def stands_out(hand: str, concept: str, color: tuple[int, ...]) -> bool:
    """Whether at least a fifth of a drawing's ink differs clearly from a background of this colour."""
    cell = np.asarray(_cell(hand, concept, CELL).resize((24, 24), Image.Resampling.BOX)).astype(np.int64)
    ink = cell[..., 3]
    apart = ((cell[..., :3] - np.array(color)) ** 2).sum(-1) > 60**2
    return bool(5 * (ink * apart).sum() >= ink.sum())
