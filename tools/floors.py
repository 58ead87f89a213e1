"""What who sees less than all of a scene gets, for the numbers in docs/findings.md: nothing here has learnt anything.

python tools/floors.py [--count 300]

Prints the CLIP similarity and Fréchet distance of true scenes in the style of the diffusion model's drawings, as they
are and with every thing replaced by another; how many things the nearest drawing by an artist seen names, by 16 x 16
pixels, where one is told in which place a thing stands and on what; the same among pictures of one's own, as of
tools/own_pictures.py; and R@1 of one who knows background, places and things, but not which thing stands where.
"""

import argparse
from collections import Counter
from dataclasses import replace

import numpy as np
import torch
from own_pictures import picture
from PIL import Image

from seedtok.core.hub import resolve
from seedtok.evaluation.clip_scores import ImageFeatures, cosine_similarity_x100
from seedtok.evaluation.frechet import frechet_distance
from seedtok.mini.evaluation import MiniSet, load_features
from seedtok.mini.world.atlas import drawing
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.drawing import render
from seedtok.mini.world.hands import SEEN_HANDS, hands_of
from seedtok.mini.world.layouts import layout
from seedtok.mini.world.scene import Scene
from seedtok.mini.world.scenes import World

STYLE = World(("fluent-flat",), tidy=True)  # what the diffusion model draws in
SIDE, SIZE, CELL = 16, 128, 64  # pixels a side: compared, of a picture, of a drawing
TURNS = (-10, 0, 10)


def redrawn(scene: Scene, wrong: bool, rng: np.random.Generator) -> Scene:
    """A scene in the style of drawings, with `wrong` of things that it does not have."""
    others = [concept for concept in CONCEPTS if concept not in {thing.concept for thing in scene.things}]
    things = tuple(replace(t, concept=str(rng.choice(others))) if wrong else t for t in scene.things)
    return STYLE.drawn(replace(scene, things=things), rng)


def features(clip: ImageFeatures, scenes: list[Scene]) -> torch.Tensor:
    pictures = [Image.fromarray(render(scene, SIZE)) for scene in scenes]
    return torch.cat([clip.features(pictures[i : i + 50]) for i in range(0, len(pictures), 50)])


def of_drawings(clip: ImageFeatures, data: MiniSet) -> None:
    real, half = features(clip, data.scenes), len(data) // 2
    told = {False: "as they are", True: "replaced"}
    for wrong in (False, True):
        rng = np.random.default_rng(1)
        made = features(clip, [redrawn(scene, wrong, rng) for scene in data.scenes])
        similar, distance = cosine_similarity_x100(made, real), frechet_distance(real[:half], made[half:])
        print(f"mini:{data.name}, things {told[wrong]}: similarity {similar:.1f}, Frechet distance {distance:.3f}")


def unit(pictures: np.ndarray) -> np.ndarray:
    """Rows of pixels (N, SIDE, SIDE, 3) without their mean colour, of length 1."""
    flat = pictures.reshape(len(pictures), -1, 3).astype(np.float32)
    flat = (flat - flat.mean(1, keepdims=True)).reshape(len(pictures), -1)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)


def small(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX, box=box), np.float32)


def seen_drawings() -> tuple[np.ndarray, list[str]]:
    """All drawings by artists seen, mirrored and turned, (N, SIDE, SIDE, 4), and what they are of."""
    pixels, names = [], []
    for concept in CONCEPTS:
        for hand in hands_of(concept, SEEN_HANDS):
            own = drawing(hand, concept, CELL)
            for image in (own, own.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
                pixels += [small(image.rotate(turn, resample=Image.Resampling.BILINEAR)) for turn in TURNS]
                names += [concept] * len(TURNS)
    return np.stack(pixels), names


def looked_up(data: MiniSet, drawings: np.ndarray, names: list[str]) -> None:
    on = {name: unit(drawings[..., :3] + (1 - drawings[..., 3:] / 255) * color) for name, color in BACKGROUNDS.items()}
    right = []
    for scene in data.scenes:
        assert scene.look is not None
        image = Image.fromarray(render(scene, SIZE))
        found = []
        for thing, look in zip(scene.things, scene.look.things, strict=True):
            row, column = PLACES[thing.place]
            y, x, reach = (2 * row + 2 + look.down) * 16, (2 * column + 2 + look.right) * 16, 24 * look.size
            box = (max(0, x - reach), max(0, y - reach), min(SIZE, x + reach), min(SIZE, y + reach))
            best = int((on[scene.background] @ unit(small(image, box)[None])[0]).argmax())
            found.append(names[best] == thing.concept)
        right.append(found)
    things, scenes = np.mean([hit for found in right for hit in found]), np.mean([all(found) for found in right])
    print(
        f"mini:{data.name}, nearest drawing by pixels: things {100 * things:.1f} %, all of a scene {100 * scenes:.1f}"
    )


def ink(image: Image.Image) -> np.ndarray:
    """What differs from the colour of a picture's edges, in SIDE x SIDE pixels."""
    pixels = np.asarray(image).astype(np.int64)
    edge = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), 0)
    apart = np.abs(pixels - edge).sum(-1) > 60
    rows, columns = np.where(apart)
    if not len(rows):
        return np.zeros((SIDE, SIDE, 3), np.float32)
    (left, right), (top, bottom) = np.percentile(columns, [1, 99]), np.percentile(rows, [1, 99])
    plain = Image.fromarray(np.where(apart[..., None], pixels, 128).astype(np.uint8))
    return small(plain, (left, top, right + 1, bottom + 1))


def own_pictures(seed: int, concepts: int = 50, each: int = 10) -> None:
    """The nearest of pictures learnt from, for a tenth that is held out: other things than the hardest ones."""
    able = [concept for concept in CONCEPTS if hands_of(concept, ("twemoji",))]
    chosen = np.random.default_rng(seed).permutation(able)[:concepts]
    made = np.stack(
        [ink(picture(str(c), "twemoji", [seed, 2, n, i])) for n, c in enumerate(chosen) for i in range(each)]
    )
    names, held_out = np.repeat(chosen, each), np.arange(len(made)) % each == 0
    known = np.concatenate([made[~held_out], made[~held_out][:, :, ::-1]])
    nearest = (unit(made[held_out]) @ unit(known).T).argmax(1)
    right = np.tile(names[~held_out], 2)[nearest] == names[held_out]
    print(f"own pictures, seed {seed}, nearest by pixels: {100 * right.mean():.1f} % of {len(right)}")


def unbound(data: MiniSet) -> None:
    def known(scene: Scene) -> tuple[object, ...]:
        return layout(scene), tuple(sorted(thing.concept for thing in scene.things))

    alike = Counter(map(known, data.scenes))
    share = np.mean([1 / alike[known(scene)] for scene in data.scenes[: data.queries]])
    print(f"mini:{data.name}, all known but which thing stands where: R@1 {100 * share:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    count = parser.parse_args().count
    clip, drawings = load_features(resolve("mini", "eval_clip")), seen_drawings()
    for name in ("test", "test-unseen-hands"):
        data = MiniSet(count, name=name, classic=False)
        of_drawings(clip, data)
        looked_up(data, *drawings)
    for seed in range(3):
        own_pictures(seed)
    unbound(MiniSet(500, name="test+near-misses", classic=False))


if __name__ == "__main__":
    main()
