"""`seedtok finetune`: one's own pictures, in half an hour."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seedtok.cli.support import check_folder, quiet, say
from seedtok.core.errors import DataError

Shards = Annotated[
    Path, typer.Argument(metavar="DATA", help="The folder that `seedtok data pack` wrote.", show_default=False)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="STAGE.KEY=VALUE", help="Settings, such as stage1.optimization.lr=1e-4.")
]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder of runs and result.")]
Start = Annotated[str, typer.Option("--model", help="'mini', or a folder of a SEED language model, to start from.")]
Minutes = Annotated[
    float,
    typer.Option(
        min=0, help="About how long to train, on this machine as it is now; measuring before and after comes on top."
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Steps of each of the three stages, instead of minutes.")]
HeldOut = Annotated[float, typer.Option(help="Share of the pictures to measure on and not to learn from.")]
Scenes = Annotated[
    int, typer.Option(min=20, help="Scenes of the mini world to learn from as well, not to forget them.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]


def finetune(
    data: Shards,
    folder: Folder,
    overrides: Overrides = None,
    model: Start = "mini",
    minutes: Minutes = 30.0,
    steps: Steps = None,
    held_out: HeldOut = 0.1,
    scenes: Scenes = 2000,
    device: Device = "auto",
) -> None:
    """Teach the tokenizer and the language model your own pictures and captions; the result is DIR/final.

    What is finished in DIR stays: the same command resumes where an earlier one was stopped. Ctrl-C or SIGTERM, and a
    closed terminal, finish a step and save it.
    """
    quiet(loading=True)
    import torch

    from seedtok.core.cores import spare_cores, threads_are_given
    from seedtok.core.device import device_named, set_training_device
    from seedtok.data.shard_writer import holds_shards
    from seedtok.mini.finetuning.run import Finetuning
    from seedtok.mini.finetuning.run import finetune as run

    if not holds_shards(data):
        raise DataError(f"{data} holds no shards (.tar): write them with `seedtok data pack PICTURES --out SHARDS`")
    if not 0 < held_out < 1:
        raise DataError(f"--held-out {held_out:g}: expected a share above 0 and below 1")
    check_folder(folder, lambda path: (path / "finetuning.json").is_file(), "fine-tuning")
    if not threads_are_given():
        torch.set_num_threads(spare_cores())
    if device != "auto":
        set_training_device(device)
    wanted = Finetuning(data, model, minutes, steps, held_out, scenes, tuple(overrides or ()))
    run(wanted, folder, say, str(device_named(device)))
    say(f"fine-tuned: {folder / 'final'}; try: seedtok caption IMAGES --model {folder / 'final'}")
