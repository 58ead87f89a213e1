"""One evaluation from start to end: predictions a batch at a time, by one process or several, then their scores."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from seedtok.core.errors import ConfigError, DataError, ImageError
from seedtok.core.locks import locked
from seedtok.core.notices import warn
from seedtok.core.progress import progress
from seedtok.data.entries import Entry
from seedtok.evaluation.dataset import EvaluationSet
from seedtok.evaluation.predictions import RESULT, Predictions, Record, hash_of, write_json
from seedtok.evaluation.ranks import Ranks, ranks

READERS = 4  # threads that read pictures ahead of the model


@dataclass(frozen=True)
class Run:
    """How an evaluation runs: the folder `out` for its predictions (None: temporary), and images at a time in a batch.

    `seed` is that of all random numbers; `made_by` names what else predictions depend on, such as the model. What
    is predicted may depend on the batch size, by rounding and by the noise of drawings; it does not depend on how many
    processes there are, or whether a run was stopped.
    """

    out: Path | None = None
    batch_size: int = 32
    seed: int = 0
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Pictures of a set that could be read, with their places in it; `number` counts the batches of the set."""

    number: int
    indices: list[int]
    pictures: list[Image.Image]
    entries: list[Entry]


Make = Callable[[Batch, Path], list[Record]]  # the predictions for a batch; files beside them go to the folder


@dataclass(frozen=True)
class Task:
    """An evaluation: what makes the predictions of each model, by its name, and what scores all of them.

    `settings` say what the predictions depend on beside the data and the run; they have `models`, by the same names.
    With `captioned`, a picture without a caption is left out as one that cannot be read.
    """

    name: str
    settings: Mapping[str, Any]
    models: Mapping[str, Make]
    score: Callable[[Predictions], dict[str, Any]]
    captioned: bool = False


@torch.no_grad()
def evaluate(task: Task, data: EvaluationSet, run: Run) -> dict[str, Any]:
    """Makes what predictions are not there yet, and scores them; with several processes, the first has the scores.

    Beside the scores, a result has `counts`, `settings` and a `hash` of them. Raises DataError where `run.out` holds
    something else, or no picture can be read.
    """
    if not len(data):
        raise ConfigError("an evaluation set without pictures")
    check_ids(data)
    with ExitStack() as stack:
        together = stack.enter_context(ranks())
        if run.out is None and together.world > 1:
            raise ConfigError("several processes share a folder for their predictions: name one with --out")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if run.out is None else run.out
        predictions = Predictions(folder)
        settings = {
            "task": task.name, "data": described(data), **run.made_by, **task.settings, "batch_size": run.batch_size,
            "seed": run.seed,
        }  # fmt: skip
        if together.is_main:
            stack.enter_context(locked(folder))
            predictions.prepare(settings)
        together.wait()
        predictions.check(settings)
        for name in task.models:
            _predict(name, task, data, run, predictions, together)
        together.wait()
        if not together.is_main:
            return {}
        for name in task.models:
            predictions.join(name, _batch_count(data, run))
        result = scored(task.score(predictions), data, predictions.settings(), predictions.unreadable())
        write_json(folder / RESULT, result)
        return result


def check_ids(data: EvaluationSet) -> None:
    """Raises DataError where two pictures have one id, by which predictions are told apart."""
    found = Counter(str(entry.id) for entry in data)
    (first, count), *_ = found.most_common(1)
    if count > 1:
        raise DataError(f"{data.info.name}: {count} pictures have the id {first}: give each a key of its own")


