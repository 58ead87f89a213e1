"""Grids: every picture whole, whatever its size."""

import numpy as np
from PIL import Image

from seedtok.core.pictures import grid, side_by_side


def count(sheet: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == color).all(2).sum())


def test_pictures_of_different_sizes_are_whole_and_apart():
    sizes = {(255, 0, 0): (4, 4), (0, 255, 0): (10, 3), (0, 0, 255): (2, 12)}
    sheet = grid([Image.new("RGB", size, color) for color, size in sizes.items()], columns=2, gap=1)
    assert sheet.size == (2 * 10 + 3, 2 * 12 + 3)
    for color, (width, height) in sizes.items():
        assert count(sheet, color) == width * height
    assert sheet.getpixel((1 + 3, 1 + 4)) == (255, 0, 0)  # in the middle of its cell


def test_pictures_of_one_size_are_where_they_were():
    sheet = side_by_side([Image.new("RGB", (4, 4), "red")], [Image.new("RGB", (4, 4), "blue")], pairs=1)
    assert sheet.size == (20, 12)
    assert [sheet.getpixel(at) for at in ((4, 4), (7, 7), (12, 4))] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]
