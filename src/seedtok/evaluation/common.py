"""What the evaluations share: where they compute, and test scenes in batches, under a progress bar."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from seedtok.core.progress import progress
from seedtok.data.batches import Batch, to_batch
from seedtok.mini.world.scenes import Scene, unique_scenes


@dataclass(frozen=True)
class Compute:
    """Where an evaluation runs, and in which precision what is evaluated computes.

    `drawing_dtype` is the image decoder's, where not the same, as for `ImageDecoder.draw`. The scene judge and the
    CLIP that measures compute in float32 always.
    """

    device: str | torch.device = "cpu"
    dtype: torch.dtype = torch.float32
    drawing_dtype: torch.dtype | None = None


DEFAULT = Compute()


def scene_batches(scenes: list[Scene], batch_size: int) -> Iterator[Batch]:
    """Rendered scenes with their canonical captions, in order."""
    for i in range(0, len(scenes), batch_size):
        yield to_batch(scenes[i : i + batch_size], 128)


def evaluated_batches(label: str, count: int, seed: int, batch_size: int) -> Iterator[Batch]:
    """`scene_batches` of `count` test scenes, no two of one caption; a progress bar shows how many are done."""
    seen = 0
    with progress(label, count) as done:
        for batch in scene_batches(unique_scenes("test", count, seed), batch_size):
            yield batch
            seen += len(batch.captions)
            done(seen)
