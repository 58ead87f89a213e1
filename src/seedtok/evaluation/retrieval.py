"""Table 1: zero-shot image-text retrieval, each picture with all its captions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from seedtok.core.atomic import atomic_file
from seedtok.core.files import write_tensors
from seedtok.core.notices import warn
from seedtok.core.recalls import best_cosines, retrieval_recalls
from seedtok.evaluation.dataset import EvaluationSet, check_has
from seedtok.evaluation.predictions import Predictions, Record
from seedtok.evaluation.retrieval_models import RetrievalModel
from seedtok.evaluation.run import Batch, Run, Task, evaluate

# of a file of embeddings; IMAGES before the kind of embedding
IMAGES, TEXTS, OWNERS, QUERIES = "images.", "texts", "owners", "queries"
NEAR_MISS = "near_miss"  # of a record
REPEATED = 0.01  # share of captions that are of several pictures from which a warning says so


def evaluate_retrieval(models: Mapping[str, RetrievalModel], data: EvaluationSet, run: Run) -> dict[str, Any]:
    """R@1, 5, 10 both ways and their mean, in percent, by model, or by what a model makes its embeddings of.

    Where the set has near misses, rows of `choices` too, by what they differ in. The predictions are embeddings, in
    `embeddings/MODEL`, a file a batch. Raises DataError for a set without captions, and as `evaluate` does.
    """
    check_has(data, "captions", "retrieval")
    device = next(iter(models.values())).device
    settings = {"models": {name: model.settings for name, model in models.items()}, "ties": "count against the pair"}
    makers = {name: partial(_embed, name, model) for name, model in models.items()}
    task = Task("retrieval", settings, makers, lambda p: score_retrieval(p, device))
    return evaluate(task, data, run)


def warn_of_ties(data: EvaluationSet) -> None:
    """A SeedTokWarning where more than a hundredth of the captions are of several pictures each."""
    counts = Counter(text for index in range(len(data)) for text in set(data[index].captions))
    repeated = sum(count for count in counts.values() if count > 1)
    if repeated > REPEATED * counts.total():
        warn(
            f"{repeated:,} of {counts.total():,} captions are of several pictures each: such ties count against the "
            "pair, so recalls at 1 are low"
        )


def score_retrieval(predictions: Predictions, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The recalls of embeddings that `evaluate_retrieval` wrote; similarities are computed on `device`."""
    result: dict[str, Any] = {}
    for name in predictions.settings()["models"]:
        parts = [load_file(path) for path in sorted((predictions.folder / "embeddings" / name).glob("*.safetensors"))]
        kinds = [key for key in parts[0] if key.startswith(IMAGES)]
        firsts = accumulate([0, *(len(part[kinds[0]]) for part in parts)])  # the first picture of each part
        owners = torch.cat([part[OWNERS] + first for part, first in zip(parts, firsts, strict=False)])
        texts = torch.cat([part[TEXTS] for part in parts]).to(device)
        queries = torch.cat([part[QUERIES] for part in parts])
        near = near_pairs(predictions.read(name))
        for kind in kinds:
            images = torch.cat([part[kind] for part in parts]).to(device)
            row = kind.removeprefix(IMAGES) or name
            row = f"{name} {row}" if row in result else row  # of a second model of its kind
            cosines = best_cosines(images, texts)
            result[row] = retrieval_recalls(cosines, owners, queries)
            for what, pairs in near.items():
                result[near_miss_row(row, what)] = choices(cosines, owners, pairs)
    return result


def near_miss_row(row: str, what: str) -> str:
    """The name of the row of choices beside another's recalls; `what` the near misses differ in."""
    return f"{row} near miss {what}"


def near_pairs(records: Sequence[Record]) -> dict[str, list[tuple[int, int]]]:
    """By what near misses differ in: the places of pictures and of their near misses, of those that could be read."""
    places = {record["image_id"]: place for place, record in enumerate(records)}
    found: dict[str, list[tuple[int, int]]] = {}
    for place, record in enumerate(records):
        other, what = record.get(NEAR_MISS, (None, ""))
        if other in places:
            found.setdefault(what, []).append((place, places[other]))
    return dict(sorted(found.items()))


def choices(similarity: Tensor, owners: Tensor, pairs: Sequence[tuple[int, int]]) -> dict[str, float]:
    """How often, in percent, one of two is chosen right, by pictures (N) and texts (T) of `similarity` (N, T).

    Of a pair, a picture chooses between a text of its own and one of its near miss, the best of each; and each of its
    texts between the two pictures. A tie counts against the choice, and so does a similarity that is no number.
    """
    by_picture, by_text = [], []
    for picture, miss in pairs:
        own, others = owners == picture, owners == miss
        by_picture.append(bool(similarity[picture, own].max() > similarity[picture, others].max()))
        by_text += (similarity[picture, own] > similarity[miss, own]).tolist()
    right = {"i2t_choice": by_picture, "t2i_choice": by_text}
    return {name: 100 * sum(chosen) / len(chosen) for name, chosen in right.items()} | {"pairs": len(pairs)}


def _embed(name: str, model: RetrievalModel, batch: Batch, out: Path) -> list[Record]:
    captions = [entry.captions for entry in batch.entries]
    every = [text for own in captions for text in own]
    images, texts = model.embed(batch.pictures, every or [""])
    owners = [place for place, own in enumerate(captions) for _ in own]
    tensors: dict[str, Tensor] = {f"{IMAGES}{kind}": embedded for kind, embedded in images.items()}
    tensors |= {TEXTS: texts[: len(every)], OWNERS: torch.tensor(owners, dtype=torch.int64)}
    tensors[QUERIES] = torch.tensor([entry.is_query for entry in batch.entries])
    path = out / "embeddings" / name / f"{batch.number:06}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        write_tensors(temporary, tensors)
    return [
        {"image_id": entry.id, "captions": len(own), **({NEAR_MISS: entry.near_miss} if entry.near_miss else {})}
        for entry, own in zip(batch.entries, captions, strict=True)
    ]
