"""The command line: the `seedtok` program, with the command train."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import TextIOWrapper
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from seedtok import __version__
from seedtok.cli import chat as cli_chat
from seedtok.cli import convert as cli_convert
from seedtok.cli import data as cli_data
from seedtok.cli import demo as cli_demo
from seedtok.cli import evaluate as cli_evaluate
from seedtok.cli import export as cli_export
from seedtok.cli import finetune as cli_finetune
from seedtok.cli import info as cli_info
from seedtok.cli import lm as cli_lm
from seedtok.cli import plan as cli_plan
from seedtok.cli import reproduce as cli_reproduce
from seedtok.cli import serve as cli_serve
from seedtok.cli import tokenizer as cli_tokenizer
from seedtok.cli.support import check_folder, fail, quiet, recipes, run_to_train, say
from seedtok.core.cores import spare_cores, threads_are_given, use_no_more_threads_than_cores
from seedtok.core.errors import ConfigError, SeedTokError
from seedtok.core.extras import missing_extra
from seedtok.core.processes import (
    exit_code,
    flush_output,
    is_main_rank,
    keep_freed_memory,
    open_missing_streams,
    terminate_like_interrupt,
)

EMPTY = "seedtok.empty"  # in a context's notes: whether an argument is empty


def _options_with_value(command: Any) -> Iterator[str]:
    """The options of a command, and of those below it, that a value follows, which may be an empty text."""
    for parameter in command.params:
        if getattr(parameter, "is_flag", True) is False:  # arguments have none
            yield from parameter.opts
    for below in getattr(command, "commands", {}).values():
        yield from _options_with_value(below)


class _Commands(TyperGroup):
    """Reports errors of this package and of files in one line, with exit code 2.

    An interrupted command exits with 130, or with 143 for SIGTERM.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Notes an empty argument: as a path it would be the working directory, with all that is below it."""
        taking = set(_options_with_value(self)) if "" in args else set[str]()
        ctx.meta[EMPTY] = any(not given and before not in taking for before, given in pairwise(["", *args]))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):  # file names may not be encodable
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        if ctx.params.get("debug"):
            return super().invoke(ctx)
        try:
            if ctx.meta[EMPTY]:
                raise ConfigError("an empty argument: is a variable not set?")
            return super().invoke(ctx)
        except BrokenPipeError:  # the reader of stdout has closed the pipe
            raise typer.Exit(1) from None
        except KeyboardInterrupt as interrupt:
            raise typer.Exit(exit_code(interrupt)) from None
        except (SeedTokError, OSError) as error:  # anything else is a bug and shows its traceback
            fail(error)
            raise typer.Exit(2) from None
        except ImportError as error:
            missing = missing_extra(error)
            if missing is None:
                raise
            fail(missing)
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    help="Encode images as 32 discrete causal codes, decode them, and run SEED-OPT.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"seedtok {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None: ...


for command in (
    cli_tokenizer.encode,
    cli_tokenizer.tokenize,
    cli_tokenizer.decode,
    cli_tokenizer.reconstruct,
    cli_tokenizer.imagine,
    cli_lm.caption,
    cli_lm.ask,
    cli_lm.draw,
    cli_chat.chat,
):
    app.command()(command)


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(metavar="RECIPE", help="The recipe, such as mini.stage1.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, such as optimization.lr=1e-4.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder of the run.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N or mps; leave it at auto with `accelerate launch`.")
    ] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in DIR from its last checkpoint.")] = False,
    auto: Annotated[bool, typer.Option("--auto-resume", help="Resume if DIR has a checkpoint, else begin.")] = False,
    show: Annotated[bool, typer.Option("--list", help="List the recipes and exit.")] = False,
) -> None:
    """Train a part of the tokenizer or of SEED-OPT by a recipe.

    With --resume the run continues with its own settings. The recipe may then be omitted, and only settings that do not
    change what the steps learn from may be given, or where its data and checkpoints lie now. On CPUs the number of
    threads is OMP_NUM_THREADS, or else the number of free cores. Ctrl-C or SIGTERM, and a closed terminal, finish the
    step, save a checkpoint and exit with 130 or 143; a second Ctrl-C, or a SIGTERM ten seconds later, stops at once.
    """
    quiet(loading=True)
    if show:
        for name, function in recipes().items():
            what, *_ = (function.__doc__ or "").strip().split("\n")
            say(f"{name:<24}{what}")
        return
    if folder is None or (recipe is None and not resume):
        raise ConfigError("expected a recipe and --out DIR; `seedtok train --list` lists the recipes")
    config, resume = run_to_train(folder, recipe, overrides or [], resume, auto)
    import torch

    from seedtok.core.device import set_training_device
    from seedtok.training.checkpoints import holds_run
    from seedtok.training.loop import train as run

    if is_main_rank():
        check_folder(folder, holds_run, "run")
    if not threads_are_given():
        torch.set_num_threads(spare_cores())
    if device != "auto":
        set_training_device(device)
    final = run(config, folder, resume)
    say(f"trained: {final}")


app.add_typer(cli_evaluate.app, name="evaluate")
app.add_typer(cli_data.app, name="data")


app.command()(cli_info.info)
app.command()(cli_finetune.finetune)
app.command()(cli_plan.plan)
app.command()(cli_convert.convert)
app.command()(cli_export.export)
app.command()(cli_demo.demo)
app.command()(cli_serve.serve)
app.command()(cli_reproduce.reproduce)


def main() -> None:
    """The `seedtok` command."""
    keep_freed_memory()
    use_no_more_threads_than_cores()
    terminate_like_interrupt()
    open_missing_streams()
    try:
        app(args=sorted(sys.argv[1:], key=lambda argument: argument != "--debug"))  # --debug may be anywhere
    except SystemExit as end:
        lost = flush_output()
        if lost is None or end.code:
            raise
        if not isinstance(lost, BrokenPipeError):
            fail(lost)
        sys.exit(1)
    except OSError as error:  # on printing before a command starts, such as --help to a full disk
        if "--debug" in sys.argv:
            raise
        flush_output()
        fail(error)
        sys.exit(2)
