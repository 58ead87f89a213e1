"""Opens image files whose headers are of a usual length: Pillow's time for some grows with the square of that."""

from __future__ import annotations

import math
from io import BytesIO

from PIL import Image

from seedtok.core.errors import ImageError

MAX_READS = 10_000  # that Pillow makes before the pixels; a few for each comment, profile and other block of a file


class _Counted(BytesIO):
    """A file that raises ImageError at one read too many."""

    left: float = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise ImageError("too many comments or other data before the pixels; save it again without them")
        return BytesIO.read(self, size)


def open_image(data: bytes, formats: tuple[str, ...] | None = None) -> Image.Image:
    """`Image.open` of a file's bytes, which reads no pixels; raises ImageError for headers of too many parts."""
    file = _Counted(data)
    image = Image.open(file, formats=formats)
    file.left = math.inf
    return image
