"""`seedtok evaluate`: Tables 1 to 3, and the codebook's health."""

import json
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.table import Table

from seedtok.cli_support import out, quiet, say

app = typer.Typer(help="Measure a model on test scenes that no training saw.", no_args_is_help=True)

TOKENIZER = "'mini', a checkpoint folder, or a hub id."
LANGUAGE_MODEL = "'mini' or a folder of a SEED language model."


def _add(name: str, module: str, model_help: str, what: str, scenes: int = 1000, batch: int = 32) -> None:
    """The command NAME, which runs and prints `evaluate_NAME` of a module of `seedtok.evaluation`."""

    @app.command(name, help=what)
    def command(
        model: Annotated[str, typer.Option(help=model_help)] = "mini",
        count: Annotated[int, typer.Option(min=1, help="Test scenes.")] = scenes,
        seed: Annotated[int, typer.Option(min=0, help="Which scenes, and the noise of drawings.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")] = False,
        batch_size: Annotated[int, typer.Option(min=1)] = batch,
    ) -> None:
        quiet()
        evaluate = getattr(import_module(f"seedtok.evaluation.{module}"), f"evaluate_{name}")
        _print(evaluate, model, count, seed, batch_size, as_json)


_add(
    "retrieval", "retrieval", TOKENIZER,
    "Table 1: recall of captions by pictures and back, from embeddings and from codes.",
)  # fmt: skip
_add(
    "generation", "generation", TOKENIZER,
    "Table 2: drawings from captions and from codes, beside the real picture.", batch=16,
)  # fmt: skip
_add("codebook", "codebook", TOKENIZER, "How many of its codes a tokenizer uses, and how evenly.", scenes=20_000)
_add(
    "captioning", "understanding", LANGUAGE_MODEL,
    "Table 3: captions, by pycocoevalcap and by whether they name all of a scene right.",
)  # fmt: skip
_add(
    "vqa", "understanding", LANGUAGE_MODEL,
    "Table 3: answers to a question a scene, by VQAv2's accuracy and GQA's exact match.",
)  # fmt: skip
_add(
    "drawing", "drawing", LANGUAGE_MODEL,
    "Pictures that the language model draws of captions, beside the diffusion model's own.", batch=16,
)  # fmt: skip


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
    missing = result.pop("missing", {})
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
    for name, reason in missing.items():
        say(f"{name} is not there: {reason}")


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
