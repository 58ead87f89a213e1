"""What the evaluations share: test scenes in batches, and a progress bar with a rate."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from seedtok.data.batches import Batch, to_batch
from seedtok.data.scenes import Scene


def scene_batches(scenes: list[Scene], batch_size: int) -> Iterator[Batch]:
    """Rendered scenes with their canonical captions, in order."""
    for i in range(0, len(scenes), batch_size):
        yield to_batch(scenes[i : i + batch_size], 128)


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """A bar on the terminal's error stream, with `advance(task 0, n)`; silent where there is no terminal."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        bar.add_task(what, total=total)
        yield bar
