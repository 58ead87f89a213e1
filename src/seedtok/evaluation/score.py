"""Scores existing predictions: those of an earlier evaluation, or of any other program."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seedtok.core.errors import ConfigError, DataError
from seedtok.evaluation.captioning import score_captions
from seedtok.evaluation.captions import check_installed
from seedtok.evaluation.clip_scores import ImageFeatures
from seedtok.evaluation.codebook import score_codes
from seedtok.evaluation.dataset import EvaluationSet, Scorer, check_has
from seedtok.evaluation.drawing import score_drawing
from seedtok.evaluation.generation import score_folder, score_generation
from seedtok.evaluation.predictions import SETTINGS, Predictions, records_of
from seedtok.evaluation.retrieval import score_retrieval
from seedtok.evaluation.run import described, scored
from seedtok.evaluation.vqa import score_answers

ANSWER_KEYS = (("question_id", "answer"), ("questionId", "prediction"))  # VQAv2's and GQA's results files


@dataclass(frozen=True)
class Judges:
    """The models that score drawings and captions, and the device on which similarities are computed."""

    clip: ImageFeatures | None = None
    scorer: Scorer | None = None
    device: torch.device | str = "cpu"


def kind_of_predictions(path: Path) -> str:
    """The task whose predictions are there: one of an evaluation of ours, "captions", "answers" or "pictures".

    Raises DataError for anything else.
    """
    if not path.exists():
        raise DataError(f"no such predictions: {path}")
    if path.is_dir():
        return str(Predictions(path).settings().get("task")) if (path / SETTINGS).is_file() else "pictures"
    first = records_of(path)[0]
    if {"image_id", "caption"} <= first.keys():
        return "captions"
    if any(set(keys) <= first.keys() for keys in ANSWER_KEYS):
        return "answers"
    raise DataError(
        f"{path}: its records have {', '.join(map(str, first))}; expected image_id and caption, question_id and "
        "answer, or questionId and prediction"
    )


def score_predictions(path: Path, data: EvaluationSet, judges: Judges) -> dict[str, Any]:
    """Scores a folder that an evaluation wrote, a results file of captions or answers, or a folder of pictures.

    Raises DataError for predictions that are not whole or of another data set, ConfigError where a CLIP is needed and
    there is none.
    """
    kind = kind_of_predictions(path)
    if kind in ("captions", "answers", "pictures"):
        settings = {"task": "score", "data": described(data), "predictions": _digest(path)}
        if kind == "pictures":
            scores, unreadable = score_folder(path, data, _clip(judges), judges.scorer)
            return scored(scores, data, settings, unreadable)
        return scored(_score_foreign(kind, path, data, judges), data, settings, [])
    predictions = Predictions(path)
    settings = predictions.settings()
    if settings.get("data") != described(data):
        there, given = settings.get("data", {}), described(data)
        raise DataError(f"{path} has predictions of {_named(there)}, not of {_named(given)}: give its own --data")
    return scored(_score_own(kind, predictions, data, judges), data, settings, predictions.unreadable())


def _score_own(kind: str, predictions: Predictions, data: EvaluationSet, judges: Judges) -> dict[str, Any]:
    scorers = {
        "retrieval": lambda: score_retrieval(predictions, judges.device),
        "codebook": lambda: score_codes(predictions),
        "captioning": lambda: score_captions(predictions.every(), data, judges.scorer),
        "vqa": lambda: score_answers(predictions.every(), data),
        "generation": lambda: score_generation(predictions, data, _clip(judges), judges.scorer),
        "drawing": lambda: score_drawing(predictions, data, _clip(judges), judges.scorer),
    }
    if kind not in scorers:
        raise DataError(f"{predictions.folder} has predictions of {kind}; known are {', '.join(scorers)}")
    return scorers[kind]()


def _score_foreign(kind: str, path: Path, data: EvaluationSet, judges: Judges) -> dict[str, Any]:
    """The scores of a results file of captions or answers."""
    records = records_of(path)
    if kind == "captions":
        check_installed()
        check_has(data, "captions", "scoring captions")
        return score_captions({path.stem: records}, data, judges.scorer)
    check_has(data, "questions", "scoring answers")
    given = next(keys for keys in ANSWER_KEYS if set(keys) <= records[0].keys())
    renamed = [
        {new: record.get(old) for old, new in zip(given, data.info.answer_keys, strict=True)} for record in records
    ]
    return score_answers({path.stem: renamed}, data)


def _clip(judges: Judges) -> ImageFeatures:
    if judges.clip is None:
        raise ConfigError("drawings are compared by a CLIP: name one")
    return judges.clip


def _digest(path: Path) -> str:
    """Tells predictions of other programs from others: a hash of a file, or of the names and sizes of a folder's."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    found = sorted((p.relative_to(path).as_posix(), p.stat().st_size) for p in path.rglob("*") if p.is_file())
    return hashlib.sha256(repr(found).encode(errors="replace")).hexdigest()[:16]


def _named(data: Mapping[str, Any]) -> str:
    return f"{data.get('pictures'):,} pictures of {data.get('name')} {data.get('split')} ({data.get('fingerprint')})"
