"""Whatever people call a picture, as an upright RGB `PIL.Image`."""

from __future__ import annotations

import os
import stat
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from seedtok.core.errors import ImageError

# What is larger is refused before it is read. Set these to other values, as in `seedtok.core.images.MAX_BYTES = 2**32`;
# above this number of pixels, set `PIL.Image.MAX_IMAGE_PIXELS`, of which Pillow allows twice as many, as well.
MAX_BYTES = 2**30  # of an image file
MAX_PIXELS = 178_956_970  # width x height
MAX_SIDE = 100_000  # of the longer side: resizing takes memory in proportion to it

ImageSource = Image.Image | np.ndarray | str | Path | bytes
if TYPE_CHECKING:
    from torch import Tensor

    Pictures = ImageSource | Tensor | Sequence[ImageSource | Tensor]
else:
    Pictures = Any  # so that listing pictures does not take the import of torch


def load_image(source: ImageSource) -> Image.Image:
    """An RGB picture: EXIF orientation applied, transparency composited over white, 16 bits reduced to 8.

    `source` is a PIL image, a path, the bytes of an image file, or an array (H, W) or (H, W, 1 | 3 | 4) of
    uint8 or of floats in 0..1. Raises ImageError, in one line, for anything that is none of these, for a path that is
    not a regular file (a pipe, a device), and for what is larger than `MAX_BYTES`, `MAX_PIXELS` or `MAX_SIDE`, which is
    not read at all, or than the memory that is left.
    """
    try:
        return _load(source)
    except MemoryError:
        name = source if isinstance(source, str | Path) else "the image"
        raise ImageError(f"{name}: not enough memory to decode it; make it smaller") from None


def _load(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return _decode(source, "the image")
    if isinstance(source, np.ndarray):
        return _flatten(_from_array(source))
    if isinstance(source, bytes):
        return _open(source, "these bytes")
    if not isinstance(source, str | Path):
        raise ImageError(f"expected a PIL image, an array, a path or bytes, not {type(source).__name__}")
    path = Path(source)
    try:
        data = _read(path)
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return _open(data, str(path))


def _read(path: Path) -> bytes:
    """The bytes of a regular file of at most `MAX_BYTES`; never waits for another program to write them."""
    _check_file(path, path.stat())  # before it is opened: opening a device may have an effect
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        status = os.fstat(file.fileno())
        _check_file(path, status)
        return file.read(status.st_size)


def _check_file(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{path} is a folder, not an image")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
        raise ImageError(f"{path} is {kinds.get(stat.S_IFMT(status.st_mode), 'no regular file')}, not an image file")
    if status.st_size > MAX_BYTES:
        raise ImageError(f"{path}: a file of {status.st_size:,} bytes; at most {MAX_BYTES:,} are read")


def as_pil(images: Pictures) -> list[Image.Image]:
    """One picture, several, or an array or tensor with a leading batch axis, each by `load_image`.

    A tensor is (3, H, W). Raises ImageError for none at all, or as `load_image` does.
    """
    every: list[Any] = [images] if _is_one(images) else list(images)  # type: ignore[arg-type]
    if not every:
        raise ImageError("no images given")
    return [load_image(_channels_last(image) if _is_tensor(image) else image) for image in every]


def batches_of(images: Pictures | Iterable[ImageSource | Tensor], size: int) -> Iterator[Any]:
    """`images` as for `as_pil`, or any iterable of pictures, `size` at a time; what is read is not kept.

    Raises ImageError for a size below 1.
    """
    if size < 1:
        raise ImageError(f"a batch size of {size}: give 1 or more")
    if _is_one(images):
        yield images
        return
    every = iter(images)  # type: ignore[arg-type]
    while batch := list(islice(every, size)):
        yield batch


def _is_one(images: Any) -> bool:
    """Whether this is one picture, or what `load_image` refuses as one, and not several."""
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return images.ndim != 4
    return isinstance(images, Image.Image | str | Path | bytes) or not isinstance(images, Iterable)


def _is_tensor(image: Any) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # no tensor is made without it
    return torch is not None and isinstance(image, torch.Tensor)


def _channels_last(image: Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ImageError(f"a tensor image is (3, H, W), not {tuple(image.shape)}")
    array = image.detach().cpu().permute(1, 2, 0)
    return (array.float() if array.is_floating_point() else array).numpy()


def _open(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name}: an empty file, not an image")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a large picture is fine, and so are untidy metadata
        try:
            image = Image.open(BytesIO(data))
        except UnidentifiedImageError:
            raise ImageError(f"{name}: not an image in a format that Pillow reads") from None
        except Image.DecompressionBombError as error:
            raise ImageError(f"{name}: too large to decode safely; make it smaller ({error})") from None
        except Exception as error:  # a hostile header can raise nearly anything
            raise ImageError(f"{name}: not a readable image ({_line(error)})") from None
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name} is empty: {image.width} x {image.height} pixels")
    _check_size(*image.size, name)
    try:
        image.load()
    except Exception as error:  # as above
        raise ImageError(f"{name}: broken or truncated image ({_line(error)})") from None
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF says nothing about the pixels
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
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255; PGM files of 16 bits have mode I
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"values from {values.min()} to {values.max()}; expected 0 to 65535 in 16-bit grayscale")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return _from_array(np.asarray(image)).convert("RGB")
    if image.has_transparency_data:
        ink = image.convert({"La": "LA"}.get(image.mode, image.mode)).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), ink).convert("RGB")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    shape = " x ".join(map(str, array.shape))
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"expected an array (H, W) or (H, W, 1, 3 or 4), channels last; got {shape or 'a scalar'}")
    if array.size == 0:
        raise ImageError(f"an empty array, {shape}, is not an image")
    _check_size(array.shape[1], array.shape[0], "the array")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all():
            raise ImageError("the array has NaN or infinite pixels")
        low, high = float(array.min()), float(array.max())
        if low < -1e-3 or high > 1 + 1e-3:  # what resampling overshoots by rounding is forgiven
            raise ImageError(
                f"float pixels must be in 0..1, and these are in {low:g}..{high:g}; scale them, or use uint8"
            )
        array = (array.astype(np.float32).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"expected uint8 or float pixels, not {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
