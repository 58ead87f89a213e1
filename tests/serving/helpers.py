"""Pictures and messages, as clients send them."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image


def picture(number: int = 0, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """A random picture, the same one for the same number."""
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), "uint8")
    return Image.fromarray(pixels)


def data_url(image: Image.Image, kind: str = "png") -> str:
    file = BytesIO()
    image.save(file, format=kind.upper())
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def opened(text: str) -> Image.Image:
    """The picture of a base64 text or a data URL."""
    return Image.open(BytesIO(base64.b64decode(text.rpartition(",")[2])))


def asked(text: str, *pictures: Image.Image) -> list[dict[str, object]]:
    """A conversation of one message: pictures, then a text."""
    parts: list[dict[str, object]] = [
        {"type": "image_url", "image_url": {"url": data_url(image)}} for image in pictures
    ]
    return [{"role": "user", "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}]


def alike(first: Image.Image, second: Image.Image) -> bool:
    """Whether two drawings are the same but for rounding, which depends on what else is in a batch."""
    return first.size == second.size and np.abs(np.asarray(first, int) - np.asarray(second, int)).max() <= 2
