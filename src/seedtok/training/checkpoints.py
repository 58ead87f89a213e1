"""Training checkpoints: folders of safetensors and JSON, written whole or not at all, nothing unpickled."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from seedtok.errors import CheckpointError

State = dict[str, dict[str, Tensor]]


def _flatten_optimizer(optimizer: torch.optim.Optimizer, names: dict[int, str]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            out[f"{names[id(parameter)]}//{key}"] = torch.as_tensor(value)
    return out


def optimizer_state(optimizer: torch.optim.Optimizer, module: torch.nn.Module) -> dict[str, Tensor]:
    """An optimiser's state by parameter name: {"NAME//exp_avg": tensor, ...}."""
    return _flatten_optimizer(optimizer, {id(p): n for n, p in module.named_parameters()})


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, module: torch.nn.Module, state: dict[str, Tensor]
) -> None:
    """Restores `optimizer_state`; raises CheckpointError for a parameter that is not there."""
    parameters = dict(module.named_parameters())
    for key, value in state.items():
        name, _, field = key.partition("//")
        if name not in parameters:
            raise CheckpointError(f"optimiser state for {name!r}, which this stage does not train")
        optimizer.state[parameters[name]][field] = value.clone()


def write_folder(folder: Path, files: State, records: dict[str, Any]) -> None:
    """Writes NAME.safetensors and NAME.json files into a new folder, under a temporary name until complete."""
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, tensors in files.items():
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / f"{name}.safetensors")
        for name, record in records.items():
            (temporary / f"{name}.json").write_text(json.dumps(record, indent=1))
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def save_checkpoint(out: Path, step: int, files: State, records: dict[str, Any], keep: int) -> None:
    """Writes OUT/checkpoints/STEP and drops all but the newest `keep`."""
    write_folder(out / "checkpoints" / f"{step:08d}", files, records)
    for old in list_checkpoints(out)[:-keep]:
        shutil.rmtree(old)


def list_checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = out / "checkpoints"
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def load_checkpoint(out: Path) -> tuple[State, dict[str, Any]]:
    """The newest checkpoint of a run: its tensors by file, its records by file.

    Raises CheckpointError when the run has none, or one that cannot be read.
    """
    found = list_checkpoints(out)
    if not found:
        raise CheckpointError(f"nothing to resume: no checkpoint under {out / 'checkpoints'}")
    try:
        files = {p.stem: load_file(p) for p in found[-1].glob("*.safetensors")}
        records = {p.stem: json.loads(p.read_text()) for p in found[-1].glob("*.json")}
    except Exception as error:
        raise CheckpointError(f"cannot read checkpoint {found[-1]}: {error}") from None
    return files, records
