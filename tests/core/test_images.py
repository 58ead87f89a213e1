"""Pictures of every kind come out as upright RGB, and what is no picture as one clear line."""

import os
import socket
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import seedtok.core.images
from seedtok.core.errors import ImageError, SeedTokWarning
from seedtok.core.image_batches import as_pil, batches_of
from seedtok.core.image_search import find_images, list_images
from seedtok.core.images import grid, load_image, side_by_side
from seedtok.core.text import clean_caption

RED = (200, 20, 30)


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def one_line(source, match: str) -> None:
    with pytest.raises(ImageError, match=match) as caught:
        load_image(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "RGBX", "PA", "LAB"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new(mode, (5, 3))
    assert load_image(image).size == (5, 3)
    assert load_image(image).mode == "RGB"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif", "ppm"])
def test_every_format_is_read(tmp_path, suffix):
    path = saved(Image.new("RGB", (16, 8), RED), tmp_path / f"a.{suffix}")
    with Image.open(path) as opened:
        for source in (path, str(path), path.read_bytes(), opened):
            out = load_image(source)
            assert out.size == (16, 8)
            assert np.abs(np.array(pixel(out, 8, 4)) - RED).max() < 12


def test_cmyk_jpeg(tmp_path):
    path = saved(Image.new("RGB", (16, 16), RED).convert("CMYK"), tmp_path / "a.jpg", quality=95)
    assert np.abs(np.array(pixel(load_image(path), 8, 8)) - RED).max() < 12


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257 * 100, 65535]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / f"a.{suffix}")
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 100, 255]


def test_float_image():
    assert pixel(load_image(Image.fromarray(np.full((2, 2), 0.5, np.float32)))) == (128, 128, 128)


def test_wide_integers_are_refused():
    one_line(Image.fromarray(np.array([[-1, 70000]], np.int32)), "expected 0 to 65535")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "La", "RGBa", "PA"])
def test_transparency_shows_white(mode):
    assert pixel(load_image(Image.new(mode, (2, 2)))) == (255, 255, 255)


def test_half_transparent_red_over_white():
    assert pixel(load_image(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))) == (255, 127, 127)


def test_palette_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, *RED])
    image.putpixel((1, 0), 1)
    for name, transparency in (("index.png", 0), ("table.png", b"\x00\xff")):
        out = load_image(saved(image, tmp_path / name, transparency=transparency))
        assert pixel(out) == (255, 255, 255)
        assert pixel(out, 1) == RED


def test_transparent_value_of_a_16_bit_png(tmp_path):
    values = np.array([[0, 257 * 100, 257 * 100 + 1]], np.uint16)
    path = saved(Image.fromarray(values), tmp_path / "a.png", transparency=257 * 100)
    assert np.asarray(load_image(path))[0, :, 0].tolist() == [0, 255, 100]


def test_transparent_colour_of_an_rgb_png(tmp_path):
    path = saved(Image.new("RGB", (2, 2), RED), tmp_path / "a.png", transparency=RED)
    assert pixel(load_image(path)) == (255, 255, 255)


def test_exif_orientation_is_applied_once(tmp_path):
    image = Image.new("RGB", (32, 16), "white")
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    path = saved(image, tmp_path / "a.png", exif=exif)
    out = load_image(path)
    assert out.size == (16, 32)
    assert pixel(out, 8, 4) == RED
    assert load_image(out).size == (16, 32)
    with Image.open(path) as opened:
        assert load_image(opened).size == (16, 32)


def test_broken_exif_does_not_matter(tmp_path):
    path = saved(Image.new("RGB", (4, 4), RED), tmp_path / "a.png", exif=b"Exif\x00\x00garbage")
    assert pixel(load_image(path)) == RED


