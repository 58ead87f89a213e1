"""Comparisons from start to end: the runs that their rows need, their measurements, and what they say."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from seedtok.core.errors import ConfigError
from seedtok.core.locks import locked
from seedtok.mini.comparison.measures import scores_file
from seedtok.mini.comparison.questions import QUESTIONS, Question
from seedtok.mini.comparison.results import result_file, write_result
from seedtok.mini.comparison.runs import FOUNDATIONS, RUNS, part_of, seeded
from seedtok.mini.parts import Part, check_same
from seedtok.mini.reproduction.jobs import Job, Report, run_jobs
from seedtok.mini.reproduction.report import can_report, write_report
from seedtok.mini.reproduction.run import Place, training_job

JUDGES = {"generation": ("judge", "eval_clip"), "drawing": ("judge", "eval_clip")}  # foundations of a measurement


def compare(names: Sequence[str], place: Place, say: Report, seeds: int = 3, steps_scale: float = 1.0) -> list[Path]:
    """Answers questions, by their names in `QUESTIONS`, in the folder of a reproduction; returns their Markdown tables.

    What they stand on is trained first where it is not there yet; what an earlier call finished stays. `steps_scale` is
    of the steps of every run that is compared. A report that can be written is written again. Raises ConfigError for
    a question that there is not, or where the folder's comparisons have other steps; and as `reproduce` does.
    """
    if unknown := [name for name in names if name not in QUESTIONS]:
        raise ConfigError(f"no question {unknown[0]!r}: expected all, {', '.join(QUESTIONS)}")
    with locked(place.out):
        place.check()
        check_same(place.out / "comparisons.json", {"steps_scale": steps_scale})
        run_jobs(jobs_of(names, place, range(seeds), steps_scale), place.workers, say)
        for name in names:
            write_result(place.out, name, range(seeds), steps_scale)
        if can_report(place.out):
            write_report(place.out)
    return [result_file(place.out, name).with_suffix(".md") for name in names]


def jobs_of(names: Sequence[str], place: Place, seeds: Iterable[int], steps_scale: float) -> list[Job]:
    """The jobs of questions, without those that none of their rows needs."""
    seeds, questions = list(seeds), [QUESTIONS[name] for name in names]
    measuring = {
        job.name: job
        for question in questions
        for set_name in question.sets
        for seed in seeds
        for job in _measurements(question, set_name, seed, place)
    }
    parts = {part.name: part for part in FOUNDATIONS}
    parts |= {p.name: p for run in RUNS.values() for s in seeds for p in [part_of(run, s, steps_scale, place.smoke)]}
    needed = _closure((need for job in measuring.values() for need in job.needs), parts)
    return [*(training_job(part, place) for name, part in parts.items() if name in needed), *measuring.values()]


def _closure(names: Iterable[str], parts: dict[str, Part]) -> set[str]:
    """Names of parts, and of all that they stand on."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += parts[name].inputs.values()
    return found


def _measurements(question: Question, set_name: str, seed: int, place: Place) -> Iterable[Job]:
    out, count = place.out, question.smoke_count if place.smoke else question.count
    for row in question.rows:
        needs = (*(seeded(run, seed) for run in row.runs), *JUDGES.get(row.measure, ()))
        arguments = (str(out), row.measurement, str(seed), set_name, str(count), place.device)
        made = scores_file(out, row.measurement, set_name, seed)
        log = out / "logs" / "comparisons" / f"{row.measurement}-{set_name}-seed{seed}.txt"
        name = f"{row.measurement} ({set_name}, seed {seed})"
        yield Job(name, ("seedtok.mini.comparison.measures", *arguments), needs, made, log)
