"""Scenes of the mini world as WebDataset shards."""

from pathlib import Path

import numpy as np
from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.shards import Progress
from seedtok.data.stored import png_bytes
from seedtok.data.tars import ShardReport, writing
from seedtok.mini.world.scenes import PHRASINGS, SIZES, SPLITS, Split, caption, render, scene_stream, unique_scenes


def write_scene_shards(
    out: str | Path,
    split: Split,
    count: int,
    size: int = 128,
    seed: int = 0,
    shard_size: int = 1000,
    progress: Progress | None = None,
) -> ShardReport:
    """Writes scenes as shards; the same arguments give the same bytes.

    Validation and test hold scenes of different captions, in the canonical wording; train is the stream of scenes, each
    in a random wording. The JSON has key, caption, scene, split and seed. Raises DataError for arguments out of range
    and for a folder that holds shards already; on any error, nothing is left in the folder.
    """
    if split not in SPLITS:
        raise DataError(f"no split {split!r}: choose {', '.join(SPLITS)}")
    if size not in SIZES:
        raise DataError(f"scenes are drawn at {' or '.join(map(str, SIZES))} pixels, not {size}")
    if count < 1 or seed < 0:
        raise DataError(f"expected a count of at least 1 and a seed of at least 0, not {count} and {seed}")
    with writing(Path(out), shard_size) as writer:
        scenes = scene_stream(split, seed) if split == "train" else iter(unique_scenes(split, count, seed))
        for index in range(count):
            scene = next(scenes)
            phrasing = np.random.default_rng([7, seed, index]).integers(PHRASINGS) if split == "train" else 0
            record = {"scene": scene.to_json(), "split": split, "seed": seed}
            picture = png_bytes(Image.fromarray(render(scene, size)))
            writer.add(picture, "png", caption(scene, int(phrasing)), record)
            if progress:
                progress(index + 1)
    return writer.report(Path(out))