def test_result_is_a_copy():
    image = Image.new("RGB", (2, 2), RED)
    load_image(image).putpixel((0, 0), (0, 0, 0))
    assert image.getpixel((0, 0)) == RED


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (4, 6, 3), (4, 6, 4), (1, 1), (1, 1, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
def test_arrays(shape, dtype):
    array = np.full(shape, 1 if dtype != np.uint8 else 255, dtype)
    out = load_image(array)
    assert out.size == (shape[1], shape[0])
    assert pixel(out) == (255, 255, 255)


def test_strided_array_and_rounding():
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(load_image(array[::2, ::-1])), array[::2, ::-1])
    assert np.array_equal(np.asarray(load_image(array / 255)), array)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (np.zeros((0, 4, 3), np.uint8), "empty array, 0 x 4 x 3"),
        (np.zeros((0, 0)), "empty array"),
        (
            np.zeros((3, 4, 5), np.uint8),
            r"an array of 3 x 4 x 5; expected \(H, W\) or .*, channels last",
        ),
        (np.zeros((2, 4, 4, 3), np.uint8), "an array of 2 x 4 x 4 x 3"),
        (np.zeros((), np.uint8), "an array of one value"),
        (np.zeros((4, 4), np.int64), "pixels of int64"),
        (np.zeros((4, 4), bool), "pixels of bool"),
        (np.array([["a"]]), "pixels of <U1"),
        (np.full((4, 4), np.nan), "NaN or infinite"),
        (np.full((4, 4, 3), np.inf, np.float32), "NaN or infinite"),
        (np.full((4, 4, 3), 200.0), "expected 0..1"),
        (np.full((4, 4, 3), -0.5), "expected 0..1"),
    ],
)
def test_arrays_that_are_no_pictures(array, match):
    one_line(array, match)


def test_one_pixel(tmp_path):
    assert load_image(saved(Image.new("RGB", (1, 1), RED), tmp_path / "a.png")).size == (1, 1)


def test_very_wide(tmp_path):
    out = load_image(saved(Image.new("L", (20_000, 50)), tmp_path / "a.png"))
    assert out.size == (20_000, 50)


def test_large_warns_nobody_and_a_bomb_is_an_error(tmp_path, monkeypatch):
    path = saved(Image.new("L", (100, 100)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    assert load_image(path).size == (100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)
    one_line(path, "too large to decode safely")


def test_paths_that_are_no_pictures(tmp_path):
    one_line(tmp_path / "missing.png", "no such image: .*missing.png")
    one_line(tmp_path, "is a folder, not an image")
    one_line("a\0b", "cannot read")
    one_line("x" * 5000, "cannot read")
    (tmp_path / "text.png").write_text("hello")
    one_line(tmp_path / "text.png", "not an image in a format that Pillow reads")
    (tmp_path / "empty.png").touch()
    one_line(tmp_path / "empty.png", "empty file")
    one_line(b"", "empty file")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "tif", "bmp"])
