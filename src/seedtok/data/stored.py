"""A picture as the bytes that a shard holds."""

import warnings
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from seedtok.core.images import load_image


def stored_bytes(path: Path, size: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """A picture's bytes, their suffix and its size; with `size`, its shorter side is reduced to that.

    A JPEG that needs no change keeps its bytes; anything else becomes PNG. Raises ImageError as `load_image` does.
    """
    image = load_image(path)
    short = min(image.size)
    if size is not None and short > size:
        width, height = (max(1, round(side * size / short)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3)
    elif _plain_jpeg(data := path.read_bytes()):
        return data, "jpg", image.size
    return png_bytes(image), "png", image.size


def _plain_jpeg(data: bytes) -> bool:
    with warnings.catch_warnings(), suppress(Exception):  # what cannot be told is stored as PNG
        warnings.simplefilter("ignore")
        image = Image.open(BytesIO(data))
        return image.format == "JPEG" and image.mode in ("L", "RGB") and image.getexif().get(0x0112, 1) == 1
    return False


def png_bytes(image: Image.Image) -> bytes:
    """An RGB picture as a PNG file."""
    buffer = BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "PNG")  # the pixels and no metadata
    return buffer.getvalue()
