"""Folders written whole or not at all, and the tensors of a checkpoint read strictly."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from seedtok.errors import CheckpointError
from seedtok.records import json_value


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder that takes the place of `folder` when the block ends well, and else goes away.

    Raises CheckpointError when it cannot be written, such as on a full disk.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary name of `path`'s suffix that takes its place when the block ends well, and else goes away."""
    temporary = path.with_name(f".{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint; raises CheckpointError when it is missing or broken."""
    try:
        record = json_value(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"not a checkpoint: {path} is missing") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CheckpointError(f"cannot read {path}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return record


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file; raises CheckpointError when it is missing, truncated or broken."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"not a checkpoint: {path} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None


def check_tensors(own: dict[str, Tensor], found: dict[str, Tensor], where: str) -> None:
    """Raises CheckpointError naming the first tensor that is missing, extra or of another shape."""
    for problem, names in (
        ("lacks tensor", own.keys() - found.keys()),
        ("has an extra tensor", found.keys() - own.keys()),
    ):
        if names:
            raise CheckpointError(f"{where} {problem} {min(names)!r} ({len(names)} in all)")
    for name, tensor in own.items():
        if tensor.shape != found[name].shape:
            raise CheckpointError(
                f"{where}: tensor {name!r} is {tuple(found[name].shape)}; expected {tuple(tensor.shape)}"
            )


def load_strictly(module: nn.Module, found: dict[str, Tensor], where: str) -> None:
    """Copies every tensor into a module, in the module's dtype; raises CheckpointError as `check_tensors` does."""
    own = module.state_dict()
    check_tensors(own, found, where)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


def assign_strictly(module: nn.Module, found: dict[str, Tensor], where: str, dtypes: dict[str, torch.dtype]) -> None:
    """Makes tensors a module's own, such as one on the meta device: what is in the right dtype is not copied.

    `dtypes` are of floating-point tensors by the start of their names, the longest that fits, "" for the others. Raises
    CheckpointError as `check_tensors` does.
    """
    check_tensors(module.state_dict(), found, where)
    kinds = sorted(dtypes.items(), key=lambda kind: -len(kind[0]))
    for name, tensor in found.items():
        if tensor.is_floating_point():
            found[name] = tensor.to(next(dtype for start, dtype in kinds if name.startswith(start)))
    module.load_state_dict(found, strict=True, assign=True)
