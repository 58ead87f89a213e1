"""The interfaces of an evaluation: a set of annotated images, and a scorer where the ground truth is known."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from PIL import Image

from seedtok.core.errors import DataError
from seedtok.data.entries import Entry, SetInfo

Counts = Mapping[str, tuple[int, int]]  # criterion -> (correct, total)


@runtime_checkable
class EvaluationSet(Protocol):
    """Annotated pictures in a fixed order, each read when it is asked for."""

    @property
    def info(self) -> SetInfo: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Entry: ...

    def __iter__(self) -> Iterator[Entry]: ...

    def picture(self, index: int) -> Image.Image:
        """RGB; raises ImageError for one that cannot be read. Called by several threads at once."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """Tells, for the pictures of one evaluation set, what of them a drawing or a caption has right."""

    def score_drawings(self, drawings: Sequence[Image.Image], indices: Sequence[int]) -> Counts:
        """Drawings that should show the same as the set's pictures of these indices."""
        ...

    def score_captions(self, captions: Sequence[str], indices: Sequence[int]) -> Counts:
        """Captions of the set's pictures of these indices."""
        ...


def check_has(data: EvaluationSet, what: str, task: str) -> None:
    """Raises DataError where a set has none of what a task needs: "captions" or "questions"."""
    if not data.info.counts.get(what):
        fitting = {"captions": "coco, flickr30k or nocaps", "questions": "vqav2 or gqa"}[what]
        raise DataError(
            f"{data.info.name} {data.info.split} has no {what}, which {task} needs: give a folder that "
            f"`seedtok data prepare` made of {fitting}"
        )


def added(counts: Counts, more: Counts) -> Counts:
    """Counts of two sets of pictures together; an empty one adds nothing."""
    names = dict.fromkeys([*counts, *more])
    pairs = {name: (counts.get(name, (0, 0)), more.get(name, (0, 0))) for name in names}
    return {name: (a[0] + b[0], a[1] + b[1]) for name, (a, b) in pairs.items()}


def percent(counts: Counts) -> dict[str, float]:
    """The shares that are right; 0 of nothing."""
    return {name: 100 * right / max(1, total) for name, (right, total) in counts.items()}
