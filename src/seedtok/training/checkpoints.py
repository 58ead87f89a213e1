"""Training checkpoints: folders of safetensors and JSON, written whole or not at all, nothing unpickled."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seedtok.errors import CheckpointError
from seedtok.files import read_json, read_tensors, whole_folder

State = dict[str, dict[str, Tensor]]


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """An optimiser's state by parameter name: {"NAME//exp_avg": tensor, ...}."""
    names = {id(p): n for n, p in module.named_parameters()}
    return {
        f"{names[id(parameter)]}//{key}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module, state: dict[str, Tensor]) -> None:
    """Restores `optimizer_state`; raises CheckpointError for a parameter that is not there."""
    parameters = dict(module.named_parameters())
    for key, value in state.items():
        name, _, field = key.partition("//")
        if name not in parameters:
            raise CheckpointError(f"optimiser state for {name!r}, which this stage does not train")
        parameter = parameters[name]
        # in the parameter's own memory format: fused optimisers walk through both in the order of memory
        like = parameter if value.shape == parameter.shape else value
        optimizer.state[parameter][field] = torch.empty_like(like, requires_grad=False).copy_(value)


def save_checkpoint(out: Path, step: int, files: State, records: dict[str, Any], keep: int) -> None:
    """Writes OUT/checkpoints/STEP, of NAME.safetensors and NAME.json files, and drops all but the newest `keep`.

    Raises CheckpointError when it cannot be written, and then leaves nothing behind.
    """
    with whole_folder(out / "checkpoints" / f"{step:08d}") as new:
        for name, tensors in files.items():
            plain: dict[str, Tensor] = {}
            seen: set[int] = set()
            for key, value in tensors.items():
                tensor = value.detach().cpu().contiguous()
                plain[key] = tensor.clone() if tensor.data_ptr() in seen else tensor  # tied weights are written twice
                seen.add(tensor.data_ptr())
            save_file(plain, new / f"{name}.safetensors")
        for name, record in records.items():
            (new / f"{name}.json").write_text(json.dumps(record, indent=1))
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
    files = {p.stem: read_tensors(p) for p in found[-1].glob("*.safetensors")}
    records: dict[str, Any] = {p.stem: read_json(p) for p in found[-1].glob("*.json")}
    return files, records