def rows_by_columns(scores: Mapping[str, Any]) -> dict[tuple[str, ...], list[str]]:
    """The names of scores that are records, grouped by their fields: each group can share a table."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, value in scores.items():
        if isinstance(value, dict):
            groups.setdefault(tuple(value), []).append(name)
    return groups


def scored(
    scores: dict[str, Any], data: EvaluationSet, settings: Mapping[str, Any], unreadable: list[Record]
) -> dict[str, Any]:
    """Scores with what they are of: counts beside the publisher's, the settings, and a hash of all that."""
    counts: dict[str, Any] = dict(data.info.counts)
    if data.info.published:
        counts |= {"published": dict(data.info.published), "missing": data.info.missing}
    counts["unreadable"] = len(unreadable)
    if unreadable:
        first = "; ".join(f"{record['image_id']}: {record['unreadable']}" for record in unreadable[:3])
        message = f"{len(unreadable):,} of {len(data):,} pictures cannot be used, and are in no score: {first}"
        warn(message)
    # of a folder's pictures those that cannot be compared are not counted as lacking, elsewhere they are
    lacking = {
        name: count - (0 if name == "pictures" else len(unreadable))
        for name, count in scores.get("not_predicted", {}).items()
    }
    if lacking := {name: count for name, count in lacking.items() if count > 0}:
        message = ", ".join(f"{count:,} of {name}" for name, count in lacking.items())
        warn(f"predictions are missing, and in no score: {message}")
    known = {"counts": counts, "settings": settings, **{name: scores[name] for name in ("clip",) if name in scores}}
    return scores | known | {"hash": hash_of(known)}


def described(data: EvaluationSet) -> dict[str, Any]:
    """What tells one set from another, wherever its pictures are."""
    info = asdict(data.info)
    return {name: info[name] for name in ("name", "split", "fingerprint")} | {"pictures": len(data)}


def _batch_count(data: EvaluationSet, run: Run) -> int:
    return -(-len(data) // run.batch_size)


def _predict(
    name: str, task: Task, data: EvaluationSet, run: Run, predictions: Predictions, together: Ranks
) -> None:  # fmt: skip
    """Has a model of the task predict what this process has to and what is not there yet."""
    if predictions.is_complete(name):
        return
    own = range(together.rank, _batch_count(data, run), together.world)
    left = [number for number in own if not predictions.part(name, number).is_file()]
    batches = _batches(data, run.batch_size, left, task.captioned)
    with progress(name, len(own), "batches", shown=together.is_main) as done:
        done(len(own) - len(left))
        for count, (batch, unreadable) in enumerate(batches, len(own) - len(left) + 1):
            records = task.models[name](batch, predictions.folder) if batch.pictures else []
            predictions.write_part(name, batch.number, [*records, *unreadable])
            done(count)


def _batches(
    data: EvaluationSet, size: int, numbers: Iterable[int], captioned: bool
) -> Iterator[tuple[Batch, list[Record]]]:
    """Batches of these numbers, and what says why pictures of each are not in it; the next is read meanwhile."""

    def read(index: int) -> Image.Image | ImageError:
        try:
            return data.picture(index)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        ahead: tuple[int, list[tuple[int, Future[Image.Image | ImageError]]]] | None = None
        for number in [*numbers, None]:
            coming = ahead
            if number is not None:
                indices = range(number * size, min((number + 1) * size, len(data)))
                ahead = number, [(index, pool.submit(read, index)) for index in indices]
            if coming is not None:
                yield _batch(data, coming[0], {index: future.result() for index, future in coming[1]}, captioned)


def _batch(
    data: EvaluationSet, number: int, found: dict[int, Image.Image | ImageError], captioned: bool
) -> tuple[Batch, list[Record]]:  # fmt: skip
    entries = {index: data[index] for index in found}
    unusable = {index: str(error) for index, error in found.items() if isinstance(error, ImageError)}
    if captioned:
        unusable |= {index: "no caption" for index, entry in entries.items() if not entry.captions}
    pictures = {index: p for index, p in found.items() if isinstance(p, Image.Image) and index not in unusable}
    batch = Batch(number, list(pictures), list(pictures.values()), [entries[index] for index in pictures])
    return batch, [{"image_id": entries[index].id, "unreadable": reason} for index, reason in unusable.items()]
