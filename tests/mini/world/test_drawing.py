"""Pictures of scenes: classic ones as they always were, varied ones as their looks say."""

import hashlib
from dataclasses import replace
from itertools import combinations, islice

import numpy as np
import pytest

from seedtok.mini.world.atlas import CELL, drawing
from seedtok.mini.world.concepts import BACKGROUNDS, PLACES
from seedtok.mini.world.drawing import render, shade
from seedtok.mini.world.looks import SHADES
from seedtok.mini.world.scene import Ground, Look, Scene, Thing, ThingLook
from seedtok.mini.world.scenes import VARIED, scene_stream

CLASSIC_PICTURES = {  # SHA-256 of the first 400 scenes of seed 0, as drawn when the shipped weights were trained
    ("train", 64): "83958c87f990fc70b9a5476994faa46b7cbbb9b54292fa37237f6c6a5366eb9e",
    ("train", 128): "9725112147b4fbeb6fe47defcb536d6ad0257019f3b5328a27a1922d6bc5c182",
    ("test", 64): "cfa58683e41d6886522a70b2b2b0c39daf98e64010e4711f7e1609acb70cf634",
    ("test", 128): "2870426ced08b12c76e7c92d7082c1cf00b5adb6107d408fc82f79703265bbeb",
}


def scene(*things: tuple[str, str], background: str = "blue", shift: tuple[int, int] = (0, 0)) -> Scene:
    return Scene(background, tuple(Thing(*thing) for thing in things), shift)


def looking(place: str = "middle", ground: Ground | None = None, **look: float) -> Scene:
    """A fox by Noto on blue."""
    return replace(scene(("fox", place)), look=Look(ground or Ground(), (ThingLook("noto", **look),)))


def ink(picture: np.ndarray, background: str = "blue") -> np.ndarray:
    return (np.abs(picture.astype(int) - BACKGROUNDS[background]) > 8).any(-1)


def center(picture: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(ink(picture))
    return (rows.min() + rows.max() + 1) / 2, (columns.min() + columns.max() + 1) / 2


@pytest.mark.parametrize(("split", "size"), CLASSIC_PICTURES)
def test_classic_scenes_are_drawn_as_they_always_were(split, size):
    digest = hashlib.sha256()
    for one in islice(scene_stream(split, 0), 400):
        digest.update(render(one, size).tobytes())
    assert digest.hexdigest() == CLASSIC_PICTURES[split, size]


@pytest.mark.parametrize("size", [64, 128])
def test_render_draws_things_where_the_scene_puts_them(size):
    s = scene(("apple", "top left"), ("fox", "bottom right"))
    looks = tuple(ThingLook("noto", 1.2, turn=10.0) for _ in s.things)
    for one in (s, replace(s, look=Look(Ground(), looks))):
        picture = render(one, size)
        assert picture.shape == (size, size, 3)
        assert picture.dtype == np.uint8
        assert picture.flags.writeable
        assert np.array_equal(picture, render(one, size))
        inked = ink(picture)
        half = size // 2
        assert inked[:half, :half].any()
        assert inked[half:, half:].any()
        assert not inked[:half, half:].any()
        assert not inked[half:, :half].any()


def test_shift_moves_the_whole_scene_by_a_cell():
    still = render(scene(("apple", "middle")), 128)
    moved = render(scene(("apple", "middle"), shift=(1, 0)), 128)
    assert np.array_equal(np.roll(still, 16, axis=0), moved)


def test_a_plain_look_is_the_drawing_itself():
    """At a size of 2 the drawing has all its 96 pixels, and nothing is resampled."""
    own = np.asarray(drawing("noto", "fox", CELL)).astype(int)
    expected = np.empty((128, 128, 3), int)
    expected[:] = BACKGROUNDS["blue"]
    part = expected[16:112, 16:112]
    part[:] = own[..., :3] + np.round(part * (255 - own[..., 3:]) / 255)
    assert np.abs(render(looking(size=2.0)).astype(int) - expected).max() <= 2


@pytest.mark.parametrize("place", PLACES)
def test_a_thing_stands_in_the_middle_of_its_place_or_as_far_off_as_its_look_says(place):
    row, column = PLACES[place]
    for down, right in ((0.0, 0.0), (0.5, -0.25)):
        y, x = center(render(looking(place, down=down, right=right)))
        assert y == pytest.approx(16 * (2 * row + 2 + down), abs=1.5)
        assert x == pytest.approx(16 * (2 * column + 2 + right), abs=1.5)


def test_a_thing_grows_with_its_size():
    def side(size: float) -> int:
        rows, columns = np.nonzero(ink(render(looking(size=size))))
        return max(np.ptp(rows), np.ptp(columns)) + 1

    for size in (0.7, 1.0, 1.3):
        assert side(size) == pytest.approx(45 * size, abs=2)


def test_mirrored_and_turned_pictures_are_those_of_an_image_library():
    plain = render(looking(size=1.3)).astype(int)
    mirrored = render(looking(size=1.3, mirrored=True)).astype(int)
    assert np.abs(mirrored - plain[:, ::-1]).mean() < 1
    turned = render(looking(size=1.3, turn=90.0)).astype(int)  # clockwise
    assert np.abs(turned - np.rot90(plain, -1)).mean() < 1
    assert np.abs(turned - plain).mean() > 5


def test_a_ground_goes_from_one_shade_to_the_other():
    empty = Scene("green", (), look=Look(Ground(-0.1, 0.2, angle=0.0), ()))
    across = render(empty)
    assert np.array_equal(across[0], across[-1])
    assert across[64, 0] == pytest.approx(shade(BACKGROUNDS["green"], -0.1), abs=2)
    assert across[64, -1] == pytest.approx(shade(BACKGROUNDS["green"], 0.2), abs=2)
    down = render(replace(empty, look=Look(Ground(-0.1, 0.2, angle=90.0), ())))
    assert np.array_equal(down, across.transpose(1, 0, 2))
    around = render(replace(empty, look=Look(Ground(-0.1, 0.2, roundness=1.0), ()))).astype(int)
    assert np.array_equal(around, around[::-1, ::-1])
    assert (around[0, 0] - around[64, 64] > 20).all()
    flat = render(replace(empty, look=Look(Ground(0.1, 0.1, angle=30.0, roundness=0.5), ())))
    assert (flat == np.floor(np.array(shade(BACKGROUNDS["green"], 0.1)) + 0.5)).all()


def lab(color: tuple[float, ...]) -> np.ndarray:
    """CIELAB of an sRGB colour, under D65."""
    part = np.array(color) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(matrix) @ linear / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_colors_keep_their_names_in_every_shade():
    shades = {
        name: [lab(shade(BACKGROUNDS[name], amount)) for amount in np.linspace(*SHADES[name], 5)]
        for name in BACKGROUNDS
    }
    own = {name: lab(color) for name, color in BACKGROUNDS.items()}
    for name, places in shades.items():
        for place in places:
            assert min(own, key=lambda other: np.linalg.norm(place - own[other])) == name
    for one, other in combinations(shades, 2):
        assert min(np.linalg.norm(a - b) for a in shades[one] for b in shades[other]) > 18, (one, other)


def test_varied_scenes_are_drawn_in_both_sizes_alike():
    for one in islice(scene_stream("train", 1, world=VARIED), 20):
        large, small = render(one, 128).astype(float), render(one, 64).astype(float)
        halved = large.reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(halved - small).mean() < 4


def test_errors_say_what_is_possible():
    with pytest.raises(ValueError, match="64 or 128 pixels, not 100"):
        render(scene(("apple", "middle")), 100)
