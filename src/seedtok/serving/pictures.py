"""Pictures in JSON: data URLs and base64, and nothing else. No URL is fetched and no path is opened."""

from __future__ import annotations

import base64
import binascii
from io import BytesIO

from PIL import Image

from seedtok.core.errors import ImageError
from seedtok.core.image_headers import open_image
from seedtok.core.images import Square, load_image
from seedtok.serving.errors import ApiError
from seedtok.serving.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # other readers of Pillow's, such as EPS, start programs


def decoded(url: str, limits: Limits, square: Square, param: str) -> Image.Image:
    """The picture of a data URL as the ViT takes it: RGB, and stretched by `square`, so that a waiting one is small.

    Raises ApiError, of status 400 or 413, for any other URL and for what is no picture within the limits.
    """
    header, comma, payload = url.partition(",")
    kind = header.lower().replace(" ", "")
    if not comma or not kind.startswith("data:") or not kind.endswith(";base64"):
        message = "expected a data URL, such as data:image/png;base64,...; this server opens no other URL and no file"
        raise ApiError(400, message, "invalid_image_url", param)
    try:
        data = base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(400, "the data URL is not valid base64", "invalid_base64", param) from None
    try:
        return square(load_image(_opened(data, limits, param)))
    except ImageError as error:
        raise ApiError(400, str(error), "invalid_image", param) from None


def _opened(data: bytes, limits: Limits, param: str) -> Image.Image:
    """A picture whose pixels are not decoded yet."""
    try:
        image = open_image(data, FORMATS)
    except ImageError:
        raise
    except Exception:  # a hostile header can raise nearly anything
        message = f"not a picture that this server reads: {', '.join(FORMATS)}"
        raise ApiError(400, message, "invalid_image", param) from None
    if image.width * image.height > limits.pixels:
        message = f"{image.width} x {image.height} pixels; at most {limits.pixels:,} are read"
        raise ApiError(413, message, "image_too_large", param)
    return image


def encoded(picture: Image.Image, kind: str = "png") -> str:
    """The base64 of a picture's file; `kind` is "png", "jpeg" or "webp"."""
    file = BytesIO()
    picture.save(file, format=kind.upper())
    return base64.b64encode(file.getvalue()).decode()


def data_url(picture: Image.Image, kind: str = "png") -> str:
    """A picture as a data URL."""
    return f"data:image/{kind};base64,{encoded(picture, kind)}"
