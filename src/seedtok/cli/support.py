"""Shared by the commands: options, output, checks of files to write, models and recipes by name."""

from __future__ import annotations

import logging
import os
import warnings
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from seedtok.core.errors import ConfigError, DataError, SeedTokWarning
from seedtok.core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from PIL import Image

    from seedtok.tokenizer.familiarity import CheckedEncoder
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


Dtype = Annotated[Precision, typer.Option(help="Dtype of all networks.")]
EncodingDtype = Annotated[
    DrawingPrecision,
    typer.Option(help="Dtype of all networks; auto is bfloat16 for most products where that is fast."),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:N or mps.")]
DrawingDtype = Annotated[
    DrawingPrecision | None,
    typer.Option(
        "--drawing-dtype",
        help="Dtype of the image decoder: auto is bfloat16 where that is fast; by default as --dtype.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]


def fail(error: BaseException | str) -> None:
    """Prints an error in one red line on stderr."""
    reason = str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = ": ".join(filter(None, (str(error.filename or ""), error.strerror)))
    reason = " ".join(reason.split())
    err.print(Text(f"error: {one_line(reason) or type(error).__name__}", style="red"), soft_wrap=True)


def say(line: str) -> None:
    """Prints a line on stdout, without markup or wrapping."""
    out.print(Text(line), soft_wrap=True)


def quiet(loading: bool = False) -> None:
    """Suppresses the messages of transformers and diffusers; to be called before they are imported.

    With `loading` it imports them and disables their progress bars, for commands that load models in several places.
    """
    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it speaks of each product of 8 bits
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", SeedTokWarning)  # those of this package are shown, one line each
    warnings.showwarning = _show_warning
    if not loading:
        return
    from diffusers.utils import logging as diffusers_logging
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    enable_progress_bars()  # of downloads, which the loop above disabled too


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Prints a warning in one yellow line on stderr."""
    err.print(Text(f"warning: {' '.join(str(message).split())}", style="yellow"), soft_wrap=True)


def load_tokenizer(
    model: str, dtype: str = "float32", device: str = "cpu", image_decoder: str | None = None,
    lcm_lora: str | None = None,
) -> SeedTokenizer:  # fmt: skip
    """Loads a tokenizer by name, folder or hub id; the last two are as for `SeedTokenizer.draw_by`."""
    quiet()
    from seedtok.tokenizer.seed import SeedTokenizer

    tokenizer = SeedTokenizer.from_pretrained(model, dtype=dtype, device=device)
    tokenizer.draw_by(image_decoder, lcm_lora)
    return tokenizer


def load_encoder(model: str, dtype: str, device: str) -> CheckedEncoder:
    """A tokenizer, as of `load_tokenizer`, that encodes in bulk."""
    from seedtok.tokenizer.familiarity import CheckedEncoder

    return CheckedEncoder(load_tokenizer(model, dtype, device))


def drawing_beside(chosen: DrawingPrecision | None, dtype: Precision, device: torch.device) -> torch.dtype | None:
    """As `drawing_dtype`, of pictures that are only looked at: auto by default beside float32.

    Raises ConfigError for another dtype than that of the model, where that is not float32.
    """
    if dtype == Precision.float32:
        return drawing_dtype(chosen or DrawingPrecision.auto, device)
    if chosen not in (None, DrawingPrecision.auto) and chosen.value != dtype.value:
        raise ConfigError(f"--drawing-dtype {chosen.value} needs --dtype float32; with {dtype.value} leave it out")
    return None


def drawing_dtype(chosen: DrawingPrecision | None, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of the image decoder, None for the model's own; prints it on stderr."""
    import torch

    from seedtok.core.device import computes_bfloat16_fast

    if chosen is None:
        return None
    if chosen == DrawingPrecision.auto:
        chosen = DrawingPrecision.bfloat16 if computes_bfloat16_fast(device) else DrawingPrecision.float32
    if chosen != DrawingPrecision.float32:
        err.print(f"drawing in {chosen.value} (--drawing-dtype float32 for exact results)", soft_wrap=True)
    return getattr(torch, chosen.value)


def generators(count: int, seed: int) -> list[torch.Generator]:
    """One generator for each image, with equal seeds, so that images do not depend on the batch."""
    import torch

    return [torch.Generator().manual_seed(seed) for _ in range(count)]


def check_image_name(path: Path) -> None:
    """Raises DataError for a path whose suffix is not that of an image format."""
    from PIL import Image

    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise DataError(f"cannot write an image to {path}: expected a name that ends in .png or .jpg")


def check_free(paths: Sequence[Path], overwrite: bool) -> None:
    """Raises DataError where files that are to be written exist, unless `overwrite`."""
    there = [] if overwrite else [path for path in paths if os.path.lexists(path)]
    if there:
        others = f" and {len(there) - 1} more of {len(paths)}" if len(there) > 1 else ""
        exist = "exist" if len(there) > 1 else "exists"
        raise DataError(f"{there[0]}{others} {exist} already: choose another --out, or give --overwrite")


def check_folder(folder: Path, is_ours: Callable[[Path], bool], what: str) -> None:
    """Raises ConfigError for an output folder that is not empty and, by `is_ours`, holds no `what` of this package."""
    from seedtok.core.atomic import is_empty

    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; expected a folder for --out")
    if not is_empty(folder) and not is_ours(folder):
        raise ConfigError(f"{folder} is not empty and holds no {what}: choose an empty or a new folder with --out")


def write_image(image: Image.Image, path: Path) -> None:
    """Writes an image atomically, in the format of the suffix."""
    from PIL import Image as Images

    from seedtok.core.atomic import atomic_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        image.save(temporary, format=Images.registered_extensions()[path.suffix.lower()])


def _file_name(name: str) -> str:
    """A name that is valid for files: without NUL, and encodable by the file system."""
    from seedtok.core.records import encodable

    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = encodable(name)
    return name.replace("\0", "_")


def png_paths(names: list[str], folder: Path) -> list[Path]:
    """A PNG path in a folder for each image name, numbered where names are equal.

    Raises DataError where a path is that of one of the images, and where the folder is a file or named like an image.
    """
    from seedtok.core.image_search import SUFFIXES

    if folder.is_file() or (folder.suffix.lower() in SUFFIXES and not folder.is_dir()):
        raise DataError(f"--out {folder}: expected a folder, for one PNG file an image")
    chosen: dict[Path, None] = {}
    last: dict[str, int] = {}  # the number of the last path of a name
    sources = {os.path.realpath(name) for name in map(_file_name, names)}
    for name in names:
        stem = Path(_file_name(name)).stem or "image"
        number = last.get(stem, 0) + 1
        while (path := folder / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")) in chosen:
            number += 1
        last[stem] = number
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
        if isfunction(value) and value.__module__.startswith(module.__name__) and not name.startswith("_")
    }


def recipe_named(name: str, overrides: Sequence[str]) -> RunConfig:
    """The configuration of a recipe with overrides; raises ConfigError for an unknown recipe, with the closest name."""
    from difflib import get_close_matches

    from seedtok.training.config import with_overrides

    known = recipes()
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(known)}"
        raise ConfigError(f"unknown recipe {name!r}; {hint}")
    return with_overrides(known[name](), overrides)


def run_to_train(
    folder: Path, recipe: str | None, overrides: Sequence[str], resume: bool, auto: bool
) -> tuple[RunConfig, bool]:  # fmt: skip
    """The configuration of a run in a folder, and whether it is resumed, with `auto` only from a checkpoint.

    Raises as `resumed_run` and `recipe_named` do.
    """
    from seedtok.training.checkpoints import list_checkpoints

    if resume or (auto and list_checkpoints(folder)):
        return resumed_run(folder, recipe, overrides), True
    return recipe_named(recipe or "", overrides), False


def resumed_run(folder: Path, recipe: str | None, overrides: Sequence[str]) -> RunConfig:
    """The configuration of the run in a folder, with overrides; training checks which of them are allowed.

    Raises ConfigError for another recipe than that of the run, and CheckpointError where there is no run.
    """
    from seedtok.training.config import with_overrides
    from seedtok.training.runs import read_config

    if recipe is not None and "=" in recipe:  # the recipe is omitted, and this is a setting
        recipe, overrides = None, [recipe, *overrides]
    config = read_config(folder, (function() for function in recipes().values()))
    if recipe not in (None, config.recipe):
        raise ConfigError(f"{folder} is a run of {config.recipe}, not of {recipe}: omit the recipe")
    return with_overrides(config, overrides)