def test_truncated_at_any_point(tmp_path, suffix):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, tmp_path / f"a.{suffix}").read_bytes()
    for cut in (5, 20, 60, len(data) // 2):
        path = tmp_path / f"cut.{suffix}"
        path.write_bytes(data[:cut])
        one_line(path, "cut")


def test_flipped_bytes_give_a_picture_or_an_image_error():
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpeg", "gif", "tiff"):
        buffer = BytesIO()
        Image.new("RGB", (24, 24), RED).save(buffer, suffix)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for at in rng.integers(0, len(data), 4):
                data[at] = rng.integers(256)
            with suppress(ImageError):
                assert load_image(bytes(data)).mode == "RGB"


@pytest.mark.parametrize("source", [None, 3, [1, 2], {"a": 1}])
def test_other_things(source):
    one_line(source, "; expected a PIL image, an array, a path, the bytes of an image file, or a file that is open")


def test_empty_image():
    one_line(Image.new("RGB", (0, 4)), "empty: 0 x 4 pixels")


def test_list_images(tmp_path):
    for name in ("b.png", "a.JPG", "sub/c.webp", ".hidden.png", ".folder/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)]
    assert names == ["a.JPG", "b.png", "sub/c.webp"]
    given = [tmp_path / "notes.txt", str(tmp_path / "sub")]
    assert list_images(given) == [tmp_path / "notes.txt", tmp_path / "sub/c.webp"]
    assert list_images([]) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    one_line(tmp_path / "pipe.png", "pipe.png is a pipe, not an image file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.png"))
    one_line(tmp_path / "s.png", "s.png is a socket")
    one_line("/dev/zero", "/dev/zero is a device")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    one_line(tmp_path / "loop.png", "symbolic links")
    with pytest.raises(ImageError, match="symbolic links"):
        find_images(tmp_path / "loop.png")


def test_what_is_too_large_is_not_read(tmp_path, monkeypatch):
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(30 * 10**9)
    one_line(tmp_path / "sparse.png", "sparse.png: a file of 30,000,000,000 bytes; expected at most 1,073,741,824")
    thin = saved(Image.new("1", (1, 120_000)), tmp_path / "thin.png")
    one_line(thin, "thin.png: 1 x 120000 pixels is too large: at most 178,956,970 pixels, and 100,000 a side")
    one_line(np.zeros((120_000, 1), np.uint8), "1 x 120000 pixels is too large")
    monkeypatch.setattr(seedtok.core.images, "MAX_SIDE", 200_000)
    assert load_image(thin).size == (1, 120_000)
    monkeypatch.setattr(seedtok.core.images, "MAX_PIXELS", 100_000)
    one_line(thin, "too large: at most 100,000 pixels")


def test_memory_that_is_not_there_is_an_image_error(tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "a.png")
    for name in ("convert", "load"):
        with monkeypatch.context() as patch:
            patch.setattr(Image.Image, name, lambda *_: (_ for _ in ()).throw(MemoryError()))
            one_line(path, "a.png")


def test_headers_of_too_many_parts_are_not_read():
    files = {}
    for kind in ("GIF", "JPEG"):
        Image.new("L", (8, 8)).save(file := BytesIO(), kind)
        files[kind] = file.getvalue()
    gif, jpeg, start = files["GIF"], files["JPEG"], 13 + 3 * 4  # after the palette
    comments, parts, exif = b"!\xfe\1a\0", b"\xff" + b"a" * 255, b"\xff\xe1\0\x0aExif\0\0aa"
    for count, is_read in ((100, True), (10_000, False)):
        for data in (
            gif[:start] + comments * count + gif[start:],
            gif[:start] + b"!\xfe" + parts * count + b"\0" + gif[start:],
            gif[:start] + b"!\xf9\0," + b"a" * 44 + b"\0" + comments * count + gif[start:],
            jpeg[:2] + exif * count + jpeg[2:],
        ):
            if is_read:
                assert load_image(data).size == (8, 8)
            else:
                with pytest.raises(ImageError, match=r"these bytes: .*too many comments"):
                    load_image(data)


def test_formats_that_other_programs_decode_are_not_read(tmp_path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    one_line(tmp_path / "a.jpg", "an image in the format EPS, which is not read: save it as PNG")


def test_other_formats_are_taken_or_named(tmp_path, monkeypatch):
    taken = [name for name in ("a.avif", "a.jp2", "a.ico", "a.tga") if name[1:] in Image.registered_extensions()]
    for name in [*taken, "a.png"]:
        saved(Image.new("RGB", (32, 32), RED), tmp_path / name)
    for name in ("b.heic", "b.svg", "b.eps", "notes.txt", "film.mpg", "table.h5"):
        (tmp_path / name).touch()
    found = find_images(tmp_path)
    assert [path.name for path in found.images] == sorted([*taken, "a.png"])
    assert all(load_image(path).size == (32, 32) for path in found.images)
    assert [path.name for path, _ in found.ignored] == ["b.eps", "b.heic", "b.svg"]
    with pytest.warns(SeedTokWarning, match=rf"3 of {3 + len(found.images)} images ignored; the first: .*b.eps: "):
        assert list_images(tmp_path) == found.images
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "c.heic").touch()
    with pytest.raises(ImageError, match=r"no images in .*1 of 1 images ignored; the first: .*c.heic"):
        find_images(tmp_path / "sub")


def test_folders_that_cannot_be_searched_are_named(tmp_path, monkeypatch):
    for name in ("open", "locked"):
        (tmp_path / name).mkdir()
        saved(Image.new("RGB", (2, 2)), tmp_path / name / "a.png")
    (tmp_path / "open" / "again").symlink_to(tmp_path)
    scandir = os.scandir

    def locked(folder):
        if os.fspath(folder).endswith("locked"):  # the superuser, whom tests may run as, has every permission
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", locked)
    found = find_images(tmp_path)
    assert found.images == [tmp_path / "open" / "a.png"]
    assert found.ignored == [
        (tmp_path / "locked", "cannot read this folder: Permission denied"),
        (tmp_path / "open" / "again", "a link to a folder, which is not followed"),
    ]


def test_list_images_errors(tmp_path):
    with pytest.raises(ImageError, match=r"no images in .*looked for .bmp"):
        list_images(tmp_path)
    with pytest.raises(ImageError, match=r"no such file or folder: .*nowhere"):
        list_images([tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A Dog.", "a dog"),
        ('  two\t"BIG" \n cats!! (sleeping) ', "two big cats sleeping"),
        ("a*b#c:d;e~f", "a b c d e f"),
        ("it's 3-4 o'clock, & fine?", "it's 3-4 o'clock, & fine?"),
        ("...", ""),
        ("word " * 60, " ".join(["word"] * 50)),
    ],
)
def test_clean_caption(text, expected):
    assert clean_caption(text) == expected
    assert clean_caption(expected) == expected


def test_threads_that_read_leave_the_warnings_of_others_alone(tmp_path):
    Image.effect_noise((300, 300), 50).save(tmp_path / "one.png")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff no JPEG")
    paths = [tmp_path / "one.png", tmp_path / "bad.jpg"] * 50

    def read(path: Path) -> None:
        with suppress(ImageError):
            load_image(path)

    def warn_while_reading() -> None:
        with ThreadPoolExecutor(8) as pool:
            done = pool.map(read, paths)
            for _ in range(100):
                warnings.warn("ours", SeedTokWarning, stacklevel=1)
            list(done)

    for _ in range(5):
        before = list(warnings.filters)
        with pytest.warns(SeedTokWarning, match="ours") as said:
            warn_while_reading()
        assert sum(warning.category is SeedTokWarning for warning in said) == 100
        assert warnings.filters == before


# ---------------------------------------------------------------- grids


def count(sheet: Image.Image, color: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == color).all(2).sum())


