"""Comparisons from start to end: the runs that their rows need, their measurements, and what they say."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from seedtok.core.errors import ConfigError
from seedtok.core.files import read_json
from seedtok.core.locks import locked
from seedtok.mini.comparison.made_of import check_made_of
from seedtok.mini.comparison.measures import needs_of, scores_file
from seedtok.mini.comparison.questions import QUESTIONS, Question
from seedtok.mini.comparison.results import result_file, write_result
from seedtok.mini.comparison.runs import Terms, parts_of
from seedtok.mini.comparison.shipped import check_none_trained, place_shipped
from seedtok.mini.parts import Part, check_same, holds_checkpoint, keep_same, result
from seedtok.mini.reproduction.jobs import Job, Report, run_jobs
from seedtok.mini.reproduction.report import can_report, write_report
from seedtok.mini.reproduction.run import COMPARISONS, Place, check_settings, training_job
from seedtok.training.setup import fast_precision


def compare(names: Sequence[str], place: Place, say: Report, terms: Terms) -> list[Path]:
    """Answers questions, by their names in `QUESTIONS`, in the folder of a reproduction; returns their Markdown tables.

    What they stand on is trained first where it is not there yet; what an earlier call finished stays. When it is
    interrupted, tables of what is measured so far are left. A report that can be written is written again. Raises
    ConfigError for a question that there is not, or where the folder's comparisons have other steps or stand on other
    parts, or has itself trained some that the package has; and as `reproduce` does.
    """
    if unknown := [name for name in names if name not in QUESTIONS]:
        raise ConfigError(f"no question {unknown[0]!r}: expected all, {', '.join(QUESTIONS)}")
    with locked(place.out):
        place.check()
        terms = replace(terms, precision=_precision(place))
        check_same(place.out / COMPARISONS, terms.kept())
        parts = [job.name for job in jobs_of(names, place, terms)]
        if terms.shipped:
            check_none_trained(place.out, parts)
        keep_same(place.out / COMPARISONS, terms.kept())
        if terms.shipped and (placed := place_shipped(place.out, parts)):
            say(f"of the package: {', '.join(placed)}")
        try:
            run_jobs(jobs_of(names, place, terms), place.workers, say)
        finally:
            for name in names:
                write_result(place.out, name, terms, place.smoke)
        if can_report(place.out):
            write_report(place.out)
    return [result_file(place.out, name).with_suffix(".md") for name in names]


def _precision(place: Place) -> str:
    """That of the comparisons in a folder, which the machine on which they began chose.

    Earlier versions kept it with each compared run alone.
    """
    runs = sorted((place.out / "runs").glob("*/seed*/config.json"))
    records = [read_json(path) for path in (place.out / COMPARISONS, *runs) if path.is_file()]
    begun = (record.get("precision") for record in records)
    return str(next(filter(None, begun), None) or fast_precision(torch.device(place.device)))


def jobs_of(names: Sequence[str], place: Place, terms: Terms) -> list[Job]:
    """The jobs that rows of questions need; measurements come first, so that each is run as soon as it can be.

    Runs of which all is measured are not needed any more.
    """
    measuring = _measuring(names, place, terms)
    parts = parts_of(terms.seed_numbers, terms, place.smoke)
    left = [job for job in measuring if not job.is_done]
    needed = _needed(left, parts, lambda name: holds_checkpoint(result(place.out, name)))
    for name in _needed(measuring, parts, lambda _: False) - needed:  # training_job checks the others
        check_settings(parts[name], place)
    check_made_of((job.makes for job in measuring if job not in left), place.out, parts, place.smoke)
    return [*measuring, *(training_job(part, place) for name, part in parts.items() if name in needed)]


def _measuring(names: Sequence[str], place: Place, terms: Terms) -> list[Job]:
    jobs = (
        job
        for question in (QUESTIONS[name] for name in names)
        for seed in terms.seed_numbers
        for set_name in question.sets
        for job in _measurements(question, set_name, seed, place)
    )
    return list({job.name: job for job in jobs}.values())


def _needed(measuring: Iterable[Job], parts: dict[str, Part], is_there: Callable[[str], bool]) -> set[str]:
    """Names of the parts that are measured, and of all that those of them stand on that are not there."""
    found, left = set[str](), [need for job in measuring for need in job.needs]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            if not is_there(name):
                left += parts[name].inputs.values()
    return found


def _measurements(question: Question, set_name: str, seed: int, place: Place) -> Iterable[Job]:
    out, count = place.out, question.scenes(place.smoke)
    for row in question.rows:
        needs = needs_of(row, seed)
        models = tuple((part, result(out, part)) for part in needs)
        arguments = (str(out), row.measurement, str(seed), set_name, str(count), place.device)
        made = scores_file(out, row.measurement, set_name, count, seed)
        log = out / "logs" / "comparisons" / f"{row.measurement}-{set_name}-seed{seed}.txt"
        name = f"{row.measurement} ({set_name}, seed {seed})"
        yield Job(name, ("seedtok.mini.comparison.measures", *arguments), needs, made, log, models=models)
