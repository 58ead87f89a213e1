"""The images in a folder, and the files there that are ignored."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from seedtok.core.errors import ImageError
from seedtok.core.notices import warn

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

# Suffixes that Pillow registers and that are not used here: data, videos, and formats that need another program.
_EXCLUDED = frozenset(
    {".bufr", ".emf", ".eps", ".grib", ".h5", ".hdf", ".iim", ".mpeg", ".mpg", ".ps", ".wmf"}
)  # fmt: skip
# Suffixes of image formats that Pillow may be unable to open: such files are reported as ignored.
_OTHER_IMAGES = frozenset(
    {
        ".ai", ".arw", ".avif", ".avifs", ".cr2", ".cr3", ".dng", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif",
        ".hif", ".j2k", ".jp2", ".jpx", ".jxl", ".jxr", ".nef", ".orf", ".pef", ".raf", ".rw2", ".srw", ".svg", ".svgz",
        ".wmf", ".xcf",
    }
)  # fmt: skip


@dataclass
class FoundImages:
    """The images that a search found, and the files and folders that it ignored, each with the reason."""

    images: list[Path] = field(default_factory=list)
    ignored: list[tuple[Path, str]] = field(default_factory=list)

    def summary(self) -> str:
        """The number of ignored images, and the first of them with its reason."""
        count, (path, reason) = len(self.ignored), self.ignored[0]
        return f"{count} of {count + len(self.images)} images ignored; the first: {path}: {reason}"


def list_images(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    """The given files, and for each given folder the images in it and its sub-folders, sorted.

    A file is listed whatever its suffix. A SeedTokWarning counts what `find_images` ignores. Raises ImageError for a
    missing path or a folder without images.
    """
    listed = FoundImages()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        found = find_images(path)
        listed.images += found.images
        listed.ignored += found.ignored
    if listed.ignored:
        warn(listed.summary())
    return listed.images


def find_images(path: str | Path) -> FoundImages:
    """A file as given; for a folder, the images in it and its sub-folders, sorted, and what was ignored.

    Images are files with the suffix of a format that the installed Pillow opens. Ignored are images in other formats,
    unreadable folders, and links to folders, which are not followed. Hidden files and folders are skipped silently.
    Raises ImageError for a missing path or a folder without images.
    """
    path = Path(path)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError | ValueError) and not path.is_symlink():
            raise ImageError(f"no such file or folder: {path}") from None
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not is_folder:
        return FoundImages([path])
    found = _images_below(path)
    if not found.images:
        more = f"; {found.summary()}" if found.ignored else f": looked for {', '.join(sorted(SUFFIXES))} and others"
        raise ImageError(f"no images in {path}{more}")
    return found


def _images_below(folder: Path) -> FoundImages:
    found = FoundImages()

    def unreadable(error: OSError) -> None:
        found.ignored.append((Path(error.filename), f"cannot read this folder: {error.strerror}"))

    for parent, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [path for name in folders if (path := Path(parent, name)).is_symlink()]
        found.ignored += [(path, "a link to a folder, which is not followed") for path in linked]
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            suffix = path.suffix.lower()
            if suffix in SUFFIXES or suffix in _pillow_suffixes():
                found.images.append(path)
            elif suffix in _OTHER_IMAGES:
                found.ignored.append((path, f"{suffix} images cannot be read; convert it to .png or .jpg"))
    found.images.sort()
    found.ignored.sort()
    return found


@cache
def _pillow_suffixes() -> frozenset[str]:
    """The suffixes of the image formats that the installed Pillow opens."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name in Image.OPEN) - _EXCLUDED
