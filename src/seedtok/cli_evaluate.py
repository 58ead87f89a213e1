"""`seedtok evaluate`: Tables 1 to 3, and the codebook's health."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from seedtok.cli_support import out, quiet, say

app = typer.Typer(help="Measure a model on test scenes that no training saw.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="'mini', a checkpoint folder, or a hub id.")]
LanguageModel = Annotated[str, typer.Option("--model", help="'mini' or a folder of a SEED language model.")]
Count = Annotated[int, typer.Option(min=1, help="Test scenes.")]
Seed = Annotated[int, typer.Option(min=0, help="Which scenes, and the noise of drawings.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1)]


@app.command()
def retrieval(
    model: Model = "mini",
    count: Count = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
) -> None:
    """Table 1: recall of captions by pictures and back, from embeddings and from codes."""
    quiet()
    from seedtok.evaluation.retrieval import evaluate_retrieval

    _print(evaluate_retrieval, model, count, seed, batch_size, as_json)


@app.command()
def generation(
    model: Model = "mini",
    count: Count = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 16,
) -> None:
    """Table 2: drawings from captions and from codes, beside the real picture."""
    quiet()
    from seedtok.evaluation.generation import evaluate_generation

    _print(evaluate_generation, model, count, seed, batch_size, as_json)


@app.command()
def codebook(
    model: Model = "mini",
    count: Count = 20_000,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
) -> None:
    """How many of its codes a tokenizer uses, and how evenly."""
    quiet()
    from seedtok.evaluation.codebook import evaluate_codebook

    _print(evaluate_codebook, model, count, seed, batch_size, as_json)


@app.command()
def captioning(
    model: LanguageModel = "mini",
    count: Count = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
) -> None:
    """Table 3: captions, by pycocoevalcap and by whether they name all of a scene right."""
    quiet()
    from seedtok.evaluation.understanding import evaluate_captioning

    _print(evaluate_captioning, model, count, seed, batch_size, as_json)


@app.command()
def vqa(
    model: LanguageModel = "mini",
    count: Count = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 32,
) -> None:
    """Table 3: answers to a question a scene, by VQAv2's accuracy and GQA's exact match."""
    quiet()
    from seedtok.evaluation.understanding import evaluate_vqa

    _print(evaluate_vqa, model, count, seed, batch_size, as_json)


@app.command()
def drawing(
    model: LanguageModel = "mini",
    count: Count = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
    batch_size: BatchSize = 16,
) -> None:
    """Pictures that the language model draws of captions, beside the diffusion model's own."""
    quiet()
    from seedtok.evaluation.drawing import evaluate_drawing

    _print(evaluate_drawing, model, count, seed, batch_size, as_json)


def _print(
    evaluate: Callable[[str, int, int, int], dict[str, Any]],
    model: str,
    count: int,
    seed: int,
    batch_size: int,
    as_json: bool,
) -> None:
    result = evaluate(model, count, seed, batch_size)
    if as_json:
        print(json.dumps(result))
        return
    groups: dict[tuple[str, ...], list[str]] = {}  # the parts of a result with the same columns share a table
    for name, value in result.items():
        if isinstance(value, dict):
            groups.setdefault(tuple(value), []).append(name)
    for columns, names in groups.items():
        table = Table("", *columns)
        for name in names:
            table.add_row(name, *(_number(result[name][column]) for column in columns))
        out.print(table)
    for name, value in result.items():
        if not isinstance(value, dict):
            say(f"{name}: {_number(value)}")


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
