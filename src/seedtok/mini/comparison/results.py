"""What a comparison has found: each score's mean and range over the seeds, as JSON and as a table in Markdown."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seedtok.core.atomic import atomic_file
from seedtok.mini.comparison.measures import needs_of, scores_file
from seedtok.mini.comparison.questions import QUESTIONS, Row
from seedtok.mini.comparison.runs import Terms
from seedtok.mini.identities import is_outdated
from seedtok.mini.parts import result

PRODUCTS = {"bf16": "; trained with products in bfloat16", "no": "; trained with products in float32"}
FINE = ("next_code_loss",)  # scores that are small numbers, and not in percent
Statistic = dict[str, Any]  # "mean", "range" (lowest, highest) and "seeds" of one score


def result_file(out: Path, question: str) -> Path:
    """Where the result of a question lies; the same table in Markdown is beside it."""
    return out / "comparisons" / f"{question}.json"


def write_result(out: Path, question: str, terms: Terms, smoke: bool = False) -> dict[str, Any]:
    """Writes what the measurements of a question say so far, over the seeds that are asked for."""
    asked, seeds = QUESTIONS[question], list(terms.seed_numbers)
    count = asked.scenes(smoke)
    found = {
        "question": asked.title,
        "terms": asked.terms,
        "seeds": seeds,
        "count": count,
        **terms.kept(),
        "differs": {row.name: row.differs for row in asked.rows},
        "sets": {
            name: {row.name: _over_seeds(out, row, name, count, seeds) for row in asked.rows} for name in asked.sets
        },
    }
    result_file(out, question).parent.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (result_file(out, question), json.dumps(found, indent=1)),
        (result_file(out, question).with_suffix(".md"), markdown(found)),
    ):
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return found


def _over_seeds(out: Path, row: Row, set_name: str, count: int, seeds: list[int]) -> dict[str, Statistic]:
    """A row's scores over the seeds that are measured, but for scores of other models than those that lie there."""
    every = []
    for seed in seeds:
        path = scores_file(out, row.measurement, set_name, count, seed)
        models = {part: result(out, part) for part in needs_of(row, seed)}
        if path.is_file() and not is_outdated(path, models):
            every.append(json.loads(path.read_text("utf-8"))["scores"][row.key])
    return {name: statistic([scores[name] for scores in every if name in scores]) for name in columns_of(every)}


def statistic(values: list[float]) -> Statistic:
    """The mean of one score over seeds, its lowest and highest value, and how many there are."""
    return {"mean": sum(values) / len(values), "range": [min(values), max(values)], "seeds": len(values)}


def shown(name: str, found: Statistic | None, seeds: int) -> str:
    """A statistic of the score of that name in a table: the mean, and the range where it is one.

    Where fewer than `seeds` are measured so far, it says so.
    """
    if found is None:
        return "-"
    low, high = found["range"]
    digits = 3 if name in FINE else 1
    mean = f"{found['mean']:,.{digits}f}" + ("" if low == high else f" ({low:,.{digits}f} to {high:,.{digits}f})")
    return mean if found["seeds"] == seeds else f"{mean}, {found['seeds']} of {seeds} seeds"


def columns_of(rows: Iterable[Mapping[str, object]]) -> list[str]:
    """The names of all scores of some rows, in the order in which they first come."""
    return list(dict.fromkeys(name for scores in rows for name in scores))


def markdown(found: Mapping[str, Any]) -> str:
    """The result of a question as a section in Markdown: its terms, and a table for each set."""
    seeds = len(found["seeds"])
    lines = [f"## {found['question']}", "", f"{found['terms']} ({conditions(found)}.)", ""]
    for set_name, rows in found["sets"].items():
        columns = columns_of(rows.values())
        lines += [f"`mini:{set_name}`", "", f"| Row | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
        for row, scores in rows.items():
            lines.append(f"| {row} | {' | '.join(shown(column, scores.get(column), seeds) for column in columns)} |")
        lines.append("")
    lines += [f"- {line}" for line in differences(found)]
    return "\n".join(lines) + "\n"


def differences(found: Mapping[str, Any]) -> list[str]:
    """What the rows of a result differ in, a line each."""
    return [f"{row}: {differs}" for row, differs in found["differs"].items() if differs != row]


def conditions(found: Mapping[str, Any]) -> str:
    """How many scenes of each set and seeds a result is of, and what its runs stand on and are scaled by."""
    seeds = f"{len(found['seeds'])} seeds, mean and range" if len(found["seeds"]) > 1 else "one seed"
    scales = "".join(
        f"; {what} times {found[key]:g}"
        for what, key in (("steps", "steps_scale"), ("batch", "batch_scale"), ("rate", "rate_scale"))
        if found.get(key, 1) != 1
    )
    shipped = "; on the parts of the package" if found["shipped"] else ""
    products = PRODUCTS.get(str(found.get("precision")), "")
    return f"{found['count']:,} scenes, {seeds}{scales}{shipped}{products}"
