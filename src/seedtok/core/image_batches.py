"""One image or many, of any kind, as PIL images: lists, arrays, tensors and iterables, in batches."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from PIL import Image

from seedtok.core.errors import ImageError
from seedtok.core.images import Images, ImageSource, load_image

if TYPE_CHECKING:
    from torch import Tensor


class Batch(list[Any]):
    """Images of an iterable; `first` is the number in it of the first of them."""

    first = 1


def as_pil(images: Images) -> list[Image.Image]:
    """One image, a sequence of images, or an array or tensor with a leading batch axis, as PIL images.

    A tensor image is (3, H, W); for the others, and for errors, see `load_image`: of several images they name the
    number, from 1 on. Raises ImageError for an empty sequence.
    """
    listed: list[Any] = [images] if is_one(images) else list(images)  # type: ignore[arg-type]
    if not listed:
        raise ImageError("no images given")
    found: list[Image.Image] = []
    try:
        for image in listed:
            found.append(load_image(_channels_last(image) if _is_tensor(image) else image))
    except ImageError as error:
        if is_one(images):
            raise
        first = images.first if isinstance(images, Batch) else 1
        raise ImageError(f"image {first + len(found)}: {error}") from None
    return found


def batches_of(images: Images | Iterable[ImageSource | Tensor], size: int) -> Iterator[Any]:
    """Batches of `size` images. `images` is as for `as_pil`, or any iterable of images, which is read lazily.

    Raises ImageError for a size below 1.
    """
    if size < 1:
        raise ImageError(f"a batch size of {size}; expected 1 or more")
    if is_one(images):
        yield images
        return
    iterator, first = iter(images), 1  # type: ignore[arg-type]
    while batch := Batch(islice(iterator, size)):
        batch.first, first = first, first + size
        yield batch


def is_one(images: Any) -> bool:
    """Whether this is a single image, valid or not, and not a collection of images."""
    if isinstance(images, np.ndarray) or _is_tensor(images):
        return images.ndim != 4
    single = isinstance(images, Image.Image | str | Path | bytes | bytearray | memoryview | dict)
    return single or hasattr(images, "read") or not isinstance(images, Iterable)


def _is_tensor(image: Any) -> TypeGuard[Tensor]:
    torch = sys.modules.get("torch")  # where torch is not imported there are no tensors
    return torch is not None and isinstance(image, torch.Tensor)


def _channels_last(image: Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3, 4):
        raise ImageError(f"a tensor of shape {tuple(image.shape)}; expected (3, H, W)")
    array = image.detach().cpu().permute(1, 2, 0)
    return (array.float() if array.is_floating_point() else array).numpy()
