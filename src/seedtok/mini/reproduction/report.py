"""The report of a reproduction: one HTML page that holds all its tables, pictures and charts."""

import json
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from seedtok.core.atomic import atomic_file
from seedtok.core.images import grid
from seedtok.evaluation.codebook import NAME as CODES
from seedtok.evaluation.predictions import Predictions
from seedtok.evaluation.run import rows_by_columns
from seedtok.mini.comparison.questions import QUESTIONS
from seedtok.mini.comparison.results import columns_of, conditions, differences, result_file, shown
from seedtok.mini.identities import NAME as MODELS
from seedtok.mini.reproduction.charts import bar_chart, line_chart, picture
from seedtok.mini.reproduction.parts import PARTS, SETS, TABLES
from seedtok.mini.reproduction.tables import table_file

NO_SCORES = ("settings", "counts", "clip", "missing", "count", "seconds", MODELS)  # parts of a result
BARS = 256  # of a chart, at the most
SHOWN = 12  # pictures of each kind
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; } td, th { padding: 0.2rem 0.8rem; text-align: right; }
td:first-child, th:first-child { text-align: left; } thead { border-bottom: 2px solid #888; }
tr + tr { border-top: 1px solid #ddd; } figure { margin: 1rem 0; } img { max-width: 100%; } figcaption { color: #666; }
svg { margin: 0.4rem; background: #f7f7f7; } svg polyline { fill: none; stroke: #2255aa; stroke-width: 1.5; }
svg rect { fill: #2255aa; } svg text { font: 10px system-ui, sans-serif; fill: #555; } svg .title { font-weight: 600; }
"""
# what the paper reports, of its own data and sizes: nothing here is comparable but the order of rows
PAPER = {
    "retrieval": "R@mean, Flickr30K 1K / COCO 5K: BLIP-2 92.9 / 80.3, embeddings 93.7 / 80.7, codes 91.7 / 77.4.",
    "generation": "CLIP similarity, COCO / Flickr30K: GILL 67.45 / 65.16, SD 68.43 / 65.40, SEED 68.23 / 65.22.",
    "captioning": "CIDEr on COCO: BLIP-2 131.0, SEED-OPT 119.0.",
    "vqa": "VQAv2, zero-shot: BLIP-2 51.9, SEED-OPT 42.8.",
}
BLIP2 = (
    "Row blip2 has the Q-Former that SEED's starts from, under half of SEED-OPT's steps, half its rate and no LoRA. "
    "Equal terms: --compare table3."
)
UNEQUAL = {
    "retrieval": "Row bidirectional is what the causal Q-Former starts from: it has fewer steps, and not the loss that "
    "says what stands where. Equal terms: --compare table1.",
    "captioning": BLIP2,
    "vqa": BLIP2,
}


def write_report(out: Path) -> Path:
    """Writes OUT/report.html from the scores, logs and pictures in OUT; returns its path."""
    parts = [_tables(out), _comparisons(out), _pictures(out), _codebook(out), _curves(out), _runs(out)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SEED, mini size, reproduced</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>SEED, mini size, reproduced</h1>{''.join(parts)}</body></html>"
    )
    path = out / "report.html"
    with atomic_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _scores(out: Path, table: str, name: str) -> dict[str, Any]:
    return json.loads(table_file(out, table, name).read_text(encoding="utf-8"))


def _tables(out: Path) -> str:
    parts = []
    for table in TABLES:
        parts.append(f"<h2>{table.name.capitalize()}</h2>")
        if paper := PAPER.get(table.name):
            parts.append(f"<p>The paper: {escape(paper)}</p>")
        if note := UNEQUAL.get(table.name):
            parts.append(f"<p>Not compared on equal terms. {escape(note)}</p>")
        for name in table.sets:
            found = _scores(out, table.name, name)
            parts.append(f"<h3>mini:{name}, {found['count']:,} scenes</h3>{_rows(found)}")
    return "".join(parts)


def _rows(found: dict[str, Any]) -> str:
    """Scores of rows with the same columns share a table; single scores are a line."""
    scores = {row: value for row, value in found.items() if row not in NO_SCORES}
    lines = [
        f"<p>{escape(row)}: {_number(value)}</p>" for row, value in scores.items() if isinstance(value, int | float)
    ]
    html = []
    for columns, rows in rows_by_columns(scores).items():
        head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
        body = "".join(
            f"<tr><td>{escape(row)}</td>{''.join(f'<td>{_number(found[row][c])}</td>' for c in columns)}</tr>"
            for row in rows
        )
        html.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
    return "".join([*html, *lines])


def _comparisons(out: Path) -> str:
    """The questions that were compared in this folder: each score's mean and range over seeds."""
    parts = []
    for name in QUESTIONS:
        if not result_file(out, name).is_file():
            continue
        found = json.loads(result_file(out, name).read_text(encoding="utf-8"))
        seeds = len(found["seeds"])
        parts.append(f"<h2>{escape(found['question'])}</h2><p>{escape(found['terms'])} ({conditions(found)}.)</p>")
        for set_name, rows in found["sets"].items():
            columns = columns_of(rows.values())
            head = "".join(f"<th>{escape(column)}</th>" for column in ("", *columns))
            body = "".join(
                f"<tr><td>{escape(row)}</td>{''.join(f'<td>{shown(c, s.get(c), seeds)}</td>' for c in columns)}</tr>"
                for row, s in rows.items()
            )
            table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
            parts.append(f"<h3>mini:{set_name}</h3>{table}")
        parts.append(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in differences(found))}</ul>")
    return "".join(parts)


def can_report(out: Path) -> bool:
    """Whether everything is there that a report needs."""
    return all(table_file(out, table.name, name).is_file() for table in TABLES for name in table.sets)


def _number(value: int | float | None) -> str:
    return "-" if value is None else f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _pictures(out: Path) -> str:
    """What was drawn, as the evaluations left it: from captions, from codes, and by the language model."""
    figures = ["<h2>Drawings</h2>"]
    for table, way, words in (
        ("generation", "seed", "Figure 3: drawn by SEED from the 32 codes of pictures it sees"),
        ("generation", "seed_few_steps", "The same by its latent consistency LoRA, in 4 steps"),
        ("generation", "caption", "Drawn by the diffusion model from their captions"),
        ("drawing", "seed_opt", "Figure 6: drawn by SEED-OPT from prompts"),
    ):
        for name in SETS:
            folder = table_file(out, table, name).with_suffix("") / way
            files = sorted(folder.rglob("*.png"), key=lambda path: (len(path.stem), path.stem))[:SHOWN]
            if files:
                sheet = grid([Image.open(path).convert("RGB") for path in files], columns=6)
                figures.append(picture(sheet, f"{words} (mini:{name})"))
    return "".join(figures)


def _codebook(out: Path) -> str:
    """How often each code was chosen over the test scenes; of many codes, evenly spaced ones."""
    records = Predictions(table_file(out, "codebook", "test").with_suffix("")).read(CODES)
    counts = [count for _, count in Counter(code for record in records for code in record["codes"]).most_common()]
    return bar_chart(
        "How often each code is used", counts[:: -(-len(counts) // BARS)], "codes, the most frequent first"
    )


def _log(out: Path, part: str) -> list[dict[str, Any]]:
    path = out / "runs" / part / "log.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _curves(out: Path) -> str:
    charts = []
    for part in PARTS:
        steps = [line for line in _log(out, part.name) if line.get("kind") == "train" and "loss" in line]
        points = [(line["step"], line["loss"]) for line in steps]
        charts.append(line_chart(part.name, [(float(x), float(y)) for x, y in points]))
    return f"<h2>Losses while training</h2>{''.join(charts)}"


def _runs(out: Path) -> str:
    rows = []
    for part in PARTS:
        path = out / "runs" / part.name / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        last = [line for line in _log(out, part.name) if line.get("kind") == "validation"][-1:]
        shown = ", ".join(f"{k} {v:.4g}" for k, v in (last[0] if last else {}).items() if k not in ("step", "kind"))
        optimization = config["optimization"]
        cells = (part.name, optimization["steps"], optimization["batch_size"], config["seed"], shown)
        rows.append(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>")
    head = "".join(f"<th>{h}</th>" for h in ("part", "steps", "batch", "seed", "last validation"))
    return f"<h2>Runs</h2><table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
