"""The package's own parts, in the place of those that a comparison would train first."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from seedtok.core.checkpoint import checkpoint_folder
from seedtok.core.errors import ConfigError
from seedtok.core.hub import resolve
from seedtok.mini.parts import holds_checkpoint, result
from seedtok.tokenizer.seed import SeedTokenizer
from seedtok.training.checkpoints import holds_run

COPIED = ("vision", "opt", "diffusion", "eval_clip", "judge")  # a part of that name lies in the package as it is
OF_TOKENIZER = ("stage1", "stage2")  # the shipped tokenizer, of which stage I's result is the embedder


def check_none_trained(out: Path, names: Iterable[str]) -> None:
    """Raises ConfigError where one of the parts that the package has was trained, or begun, in the folder of runs."""
    if trained := [name for name in _shipped(names) if holds_run(result(out, name).parent)]:
        raise ConfigError(
            f"{out} has trained {trained[0]} itself: go on without the package's parts, or choose another folder"
        )


def _shipped(names: Iterable[str]) -> list[str]:
    return [name for name in names if name in COPIED + OF_TOKENIZER]


def place_shipped(out: Path, names: Iterable[str]) -> list[str]:
    """Puts those of the parts that the package has into the folder of runs, and returns the names of new ones there.

    Raises as `check_none_trained` does.
    """
    check_none_trained(out, names := list(names))
    placed = [name for name in _shipped(names) if not holds_checkpoint(result(out, name))]
    for name in placed:
        if name in COPIED:
            with checkpoint_folder(result(out, name)) as new:
                shutil.copytree(resolve("mini", name), new, dirs_exist_ok=True)
            continue
        tokenizer = SeedTokenizer.from_pretrained("mini")
        (tokenizer if name == "stage2" else tokenizer.embedder).save_pretrained(result(out, name))
    return placed
