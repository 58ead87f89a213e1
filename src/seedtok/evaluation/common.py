"""What the evaluations share: test scenes in batches."""

from collections.abc import Iterator

from seedtok.data.batches import Batch, to_batch
from seedtok.data.scenes import Scene


def scene_batches(scenes: list[Scene], batch_size: int) -> Iterator[Batch]:
    """Rendered scenes with their canonical captions, in order."""
    for i in range(0, len(scenes), batch_size):
        yield to_batch(scenes[i : i + batch_size], 128)
