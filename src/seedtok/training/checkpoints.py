"""Training checkpoints: folders of safetensors and JSON, written whole or not at all, nothing unpickled.

In a sharded run every rank writes its rows of each tensor to NAME.RANK-of-RANKS.safetensors; any number of ranks can
read them.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from seedtok.core.atomic import (
    atomic_folder,
    remove,
    remove_folder,
    remove_leftovers,
    replace_folder,
    temporary_path,
    to_disk,
)
from seedtok.core.device import rank_and_world
from seedtok.core.errors import CheckpointError
from seedtok.core.files import read_json, read_tensors, write_tensors
from seedtok.training.distributed import objects_of_all_ranks

T = TypeVar("T")
State = dict[str, dict[str, Tensor]]  # tensors by name, by the file that holds them


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read: `tensors` of NAME.safetensors and `records` of NAME.json, by NAME."""

    tensors: State
    records: dict[str, dict[str, Any]]

    @property
    def step(self) -> int:
        return self.record("state")["step"]

    @property
    def samples(self) -> int | None:
        """How many samples all ranks together had seen; None in checkpoints that do not say."""
        return self.record("state").get("samples")

    @property
    def samples_per_step(self) -> int | None:
        """How many samples all ranks together saw in a step; None in checkpoints that do not say."""
        return self.record("state").get("samples_per_step")

    def tensors_of(self, name: str) -> dict[str, Tensor]:
        """Raises CheckpointError where the checkpoint has none of this name."""
        return self._part(self.tensors, name)

    def record(self, name: str) -> dict[str, Any]:
        """Raises CheckpointError where the checkpoint has none of this name."""
        return self._part(self.records, name)

    @staticmethod
    def _part(parts: dict[str, T], name: str) -> T:
        if name not in parts:
            raise CheckpointError(f"the checkpoint has no {name!r}: it is incomplete, or its run stores none")
        return parts[name]


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
        if value.shape not in (parameter.shape, torch.Size()):
            raise CheckpointError(f"optimiser state for {name!r} is {tuple(value.shape)}; not {tuple(parameter.shape)}")
        if isinstance(parameter, DTensor) and value.shape == parameter.shape:
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        # in the parameter's own memory format: fused optimisers walk through both in the order of memory
        like = parameter if value.shape == parameter.shape else value
        optimizer.state[parameter][field] = torch.empty_like(like, requires_grad=False).copy_(value)


def save_checkpoint(out: Path, step: int, files: State, records: dict[str, Any], keep: int) -> None:
    """Writes OUT/checkpoints/STEP, of NAME.safetensors and NAME.json files, and drops all but the newest `keep`.

    Raises CheckpointError when it cannot be written, and then leaves nothing behind.
    """
    with atomic_folder(_folder(out, step)) as new:
        _write(new, files, "", records)
    _drop_old(out, keep)


def save_by_main_rank(out: Path, step: int, files: State, records: dict[str, Any], keep: int) -> None:
    """As `save_checkpoint`, called on every rank, of which the first writes; raises CheckpointError on all of them."""
    rank, ranks = rank_and_world()
    if ranks == 1:
        save_checkpoint(out, step, files, records, keep)
    elif problem := _problem_of_any(lambda: save_checkpoint(out, step, files, records, keep) if rank == 0 else None):
        raise CheckpointError(problem)


def save_sharded_checkpoint(out: Path, step: int, files: State, records: dict[str, Any], keep: int) -> None:
    """As `save_checkpoint`, called on every rank, each of which writes its own part of what is sharded.

    Raises CheckpointError on all ranks when it cannot be written on one.
    """
    folder, rank, ranks = _folder(out, step), dist.get_rank(), dist.get_world_size()
    shared = [temporary_path(folder.parent)]
    dist.broadcast_object_list(shared)
    temporary = shared[0]

    def begin() -> None:
        if rank == 0:
            remove_leftovers(folder.parent)
            temporary.mkdir(parents=True)

    def write() -> None:
        own = {name: _own_part(tensors, rank) for name, tensors in files.items()}
        to_disk(*_write(temporary, own, f".{rank}-of-{ranks}", records if rank == 0 else {}))

    def end() -> None:
        if rank == 0:
            replace_folder(temporary, folder)
            _drop_old(out, keep)

    for part in (begin, write, end):
        if problem := _problem_of_any(part):
            if rank == 0:
                remove(temporary)
            raise CheckpointError(f"cannot write {folder}: {problem}")


