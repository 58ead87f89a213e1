"""`seedtok evaluate`: Tables 1 to 3, and the codebook's health."""

import json
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.table import Table

from seedtok.cli.support import Device, DrawingPrecision, Dtype, Precision, drawing_dtype, out, quiet, say
from seedtok.cli.words import Base, Tokenizer

app = typer.Typer(help="Measure a model on test scenes that no training saw.", no_args_is_help=True)

TOKENIZER = "'mini', a checkpoint folder, or a hub id."
LANGUAGE_MODEL = "'mini', a folder of a SEED language model, or a hub id."


def _add(
    name: str, module: str, model_help: str, what: str, scenes: int = 1000, batch: int = 32, draws: bool = False
) -> None:
    """The command NAME, which runs and prints `evaluate_NAME` of a module of `seedtok.evaluation`."""

    @app.command(name, help=what)
    def command(
        model: Annotated[str, typer.Option(help=model_help)] = "mini",
        count: Annotated[int, typer.Option(min=1, help="Test scenes.")] = scenes,
        seed: Annotated[int, typer.Option(min=0, help="Which scenes, and the noise of drawings.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")] = False,
        batch_size: Annotated[int, typer.Option(min=1)] = batch,
        dtype: Dtype = Precision.float32,
        device: Device = "auto",
        drawing: Annotated[DrawingPrecision | None, _drawing_option(draws)] = None,
    ) -> None:
        quiet(loading=True)
        compute = _compute(device, dtype, drawing)
        evaluate = getattr(import_module(f"seedtok.evaluation.{module}"), f"evaluate_{name}")
        _show(evaluate(model, count, seed, batch_size, compute=compute), as_json)


def _drawing_option(draws: bool) -> Any:
    """`--drawing-dtype`, which only evaluations that draw show."""
    return typer.Option(
        "--drawing-dtype", hidden=not draws, help="What the image decoder alone computes in, as in `demo`."
    )


def _show(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
    else:
        _print(result)


def _compute(device: str, dtype: Precision, drawing: DrawingPrecision | None) -> Any:
    import torch

    from seedtok.core.device import device_named
    from seedtok.evaluation.common import Compute

    chosen = device_named(device)
    return Compute(chosen, getattr(torch, dtype.value), drawing_dtype(drawing, chosen))


def _add_lm(name: str, module: str, what: str, batch: int = 32, draws: bool = False) -> None:
    """As `_add`, of a language model, whose base and image tokenizer can be named anew."""

    @app.command(name, help=what)
    def command(
        model: Annotated[str, typer.Option(help=LANGUAGE_MODEL)] = "mini",
        base: Base = None,
        tokenizer: Tokenizer = None,
        count: Annotated[int, typer.Option(min=1, help="Test scenes.")] = 1000,
        seed: Annotated[int, typer.Option(min=0, help="Which scenes, and the noise of drawings.")] = 0,
        as_json: Annotated[bool, typer.Option("--json", help="One JSON object, and nothing else.")] = False,
        batch_size: Annotated[int, typer.Option(min=1)] = batch,
        dtype: Dtype = Precision.float32,
        device: Device = "auto",
        drawing: Annotated[DrawingPrecision | None, _drawing_option(draws)] = None,
    ) -> None:
        quiet(loading=True)
        compute = _compute(device, dtype, drawing)
        evaluate = getattr(import_module(f"seedtok.evaluation.{module}"), f"evaluate_{name}")
        _show(evaluate(model, count, seed, batch_size, base, tokenizer, compute), as_json)


_add(
    "retrieval", "retrieval", TOKENIZER,
    "Table 1: recall of captions by pictures and back, from embeddings and from codes.",
)  # fmt: skip
_add(
    "generation", "generation", TOKENIZER,
    "Table 2: drawings from captions and from codes, beside the real picture.", batch=16, draws=True,
)  # fmt: skip
_add("codebook", "codebook", TOKENIZER, "How many of its codes a tokenizer uses, and how evenly.", scenes=20_000)
_add_lm(
    "captioning", "understanding",
    "Table 3: captions, by pycocoevalcap and by whether they name all of a scene right.",
)  # fmt: skip
_add_lm(
    "vqa", "understanding",
    "Table 3: answers to a question a scene, by VQAv2's accuracy and GQA's exact match.",
)  # fmt: skip
_add_lm(
    "drawing", "drawing",
    "Pictures that the language model draws of captions, beside the diffusion model's own.", batch=16, draws=True,
)  # fmt: skip


def _print(result: dict[str, Any]) -> None:
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
