"""Grids of pictures that a run writes, to be looked at."""

from collections.abc import Sequence

from PIL import Image
from torch import Tensor


def to_pil(images: Tensor) -> list[Image.Image]:
    """(B, 3, H, W) in -1..1 -> PIL images."""
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(p) for p in pixels]


def grid(images: Sequence[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Images in rows on white, in cells of the widest by the highest, each in the middle of its own."""
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, image in enumerate(images):
        left = gap + i % columns * (width + gap) + (width - image.width) // 2
        top = gap + i // columns * (height + gap) + (height - image.height) // 2
        sheet.paste(image, (left, top))
    return sheet


def side_by_side(left: Sequence[Image.Image], right: Sequence[Image.Image], pairs: int = 4) -> Image.Image:
    """Pairs of (left, right), `pairs` pairs a row."""
    return grid([image for pair in zip(left, right, strict=True) for image in pair], 2 * pairs)
