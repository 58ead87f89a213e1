"""Compares the scene judge with the eye: draws sheets of drawings to label, then counts where both agree.

python tools/judge_sheet.py draw OUT [--tokenizer mini] [--image-decoder mini] [--count 160]
python tools/judge_sheet.py score OUT [--judge mini]

draw writes OUT/sheet-0.png, ... of 20 drawings each (5 a row), in turn one by the diffusion model from the caption of
a test scene and one by SEED from the codes of another, and OUT/scenes.json with the scenes in that order. Who looks
at the sheets, and not at the scenes, writes what stands where into OUT/labels.json: a list of {"background": COLOUR,
PLACE: CONCEPT, ...}, with "?" for a concept that the eye cannot tell. score prints in how many of the places where a
thing should be the judge and the eye agree whether it is there; and the share of things right by each.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from seedtok import SeedTokenizer
from seedtok.core.hub import resolve
from seedtok.core.images import grid
from seedtok.mini.judge import SceneJudge
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.scenes import Scene, caption
from seedtok.mini.world.sets import scene_set
from seedtok.mini.world.source import to_batch
from seedtok.stages.pixels import clip_normalize, unit_range

COLUMNS, A_SHEET, SIDE, GAP = 5, 20, 128, 4


def draw(given: argparse.Namespace) -> None:
    tokenizer = SeedTokenizer.from_pretrained(given.tokenizer)
    tokenizer.draw_by(given.image_decoder)
    decoder = tokenizer.image_decoder
    scenes = scene_set("test", given.count, seed=1)
    generator = torch.Generator().manual_seed(0)
    drawings: list[Image.Image] = []
    for start in range(0, len(scenes), 8):  # four of each kind at a time, so that a sheet has both
        some = scenes[start : start + 8]
        features = decoder.text_features([caption(scene) for scene in some[::2]])
        how = {"num_inference_steps": tokenizer.config.num_inference_steps, "generator": generator}
        told = decoder.draw(features, guidance_scale=tokenizer.config.guidance_scale, **how)
        codes = tokenizer.encode_pixels(clip_normalize(to_batch(some[1::2], SIDE).pixels))
        seen = tokenizer.decode(codes, generator=generator)
        drawings += [picture for pair in zip(told, seen, strict=True) for picture in pair]
    given.out.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(drawings), A_SHEET)):
        grid(drawings[start : start + A_SHEET], COLUMNS, GAP).save(given.out / f"sheet-{number}.png", optimize=True)
    (given.out / "scenes.json").write_text(json.dumps([scene.to_json() for scene in scenes]) + "\n")
    print(f"{given.out}: {len(drawings)} drawings")


def pictures(folder: Path, count: int) -> torch.Tensor:
    """The first `count` drawings of a folder's sheets: (count, 3, 128, 128) uint8."""
    found, step = [], SIDE + GAP
    for number in range(-(-count // A_SHEET)):
        sheet = np.asarray(Image.open(folder / f"sheet-{number}.png").convert("RGB"))
        for i in range(min(A_SHEET, count - number * A_SHEET)):
            top, left = (GAP + part * step for part in divmod(i, COLUMNS))
            found.append(sheet[top : top + SIDE, left : left + SIDE])
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)


def check(labels: list[dict[str, str]]) -> None:
    """Raises ValueError for a label that names no place, concept or background of the mini world."""
    for number, label in enumerate(labels):
        things = {place: concept for place, concept in label.items() if place != "background"}
        wrong = [w for w in things if w not in PLACES] + [w for w in things.values() if w not in (*CONCEPTS, "?")]
        wrong += [label["background"]] if label["background"] not in BACKGROUNDS else []
        if wrong:
            raise ValueError(f"label {number}: {wrong[0]!r} is no place, concept or background")


def score(given: argparse.Namespace) -> None:
    labels = json.loads((given.out / "labels.json").read_text())
    check(labels)
    scenes = [Scene.from_json(record) for record in json.loads((given.out / "scenes.json").read_text())][: len(labels)]
    judge = SceneJudge.from_pretrained(resolve(given.judge, "judge")).eval()
    found, backgrounds = judge.seen(unit_range(pictures(given.out, len(labels))), scenes)
    judged = [there for things in found for there in things]
    eye = [label.get(t.place) == t.concept for scene, label in zip(scenes, labels, strict=True) for t in scene.things]
    colors = sum(color == label["background"] for color, label in zip(backgrounds, labels, strict=True))
    agree = sum(a == b for a, b in zip(eye, judged, strict=True))
    print(f"{len(labels)} drawings, {len(eye)} things: right by the eye {100 * np.mean(eye):.1f} %, by the judge")
    print(f"{100 * np.mean(judged):.1f} %; agreed on {agree} of {len(eye)}, {100 * agree / len(eye):.1f} %")
    found_wrong, called_wrong = sum(not (a or b) for a, b in zip(eye, judged, strict=True)), judged.count(False)
    print(f"of {eye.count(False)} wrong things the judge finds {found_wrong}, of {called_wrong} that it calls wrong")
    print(f"backgrounds named alike: {100 * colors / len(labels):.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    drawing, scoring = commands.add_parser("draw"), commands.add_parser("score")
    for command, run in ((drawing, draw), (scoring, score)):
        command.add_argument("out", type=Path)
        command.set_defaults(run=run)
    drawing.add_argument("--tokenizer", default="mini")
    drawing.add_argument("--image-decoder", default=None)
    drawing.add_argument("--count", type=int, default=160)
    scoring.add_argument("--judge", default="mini")
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
