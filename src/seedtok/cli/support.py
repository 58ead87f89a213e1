"""What the commands share: consoles, files written whole, one way to load a model and one to find a recipe."""

from __future__ import annotations

import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from seedtok.core.errors import ConfigError, DataError, SeedTokWarning

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from PIL import Image

    from seedtok.tokenizer.seed import SeedTokenizer
    from seedtok.training.config import RunConfig

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class DrawingPrecision(StrEnum):
    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Dtype = Annotated[Precision, typer.Option(help="What the networks compute in, those that draw included.")]
Device = Annotated[str, typer.Option(help="auto (the GPU where there is one, else the CPU), cpu, cuda, cuda:N or mps.")]
DrawingDtype = Annotated[
    DrawingPrecision | None,
    typer.Option(
        "--drawing-dtype",
        help="What the image decoder alone computes in: auto is bfloat16 where that is fast; else as --dtype.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")]


def fail(error: BaseException | str) -> None:
    """One red line on stderr."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = ": ".join(filter(None, (str(error.filename or ""), error.strerror)))
    reason = " ".join(reason.split())
    err.print(Text(f"error: {reason or type(error).__name__}", style="red"), soft_wrap=True)


def say(line: str) -> None:
    """A line on stdout, as it is."""
    out.print(Text(line), soft_wrap=True)


def quiet(loading: bool = False) -> None:
    """Keeps the chatter of transformers and diffusers off the terminal; call it before importing them.

    With `loading` their bars are off too, which takes importing them: for commands that load models by themselves.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", SeedTokWarning)  # ours are for the user: a line each
    warnings.showwarning = _show_warning
    if not loading:
        return
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    enable_progress_bars()  # those of downloads, which the two lines above took along


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """One yellow line on stderr."""
    err.print(Text(f"warning: {' '.join(str(message).split())}", style="yellow"), soft_wrap=True)


def load_tokenizer(model: str, dtype: str = "float32", device: str = "cpu") -> SeedTokenizer:
    """A tokenizer by name, folder or hub id."""
    quiet()
    import torch

    from seedtok.tokenizer.seed import SeedTokenizer

    return SeedTokenizer.from_pretrained(model, dtype=getattr(torch, dtype), device=device)


def drawing_dtype(chosen: DrawingPrecision | None, device: torch.device) -> torch.dtype | None:
    """What the image decoder computes in on a device, where not in the model's own dtype; says so on stderr."""
    import torch

    from seedtok.core.device import computes_bfloat16_fast

    if chosen is None:
        return None
    if chosen == DrawingPrecision.auto:
        chosen = DrawingPrecision.bfloat16 if computes_bfloat16_fast(device) else DrawingPrecision.float32
    if chosen != DrawingPrecision.float32:
        err.print(f"drawing in {chosen.value} (--drawing-dtype float32 for the exact pictures)", soft_wrap=True)
    return getattr(torch, chosen.value)


def generators(count: int, seed: int) -> list[torch.Generator]:
    """One a picture, all alike, so that what is drawn does not depend on the batch."""
    import torch

    return [torch.Generator().manual_seed(seed) for _ in range(count)]


def check_picture_name(path: Path) -> None:
    """Raises DataError for a name under which no picture can be written."""
    from PIL import Image

    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise DataError(f"cannot write a picture as {path}: expected a name that ends in .png or .jpg")


def check_free(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises DataError, before any work, where files that are to be written exist already."""
    there = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if there:
        others = f" and {len(there) - 1} more of {len(paths)}" if len(there) > 1 else ""
        exist = "exist" if len(there) > 1 else "exists"
        raise DataError(f"{there[0]}{others} {exist} already: choose another --out, or give --overwrite")


def check_folder(folder: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """Raises ConfigError for a folder to be written that is not empty, and has nothing of this command's in it."""
    from seedtok.core.atomic import is_empty

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file: --out takes a folder")
    if not is_empty(folder) and not is_ours(folder):
        raise ConfigError(f"{folder} is not empty and holds no {what}: choose an empty or a new folder with --out")


def write_picture(image: Image.Image, path: Path) -> None:
    """Writes a picture, in the format of its suffix, under a temporary name until complete."""
    from PIL import Image as Images

    from seedtok.core.atomic import atomic_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        image.save(temporary, format=Images.registered_extensions()[path.suffix.lower()])


def _file_name(name: str) -> str:
    """A name as a file can have it: without NUL, and of characters that the system's encoding knows."""
    from seedtok.core.records import encodable

    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = encodable(name)
    return name.replace("\0", "_")


def targets(names: list[str], folder: Path) -> list[Path]:
    """A PNG in a folder for each picture's name, with a number where two are alike.

    Raises DataError where one would take the place of the picture it is named after.
    """
    chosen: dict[Path, None] = {}
    sources = {os.path.realpath(name) for name in map(_file_name, names)}
    for name in names:
        stem = Path(_file_name(name)).stem or "picture"
        path, number = folder / f"{stem}.png", 1
        while path in chosen:
            number += 1
            path = folder / f"{stem}-{number}.png"
        if os.path.realpath(path) in sources:
            raise DataError(f"{path} would overwrite an original: choose another folder with --out")
        chosen[path] = None
    return list(chosen)


def recipes() -> dict[str, Callable[[], RunConfig]]:
    """The public functions of the recipe modules, by names such as "mini.stage1"."""
    from inspect import isfunction

    from seedtok.mini import recipes as mini
    from seedtok.recipes import paper

    return {
        f"{size}.{name}": value
        for size, module in (("mini", mini), ("paper", paper))
        for name, value in vars(module).items()
        if isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def recipe_named(name: str, overrides: Sequence[str]) -> RunConfig:
    """A recipe's configuration with overrides; raises ConfigError for one that does not exist, naming the near miss."""
    from difflib import get_close_matches

    from seedtok.training.config import with_overrides

    known = recipes()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"unknown recipe {name!r}; {hint}")
    return with_overrides(known[name](), overrides)


def resumed_run(folder: Path, recipe: str | None, overrides: Sequence[str]) -> RunConfig:
    """The configuration of the run in a folder, with overrides, of which training refuses those that may not change.

    Raises ConfigError for another recipe than the run's, and CheckpointError where there is no run.
    """
    from seedtok.training.config import with_overrides
    from seedtok.training.runs import read_config

    if recipe is not None and "=" in recipe:  # the recipe left out, and a setting in its place
        recipe, overrides = None, [recipe, *overrides]
    config = read_config(folder, (function() for function in recipes().values()))
    if recipe not in (None, config.recipe):
        raise ConfigError(f"{folder} is a run of {config.recipe}, not of {recipe}: leave the recipe out")
    return with_overrides(config, overrides)
