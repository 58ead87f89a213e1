"""Images of any kind as upright RGB `PIL.Image`s, and grids of images to look at."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from io import IOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from seedtok.core.errors import ImageError
from seedtok.core.image_headers import open_image
from seedtok.core.notices import pillow_quietly

# Larger images are refused before they are read. The limits can be changed, as in
# `seedtok.core.images.MAX_BYTES = 2**32`. For more pixels, raise `PIL.Image.MAX_IMAGE_PIXELS` too: Pillow allows twice
# its value.
MAX_BYTES = 2**30  # of an image file
MAX_PIXELS = 178_956_970  # width x height
MAX_SIDE = 100_000  # pixels of the longer side: the memory for resizing is proportional to it
URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
OTHER_PROGRAMS = frozenset({"EPS", "WMF"})  # formats that Pillow has other programs decode, such as Ghostscript

ImageSource = Image.Image | np.ndarray | str | Path | bytes | bytearray | memoryview | IOBase
if TYPE_CHECKING:
    from torch import Tensor

    Images = ImageSource | Tensor | Sequence[ImageSource | Tensor]
else:
    Images = Any  # so that listing images does not import torch


Interpolation = Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Square:
    """Stretches images, or a part of each, to squares of `side` pixels; one that is such a square stays as it is."""

    side: int
    interpolation: Interpolation = "bicubic"

    def __call__(self, image: Image.Image, box: tuple[int, int, int, int] | None = None) -> Image.Image:
        """The square of an image, or of its part `box`: left, top, right and bottom."""
        size = (self.side, self.side)
        if box is None and image.size == size:
            return image
        return image.resize(size, Image.Resampling[self.interpolation.upper()], box)


def load_image(source: ImageSource) -> Image.Image:
    """An RGB image: EXIF orientation applied, transparency composited over white, 16 bits reduced to 8.

    Args:
        source: a PIL image, a path, the bytes of an image file, a file open for reading them, or an array (H, W) or
            (H, W, 1 | 3 | 4) of uint8 or of floats in 0..1.

    Raises:
        ImageError: `source` is none of these or cannot be decoded; a path is not a regular file (a pipe, a device); the
            image exceeds `MAX_BYTES`, `MAX_PIXELS` or `MAX_SIDE`, and is then not read, or the available memory.
    """
    try:
        return _load(source)
    except MemoryError:
        name = source if isinstance(source, str | Path) else "the image"
        raise ImageError(f"{name}: not enough memory to decode it; reduce its size") from None


def _load(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return _decode(source, "the image")
    if isinstance(source, np.ndarray):
        return _flatten(_from_array(source))
    if isinstance(source, bytes | bytearray | memoryview):
        return _open(bytes(source), "these bytes")
    if not isinstance(source, str | Path):
        return _open(_read_open(source), "the open file")
    path = Path(source)
    try:
        data = _read(path)
    except FileNotFoundError:
        if isinstance(source, str) and URL.match(source):
            raise ImageError(f"{source} is a URL; download the image, and give its path or its bytes") from None
        raise ImageError(f"no such image: {path}") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return _open(data, str(path))


def _read(path: Path) -> bytes:
    """The bytes of a regular file of at most `MAX_BYTES`; never blocks, as reading a pipe would."""
    _check_file(path, path.stat())  # before opening: opening a device may have side effects
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        _check_file(path, status)
        return file.read(status.st_size)


def _read_open(file: Any) -> bytes:
    """The bytes of a file that is open, from where it stands, of which there may be at most `MAX_BYTES`."""
    try:
        data = file.read(MAX_BYTES + 1) if hasattr(file, "read") else None
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"cannot read the open file: {_line(error)}") from None
    if not isinstance(data, bytes):
        raise ImageError(
            f"an image of type {type(file).__name__}; expected a PIL image, an array, a path, the bytes of an image "
            "file, or a file that is open in binary mode"
        )
    if len(data) > MAX_BYTES:
        raise ImageError(f"the open file: over {MAX_BYTES:,} bytes; expected at most as many")
    return data


def _check_file(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path} is a folder, not an image")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "no regular file")
        raise ImageError(f"{path} is {kind}, not an image file")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"{path}: a file of {status.st_size:,} bytes; expected at most {MAX_BYTES:,}")


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name}: an empty file, not an image")
    with pillow_quietly:  # it warns of large images and of invalid metadata
        try:
            image = open_image(data)
        except UnidentifiedImageError:
            raise ImageError(f"{name}: not an image in a format that Pillow reads") from None
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name}: too large to decode safely; reduce its size ({error})") from None
        except Exception as error:  # a malformed header can raise almost any exception
            raise ImageError(f"{name}: not a readable image ({_line(error)})") from None
        if image.format in OTHER_PROGRAMS:
            raise ImageError(f"{name}: an image in the format {image.format}, which is not read: save it as PNG")
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {image.width} x {image.height} pixels")
    _check_size(*image.size, name)
    try:
        image.load()
    except Exception as error:  # see `_open`
        raise ImageError(f"{name}: broken or truncated image ({_line(error)})") from None
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # invalid EXIF metadata does not affect the pixels
        upright = image.copy()
    try:
        return _flatten(upright)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except (ValueError, OSError) as error:
        raise ImageError(f"{name}: cannot turn mode {image.mode} into RGB ({_line(error)})") from None


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise ImageError(
            f"{name}: {width} x {height} pixels is too large: at most {MAX_PIXELS:,} pixels, and {MAX_SIDE:,} a side"
        )


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255; 16-bit PGM files have mode I
        values = np.asarray(image).astype(np.int32)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"values from {values.min()} to {values.max()}; expected 0 to 65535 in 16-bit grayscale")
        shown = ((values + 128) // 257).astype(np.uint8)
        if isinstance(clear := image.info.get("transparency"), int):  # one value of gray
            shown[values == clear] = 255
        return Image.fromarray(shown).convert("RGB")
    if image.mode == "F":
        return _from_array(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        ink = image.convert({"La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), ink).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    shape = " x ".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an array of {shape or 'one value'}; expected (H, W) or (H, W, 1, 3 or 4), channels last")
    if array.size == 0:
        raise ImageError(f"an empty array, {shape}, is not an image")
    _check_size(array.shape[1], array.shape[0], "the array")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("the array has NaN or infinite pixels")
        low, high = float(array.min()), float(array.max())
        if low < -1e-3 or high > 1 + 1e-3:  # resampling may overshoot by a rounding error
            raise ImageError(f"float pixels are in {low:g}..{high:g}; expected 0..1: scale them, or use uint8")
        array = (array.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"pixels of {array.dtype}; expected uint8 or floats")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# ---------------------------------------------------------------- grids


def to_pil(images: Tensor) -> list[Image.Image]:
    """Tensors (B, 3, H, W) in -1..1 as PIL images."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p) for p in pixels]


def grid(images: Sequence[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """One image of all `images` in rows on white; each is centred in a cell that fits the largest."""
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, image in enumerate(images):
        left = gap + i % columns * (width + gap) + (width - image.width) // 2
        top = gap + i // columns * (height + gap) + (height - image.height) // 2
        sheet.paste(image, (left, top))
    return sheet


def side_by_side(left: Sequence[Image.Image], right: Sequence[Image.Image], pairs: int = 4) -> Image.Image:
    """A grid of pairs of images, left beside right, with `pairs` pairs in a row."""
    return grid([image for pair in zip(left, right, strict=True) for image in pair], 2 * pairs)
