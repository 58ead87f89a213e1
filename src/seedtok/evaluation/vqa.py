"""Table 3, answers: VQAv2 by its official accuracy, GQA by exact match."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from seedtok.core.errors import ConfigError
from seedtok.data.entries import Question
from seedtok.evaluation.answers import exact_match, vqa_accuracy
from seedtok.evaluation.captioning import add_lacking, by_id, check_known
from seedtok.evaluation.dataset import EvaluationSet, check_has
from seedtok.evaluation.predictions import Record
from seedtok.evaluation.prompts import Prompts, recorded
from seedtok.evaluation.readers import Reader, prompts_of
from seedtok.evaluation.run import Batch, Run, Task, evaluate
from seedtok.lm.prompts import ANSWERING, TextSettings


def evaluate_vqa(
    models: Mapping[str, Reader], data: EvaluationSet, run: Run, prompts: Prompts | None = None,
    decoding: TextSettings = ANSWERING,
) -> dict[str, Any]:  # fmt: skip
    """Answers of each model to all questions, and their scores, as of `score_answers`.

    The predictions are the results files that the set's own evaluation takes. Each model is asked by its own prompt
    where none is given. Raises DataError for a set without questions, ConfigError for a prompt without a place for one,
    and as `evaluate` does.
    """
    check_has(data, "questions", "vqa")
    if prompts is not None and "{}" not in prompts.question:
        raise ConfigError(f'the prompt {prompts.question!r} has no place for the question: write "{{}}" there')
    number, answer = data.info.answer_keys

    ways = prompts_of(models, prompts)

    def make(row: str, batch: Batch, _: Path) -> list[Record]:
        asked = [[ways[row].asked(question.text) for question in entry.questions] for entry in batch.entries]
        said = models[row].write(batch.pictures, asked, decoding)
        every = [question for entry in batch.entries for question in entry.questions]
        return [{number: question.id, answer: text} for question, text in zip(every, said, strict=True)]

    settings = {
        "models": {name: model.settings for name, model in models.items()},
        "prompt": recorded({row: way.question for row, way in ways.items()}),
        "lower_case": recorded({row: way.lower for row, way in ways.items()}),
        "decoding": decoding.arguments(),
    }
    makers = {row: partial(make, row) for row in models}
    return evaluate(Task("vqa", settings, makers, lambda p: score_answers(p.every(), data)), data, run)


def score_answers(predictions: Mapping[str, list[Record]], data: EvaluationSet) -> dict[str, Any]:
    """Each model's scores in percent, of all questions and by type of answer.

    `accuracy`, VQAv2's, where questions have several people's answers; `exact_match` where all questions have one
    right one. By type of answer it is the first of these that there is. Raises DataError for predictions of another
    data set, or two for a question.
    """
    number, answer = data.info.answer_keys
    result: dict[str, Any] = {}
    for name, records in predictions.items():
        said = by_id(records, number, answer, f"the answers of {name}")
        scores: dict[str, list[float]] = {}
        lacking = 0
        for question in (question for entry in data for question in entry.questions):
            text = said.pop(str(question.id), None)
            if text is None:
                lacking += 1
                continue
            for kind, score in _scores(question, text).items():
                scores.setdefault(kind, []).append(score)
        check_known(said, data, "questions")
        count = max(map(len, scores.values()), default=0)
        partial = {kind for kind in ("accuracy", "exact_match") if len(scores.get(kind, ())) < count}
        result[name] = {
            kind: 100 * sum(values) / len(values) for kind, values in scores.items() if kind not in partial
        }  # fmt: skip
        add_lacking(result, name, lacking)
    return result


def _scores(question: Question, said: str) -> dict[str, float]:
    """What one answer scores, 0..1, by what is counted."""
    scores: dict[str, float] = {}
    if len(question.answers) > 1:
        scores["accuracy"] = vqa_accuracy(said, question.answers)
    if len(truths := set(question.answers)) == 1:
        scores["exact_match"] = exact_match(said, truths.pop())
    if question.answer_type:
        scores[question.answer_type] = next(iter(scores.values()), 0.0)
    return scores