def test_pictures_of_different_sizes_are_whole_and_apart():
    sizes = {(255, 0, 0): (4, 4), (0, 255, 0): (10, 3), (0, 0, 255): (2, 12)}
    sheet = grid([Image.new("RGB", size, color) for color, size in sizes.items()], columns=2, gap=1)
    assert sheet.size == (2 * 10 + 3, 2 * 12 + 3)
    for color, (width, height) in sizes.items():
        assert count(sheet, color) == width * height
    assert sheet.getpixel((1 + 3, 1 + 4)) == (255, 0, 0)  # in the middle of its cell


def test_pictures_of_one_size_are_where_they_were():
    sheet = side_by_side([Image.new("RGB", (4, 4), "red")], [Image.new("RGB", (4, 4), "blue")], pairs=1)
    assert sheet.size == (20, 12)
    assert [sheet.getpixel(at) for at in ((4, 4), (7, 7), (12, 4))] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


# ---------------------------------------------------------------- other sources


def test_open_files_and_buffers_are_read(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (5, 4), "red").save(path)
    data = path.read_bytes()
    with path.open("rb") as file:
        for source in (BytesIO(data), file, bytearray(data), memoryview(data)):
            assert [image.size for image in as_pil(source)] == [(5, 4)]
    for source in (BytesIO(data), [BytesIO(data)]):
        assert len(list(batches_of(source, 2))) == 1
    with pytest.raises(ImageError, match="closed"):
        load_image(file)
    with pytest.raises(ImageError, match="open in binary mode"):
        load_image(StringIO("text"))
    with path.open("rb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("seedtok.core.images.MAX_BYTES", 9)
        with pytest.raises(ImageError, match="over 9 bytes"):
            load_image(file)


def test_of_several_images_the_broken_one_is_named(seed):
    good, bad = Image.new("RGB", (5, 4), "red"), b"no picture"
    with pytest.raises(ImageError, match=r"^image 3: these bytes: not an image"):
        as_pil([good, good, bad])
    with pytest.raises(ImageError, match=r"^these bytes: not an image"):
        as_pil(bad)
    for embed in (seed.encode, seed.embed_images):
        with pytest.raises(ImageError, match=r"^image 11: these bytes: not an image"):
            embed((bad if number == 11 else good for number in range(1, 20)), batch_size=4)
        with pytest.raises(ImageError, match=r"^these bytes: not an image"):
            embed(bad)


def test_what_is_no_source_says_what_is_one():
    with pytest.raises(ImageError, match="of type dict; expected a PIL image, an array, a path, "):
        as_pil({"bytes": b""})
    with pytest.raises(ImageError, match=r"https://example\.com/x\.png is a URL; download the image"):
        load_image("https://example.com/x.png")
