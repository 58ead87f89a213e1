"""Whatever people call a picture, as an upright RGB `PIL.Image`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from seedtok.errors import ImageError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

ImageSource = Image.Image | np.ndarray | str | Path | bytes
if TYPE_CHECKING:
    from torch import Tensor

    Pictures = ImageSource | Tensor | Sequence[ImageSource | Tensor]
else:
    Pictures = Any  # so that listing pictures does not take the import of torch


def load_image(source: ImageSource) -> Image.Image:
    """An RGB picture: EXIF orientation applied, transparency composited over white, 16 bits reduced to 8.

    `source` is a PIL image, a path, the bytes of an image file, or an array (H, W) or (H, W, 1 | 3 | 4) of
    uint8 or of floats in 0..1. Raises ImageError, in one line, for anything that is none of these. A file may
    have up to Pillow's limit for decompression bombs, about 179 million pixels.
    """
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
        data = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"no such image: {path}") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, not an image") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    return _open(data, str(path))


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

    Raises ImageError for none at all, and for a size below 1.
    """
    if size < 1:
        raise ImageError(f"a batch size of {size}: give 1 or more")
    if _is_one(images):
        yield images
        return
    every = iter(images)  # type: ignore[arg-type]
    batch = list(islice(every, size))
    if not batch:
        raise ImageError("no images given")
    while batch:
        yield batch
        batch = list(islice(every, size))


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


def list_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The files given, and for each folder the images in and below it, sorted; hidden ones are left out.

    A file given by name is taken whatever its suffix. Raises ImageError for a missing path or a folder
    without images.
    """
    found: list[Path] = []
    for path in [Path(paths)] if isinstance(paths, str | Path) else map(Path, paths):
        if not path.exists():
            raise ImageError(f"no such file or folder: {path}")
        inside = _images_below(path) if path.is_dir() else [path]
        if not inside:
            raise ImageError(f"no images in {path}: looked for {', '.join(sorted(SUFFIXES))}")
        found += inside
    return found


def _images_below(folder: Path) -> list[Path]:
    inside: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        inside += [
            Path(parent, name) for name in files if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return sorted(inside)


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
