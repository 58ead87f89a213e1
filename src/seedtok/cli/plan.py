"""The command that estimates the cost of a recipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from seedtok.cli.support import out, quiet, recipe_named, say

if TYPE_CHECKING:
    from seedtok.recipes.plan import Cost, Plan
    from seedtok.training.config import RunConfig

TOKENIZER, LANGUAGE = "5.7 days", "44 hours"  # on 64 V100
PAPER = {
    "stage1": TOKENIZER, "stage2": TOKENIZER, "stage2_published": TOKENIZER, "stage3a": LANGUAGE, "stage3b": LANGUAGE,
}  # fmt: skip


def plan(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Such as paper.stage2.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, such as optimization.batch_size=32.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs.")] = 64,
    gpu: Annotated[str, typer.Option(help="Type of GPU: v100-32gb, a100-80gb or h100.")] = "a100-80gb",
    utilisation: Annotated[float, typer.Option(help="Fraction of the peak performance that is reached.")] = 0.35,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Estimate the cost of a recipe: parameters, memory, operations and days.

    Models are built without weights where they are of full size, or the result of a run that does not exist yet. The
    counts are exact for the recipe's batch. The time follows from them and the utilisation, without data loading and
    communication.
    """
    quiet(loading=True)
    from seedtok.recipes.plan import check_gpus
    from seedtok.recipes.plan import plan as planned

    check_gpus(gpu, gpus, utilisation)
    config = recipe_named(recipe, overrides or [])
    counted, missing = _cost(config)
    planned_for = planned(counted, config, gpu, gpus, utilisation)
    if as_json:
        print(json.dumps({"recipe": recipe, **asdict(planned_for), "memory": planned_for.cost.memory}))
    else:
        _show(recipe, planned_for)
        if missing:
            say(missing)


def _cost(config: RunConfig) -> tuple[Cost, str | None]:
    """The cost of a step, and a note on inputs of the recipe that do not exist yet."""
    import torch

    from seedtok.mini import sizes as mini_size
    from seedtok.mini.text import bert_tokenizer, clip_tokenizer, lm_tokenizer
    from seedtok.recipes import paper_size
    from seedtok.recipes.plan import cost

    config = config.model_copy(update={"stage": config.stage.for_counting()})
    missing = None
    if config.recipe.startswith("paper."):
        words = paper_size.TextTokenizers(bert_tokenizer(), clip_tokenizer(77), lm_tokenizer(2048))
        with torch.device("meta"):
            stage = paper_size.outline(config, words)
    else:
        stage, missing = mini_size.outline(config)
    stage.cast_frozen(getattr(torch, config.frozen_precision))
    batch = config.data.outline(config.optimization.batch_size, config.seed)
    return cost(stage, config, batch), missing


def _show(recipe: str, p: Plan) -> None:
    cost = p.cost
    table = Table(recipe, f"{p.gpus} x {p.gpu}")
    table.columns[1].justify = "right"
    table.add_row("parameters", f"{cost.parameters:,}")
    table.add_row("trained", f"{cost.trained:,} ({100 * cost.trained / cost.parameters:.1f} %)")
    for name in ("frozen_weights", "trained_weights", "gradients", "optimizer", "activations"):
        table.add_row(f"{name.replace('_', ' ')}, a GPU", f"{getattr(cost, name) / 2**30:.2f} GiB")
    table.add_row("memory, a GPU", f"{cost.memory / 2**30:.2f} GiB" + ("" if p.fits else ": does not fit"))
    small = p.flops < 1e11
    table.add_row("operations, a step", f"{p.flops / 1e9:.1f} GFLOP" if small else f"{p.flops / 1e12:,.1f} TFLOP")
    table.add_row(f"step at {100 * p.utilisation:.0f} % of the peak", f"{p.step_seconds:.3g} s")
    table.add_row("samples seen", f"{p.samples:,}")
    table.add_row("time", f"{p.days:.2f} days" if p.days >= 0.01 else f"{p.days * 1440:.2g} minutes")
    out.print(table)
    size, stage = recipe.split(".")
    if size == "paper" and stage in PAPER:
        part = "both stages of the tokenizer" if PAPER[stage] == TOKENIZER else "both stages of SEED-OPT"
        say(f"the paper: {PAPER[stage]} on 64 V100 for {part}; how many steps that were was not published")
    if not p.fits:
        less = " (a caption then has half the negatives)" if stage == "stage1" else ""
        say(f"halve optimization.batch_size and double optimization.accumulate{less}, or take another GPU")
