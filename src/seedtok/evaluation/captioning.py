"""Table 3, captions: what models say of pictures, against all of people's captions."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from seedtok.core.errors import ConfigError, DataError
from seedtok.evaluation.captions import caption_scores, check_installed
from seedtok.evaluation.dataset import EvaluationSet, Scorer, check_has, percent
from seedtok.evaluation.predictions import Record
from seedtok.evaluation.prompts import Prompts, recorded
from seedtok.evaluation.readers import Reader, prompts_of
from seedtok.evaluation.run import Batch, Run, Task, evaluate
from seedtok.lm.prompts import CAPTIONING, TextSettings


def evaluate_captioning(
    models: Mapping[str, Reader], data: EvaluationSet, run: Run, prompts: Prompts | None = None,
    decoding: TextSettings = CAPTIONING, scorer: Scorer | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Captions of each model and their scores, as of `score_captions`; the predictions are COCO's results files.

    Each model is asked by its own prompt where none is given.

    Raises ConfigError, before anything is captioned, where the package that scores is not installed, or for a prompt
    with a place for a question; DataError for a set without captions, and as `evaluate` does.
    """
    if prompts is not None and "{}" in prompts.caption:
        raise ConfigError(f"the prompt {prompts.caption!r} is for questions, and captioning has none: leave {{}} out")
    check_installed()
    check_has(data, "captions", "captioning")

    asked = {row: own.caption for row, own in prompts_of(models, prompts).items()}

    def make(row: str, batch: Batch, _: Path) -> list[Record]:
        said = models[row].write(batch.pictures, [[asked[row]]] * len(batch.pictures), decoding)
        return [{"image_id": entry.id, "caption": text} for entry, text in zip(batch.entries, said, strict=True)]

    settings = {
        "models": {name: model.settings for name, model in models.items()},
        "prompt": recorded(asked),
        "decoding": decoding.arguments(),
    }
    makers = {row: partial(make, row) for row in models}
    task = Task("captioning", settings, makers, lambda p: score_captions(p.every(), data, scorer), captioned=True)
    return evaluate(task, data, run)


def score_captions(
    predictions: Mapping[str, list[Record]], data: EvaluationSet, scorer: Scorer | None = None
) -> dict[str, Any]:
    """Scores (x100) of each model's captions, and what the scorer finds right in them.

    Where a set has domains, those of each are scored by themselves as well, as "MODEL DOMAIN". A score that could not
    run is None, and `missing` says why. Raises DataError for predictions of another data set, or two for a picture.
    """
    result: dict[str, Any] = {}
    for name, records in predictions.items():
        said = by_id(records, "image_id", "caption", f"the captions of {name}")
        entries = [(i, said.pop(str(entry.id), None), entry) for i, entry in enumerate(data)]
        check_known(said, data, "pictures")
        described = [one for one in entries if one[2].captions]
        found = [(i, text, entry) for i, text, entry in described if text is not None]
        groups = {name: found}
        for domain in dict.fromkeys(entry.domain for *_, entry in found if entry.domain):
            groups[f"{name} {domain}"] = [one for one in found if one[2].domain == domain]
        for group, own in groups.items():
            scores, missing = caption_scores([text for _, text, _ in own], [entry.captions for *_, entry in own])
            right = {} if scorer is None else scorer.score_captions([text for _, text, _ in own], [i for i, *_ in own])
            result[group] = scores | percent(right)
            if missing:
                result["missing"] = missing
        add_lacking(result, name, len(described) - len(found))
    return result


def by_id(records: list[Record], key: str, value: str, what: str) -> dict[str, str]:
    """Predictions by their ids as text; raises DataError for one without, and for two of one id."""
    found: dict[str, str] = {}
    for record in records:
        identity, text = record.get(key), record.get(value)
        if not isinstance(identity, str | int) or not isinstance(text, str):
            raise DataError(f"{what}: expected {key} and {value} in each, not {str(record)[:80]}")
        if str(identity) in found:
            raise DataError(f"{what}: two for {key} {identity}")
        found[str(identity)] = text
    return found


def check_known(unknown: Mapping[str, Any], data: EvaluationSet, what: str) -> None:
    """Raises DataError where predictions are left that no entry of a set has taken."""
    if unknown:
        raise DataError(
            f"{len(unknown):,} predictions are of {what} that {data.info.name} {data.info.split} does not have, the "
            f"first of {next(iter(unknown))}: they are of another data set"
        )


def add_lacking(result: dict[str, Any], name: str, count: int) -> None:
    """Notes how much of a set a model's predictions do not cover, and no score is of."""
    if count:
        result.setdefault("not_predicted", {})[name] = count
