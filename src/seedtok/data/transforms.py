"""How an image of any size becomes a square of pixels: stretched, cropped at random, mirrored."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from seedtok.core.images import Interpolation, Square


@dataclass(frozen=True)
class Transform:
    """`size` is that of the square in pixels, to which `interpolation` stretches.

    With `crop`, the least share of an image's area, a random part is cut out, of an aspect ratio from 3:4 to 4:3; with
    `flip`, half of the images are mirrored.
    """

    size: int
    crop: float | None = None
    flip: bool = False
    interpolation: Interpolation = "bicubic"

    @property
    def is_random(self) -> bool:
        return self.crop is not None or self.flip

    def __call__(self, image: Image.Image, rng: np.random.Generator | None = None) -> Image.Image:
        """A size x size image; `rng` is needed where the transform is random."""
        square = Square(self.size, self.interpolation)
        if not self.is_random:
            return square(image)
        assert rng is not None
        cut = square(image, None if self.crop is None else random_box(image.size, self.crop, rng))
        return cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip and rng.random() < 0.5 else cut


def random_box(size: tuple[int, int], least: float, rng: np.random.Generator) -> tuple[int, int, int, int] | None:
    """A random part of an image of this width and height, as left, top, right and bottom.

    Its area is at least the share `least` of the image's. None where ten tries gave no part that fits.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(least, 1)
        aspect = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if w <= width and h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    return None
