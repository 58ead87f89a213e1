"""Scenes of the mini world as WebDataset shards."""

from pathlib import Path

import numpy as np
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.pack import Progress
from seedtok.data.shard_writer import ShardReport, writing
from seedtok.data.stored import png_bytes
from seedtok.mini.world.scenes import CLASSIC, SIZES, VARIED, caption, render, scene_stream, wordings
from seedtok.mini.world.sets import SET_NAMES, scene_set


def write_scene_shards(
    out: str | Path,
    split: str,
    count: int,
    size: int = 128,
    seed: int = 0,
    shard_size: int = 1000,
    progress: Progress | None = None,
    classic: bool = True,
) -> ShardReport:
    """Writes scenes of a split, or of another of `SET_NAMES`, as shards; the same arguments give the same bytes.

    Train is the stream of scenes, each in a random wording; the others hold scenes of different captions, in the
    canonical wording. The JSON has key, caption, scene, split and seed. `classic` as for `scene_set`. Raises DataError
    for arguments out of range and for a folder that holds shards already; on any error, nothing is left in the folder.
    """
    if split not in SET_NAMES:
        raise DataError(f"no split {split!r}: choose {', '.join(SET_NAMES)}")
    if size not in SIZES:
        raise DataError(f"scenes are drawn at {' or '.join(map(str, SIZES))} pixels, not {size}")
    if count < 1 or seed < 0:
        raise DataError(f"expected a count of at least 1 and a seed of at least 0, not {count} and {seed}")
    with writing(Path(out), shard_size) as writer:
        train = scene_stream("train", seed, world=CLASSIC if classic else VARIED)
        scenes = train if split == "train" else iter(scene_set(split, count, seed, classic))
        for index in range(count):
            scene = next(scenes)
            phrasing = np.random.default_rng([7, seed, index]).integers(wordings(scene)) if split == "train" else 0
            record = {"scene": scene.to_json(), "split": split, "seed": seed}
            picture = png_bytes(Image.fromarray(render(scene, size)))
            writer.add(picture, "png", caption(scene, int(phrasing)), record)
            if progress:
                progress(index + 1)
    return writer.report(Path(out))
