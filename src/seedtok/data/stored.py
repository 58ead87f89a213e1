"""Images as the bytes that are stored in shards."""

from contextlib import suppress
from io import BytesIO
from pathlib import Path

from PIL import Image

from seedtok.core.images import load_image
from seedtok.core.notices import pillow_quietly


def stored_bytes(path: Path, size: int | None) -> tuple[bytes, str, tuple[int, int]]:
    """The stored bytes of an image file, their suffix ("jpg" or "png"), and the width and height in pixels.

    The shorter side is reduced to `size` pixels, if given. A JPEG that needs no change keeps its bytes; all else is
    stored as PNG. Raises ImageError as `load_image` does.
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
    """Whether these are the bytes of an upright grayscale or RGB JPEG."""
    with pillow_quietly, suppress(Exception):  # an image whose format is unclear is stored as PNG
        image = Image.open(BytesIO(data))
        return image.format == "JPEG" and image.mode in ("L", "RGB") and image.getexif().get(0x0112, 1) == 1
    return False


def png_bytes(image: Image.Image) -> bytes:
    """The bytes of a PNG file of an RGB image."""
    buffer = BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "PNG")  # the pixels without metadata
    return buffer.getvalue()
