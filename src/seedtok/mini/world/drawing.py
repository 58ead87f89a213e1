"""Pictures of scenes."""

import math
from functools import lru_cache

import numpy as np
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.mini.world.atlas import classic_drawing, drawing, stands_out
from seedtok.mini.world.concepts import BACKGROUNDS, PLACES
from seedtok.mini.world.scene import GRID, ICON, Ground, Look, Scene, Style, Thing, ThingLook

SIZES = (64, 128)


def render(scene: Scene, size: int = 128) -> np.ndarray:
    """The picture of a scene: (size, size, 3) uint8."""
    if size not in SIZES:
        raise DataError(f"a scene is drawn at {' or '.join(map(str, SIZES))} pixels, not {size}")
    return _classic(scene, size) if scene.look is None else _varied(scene, scene.look, size)


def shade(color: tuple[int, ...], amount: float) -> tuple[float, ...]:
    """A colour made darker (down to -1, black) or lighter (up to 1, white)."""
    return tuple(c * (1 + amount) if amount < 0 else c + (255 - c) * amount for c in color)


def _classic(scene: Scene, size: int) -> np.ndarray:
    cell = size // GRID
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        row, column = PLACES[thing.place]
        y, x = cell * (2 * row + scene.shift[0]), cell * (2 * column + scene.shift[1])
        ink = classic_drawing(thing.concept, ICON * cell)
        region = canvas[y : y + ICON * cell, x : x + ICON * cell]
        region *= 1 - ink[..., 3:] / 255
        region += ink[..., :3]
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def _varied(scene: Scene, look: Look, size: int) -> np.ndarray:
    color = BACKGROUNDS[scene.background]
    canvas = _ground(color, look.ground, size)
    middle = shade(color, (look.ground.start + look.ground.end) / 2)
    behind = tuple(round(part) for part in middle)
    for thing, how in zip(scene.things, look.things, strict=True):
        _draw(canvas, thing, how, outlined=not stands_out(how.hand, thing.concept, behind))
    return np.array(canvas)


def _ground(color: tuple[int, ...], ground: Ground, size: int) -> Image.Image:
    """The background: a map of 256 steps from its start to its end, coloured by a palette."""
    start, end = (np.array(shade(color, amount)) for amount in (ground.start, ground.end))
    across, down = _direction(ground.angle)
    straight, axis = (1 - ground.roundness) / (2 * (abs(across) + abs(down))), _axis(size)
    rows, columns = (
        (1 - ground.roundness) / 4 + straight * part * axis + ground.roundness / 2 * axis**2 for part in (down, across)
    )
    steps = Image.fromarray((255 * rows[:, None] + (255 * columns + 0.5)).astype(np.uint8))
    steps.putpalette((start + _SHARES * (end - start) + 0.5).astype(np.uint8).tobytes())
    return steps.convert("RGB")


_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # luminance and two of colour


def _restyled(ink: Image.Image, style: Style) -> Image.Image:
    """A drawing in other colours; what is transparent stays so. Colours are premultiplied, before and after."""
    cos, sin = _direction(style.hue)
    turn = np.array([[1, 0, 0], [0, style.saturation * cos, -style.saturation * sin],
                     [0, style.saturation * sin, style.saturation * cos]])  # fmt: skip
    matrix = (style.contrast * np.linalg.inv(_YIQ) @ turn @ _YIQ).astype(np.float32)
    before = np.asarray(ink, np.float32)
    cover = before[..., 3:]
    colors = before[..., :3] @ matrix.T + style.brightness * cover
    colors = np.clip(cover - colors if style.negative else colors, 0, cover)
    return Image.fromarray(np.concatenate([colors, cover], 2).astype(np.uint8), "RGBa")


_SHARES = np.arange(256)[:, None] / 255


def _direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that pictures are the same on every machine."""
    angle = math.radians(degrees)
    return round(math.cos(angle), 6), round(math.sin(angle), 6)


@lru_cache(maxsize=len(SIZES))
def _axis(size: int) -> np.ndarray:
    """The middles of pixels, from -1 to 1: (size,) float32."""
    return ((np.arange(size) + 0.5) / size * 2 - 1).astype(np.float32)


def _draw(canvas: Image.Image, thing: Thing, how: ThingLook, outlined: bool) -> None:
    """Puts a thing on the picture: its drawing, resized, turned and mirrored in one affine map."""
    cell = canvas.width / GRID
    side = ICON * cell * how.size  # of the drawing with its margins, in pixels of the picture
    ink = drawing(how.hand, thing.concept, math.ceil(side), outlined)
    if how.style is not None:
        ink = _restyled(ink, how.style)
    cos, sin = _direction(how.turn)
    half = math.ceil(side * (abs(cos) + abs(sin)) / 2) + (1 if how.style is None else 5)
    row, column = PLACES[thing.place]
    y, x = cell * (2 * row + 2 + how.down), cell * (2 * column + 2 + how.right)  # of the thing's middle
    left, top = math.floor(x) - half, math.floor(y) - half
    scale = ink.width / side
    across = -scale if how.mirrored else scale
    a, b, d, e = across * cos, across * sin, -scale * sin, scale * cos
    if how.style is not None:
        wide, s, t = how.style.stretch, how.style.slant, how.style.slope
        a, b, d, e = a / wide + b * t, a * s + b * wide, d / wide + e * t, d * s + e * wide
    middle = ink.width / 2
    matrix = (a, b, middle - a * (x - left) - b * (y - top), d, e, middle - d * (x - left) - e * (y - top))
    box = (2 * half + 1, 2 * half + 1)
    placed = ink.transform(box, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR).convert("RGBA")
    canvas.paste(placed, (left, top), placed)