def _problem_of_any(act: Callable[[], None]) -> str:
    """Why an act failed on a rank, the first of those on which it did; "" if it did on none, and then all are done."""
    problem = ""
    try:
        act()
    except (OSError, SafetensorError, CheckpointError) as error:
        problem = str(error) or type(error).__name__
    return next(filter(None, objects_of_all_ranks(problem)), "")


def _folder(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"{step:08d}"


def _own_part(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """This rank's rows of what is sharded; the first rank has the rest too."""
    sharded = {name: tensor.to_local() for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    return sharded | {name: tensor for name, tensor in tensors.items() if rank == 0 and name not in sharded}


def _write(folder: Path, files: State, suffix: str, records: dict[str, Any]) -> list[Path]:
    """Writes tensors and records; returns their files."""
    written = []
    for name, tensors in files.items():
        written.append(folder / f"{name}{suffix}.safetensors")
        write_tensors(written[-1], tensors)
    for name, record in records.items():
        written.append(folder / f"{name}.json")
        written[-1].write_text(json.dumps(record, indent=1))
    return written


def _drop_old(out: Path, keep: int) -> None:
    for old in list_checkpoints(out)[:-keep]:
        remove_folder(old)


def list_checkpoints(out: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folder = out / "checkpoints"
    return sorted(p for p in folder.glob("[0-9]*") if p.is_dir()) if folder.is_dir() else []


def holds_run(folder: Path) -> bool:
    """Whether a folder is that of a run: it has checkpoints, or the configuration that a run writes first."""
    if list_checkpoints(folder):
        return True
    try:
        return {"recipe", "stage", "optimization"} <= read_json(folder / "config.json").keys()
    except CheckpointError:
        return False


def load_checkpoint(out: Path) -> Checkpoint:
    """The newest checkpoint of a run; raises CheckpointError when there is none, or one that cannot be read."""
    found = list_checkpoints(out)
    if not found:
        raise CheckpointError(f"nothing to resume: no checkpoint under {out / 'checkpoints'}")
    names = {path.name.split(".")[0] for path in found[-1].glob("*.safetensors")}
    tensors = {name: _read(found[-1], name) for name in names}
    records: dict[str, Any] = {path.stem: read_json(path) for path in found[-1].glob("*.json")}
    state = records.get("state", {"step": 0})
    for name in ("step", "samples"):
        value = state.get(name, 0 if name == "samples" else None)
        if type(value) is not int or not 0 <= value < 1 << 63:
            raise CheckpointError(f"{found[-1] / 'state.json'}: {name} is {str(value)[:40]}; expected a count")
    return Checkpoint(tensors, records)


def _read(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file, or of its parts: what several parts have is cut along its first dimension."""
    whole = folder / f"{name}.safetensors"
    if whole.is_file():
        return read_tensors(whole)
    counts = [p.stem.rpartition("-of-")[2] for p in folder.glob(f"{name}.*-of-*.safetensors")]
    if not counts or not counts[0].isdecimal():
        raise CheckpointError(f"{folder} has parts of {name!r} under other names than {name}.0-of-1.safetensors")
    count = int(counts[0])
    parts = [read_tensors(folder / f"{name}.{rank}-of-{count}.safetensors") for rank in range(count)]
    everywhere = set(parts[-1]) if count > 1 else set()
    try:
        return {
            key: torch.cat([part[key] for part in parts]) if key in everywhere else tensor
            for key, tensor in parts[0].items()
        }
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"the parts of {name!r} in {folder} do not fit together: {error}") from None
