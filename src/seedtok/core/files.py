"""JSON and safetensors files of a checkpoint: read, written, and loaded strictly into modules."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seedtok.core.atomic import readable_as_new
from seedtok.core.errors import CheckpointError
from seedtok.core.kinds import stored_tensors
from seedtok.core.records import json_value

BLOCK, BLOCKS = 2**16, 64  # of a file that `hash_of_files` reads: bytes, and at least how many


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; raises CheckpointError when the file is missing, broken or holds something else."""
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


def hash_of_files(folder: Path, pattern: str = "*") -> str:
    """16 hexadecimal digits that tell a checkpoint, or its files that match `pattern`, from others, wherever it lies.

    Of a large file its size and 64 blocks, evenly spaced, stand for all of it: that takes seconds for any model, and
    two trainings of one size differ in nearly every block. Raises CheckpointError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    try:
        for path in sorted(path for path in folder.rglob(pattern) if path.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode(errors="replace"))
            with path.open("rb") as file:
                for start in range(0, size, max(BLOCK, size // BLOCKS)):
                    file.seek(start)
                    digest.update(file.read(BLOCK))
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename or folder}: {error.strerror or error}") from None
    return digest.hexdigest()[:16]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; raises CheckpointError when it is missing, truncated or broken."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"not a checkpoint: {path} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes a safetensors file. Tied weights, which share memory, are stored once for each name.

    Some releases of safetensors make a file that its owner alone can read; this one has the mode of any new file.
    """
    stored: dict[str, Tensor] = {}
    addresses: set[int] = set()
    for name, value in tensors.items():
        tensor = value.detach().cpu().contiguous()
        stored[name] = tensor.clone() if tensor.data_ptr() in addresses else tensor
        addresses.add(tensor.data_ptr())
    save_file(stored, path)
    readable_as_new(path)


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of the tensors of a safetensors file, read from its header; raises as `read_tensors` does."""
    return {name: shape for name, shape, _ in stored_tensors(path)}


class SkipInitialisation(TorchFunctionMode):
    """Within the block, the functions of `torch.nn.init` do nothing, for modules whose weights will be loaded.

    On the meta device they would have no effect, but torch would import its compiler for them, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def built_for(record: Any, path: Path) -> Iterator[None]:
    """Within the block, modules are built on the meta device, where they take no memory.

    `record` is the JSON object with their sizes, and `path` the safetensors file with their tensors. Raises
    CheckpointError for more layers than the file has tensors, and for other sizes that no model can have.
    """
    where, count = path.parent / "config.json", len(tensor_shapes(path))
    for layers in _values_of("layers", record):
        if not isinstance(layers, int) or not 0 <= layers <= count:
            raise CheckpointError(f"{where} has {layers} layers, but {path.name} has {count} tensors")
    for heads in _values_of("heads", record):  # no tensor has this size: it is checked nowhere else
        if not isinstance(heads, int) or heads < 1:
            raise CheckpointError(f"{where} has {heads} attention heads; expected one or more")
    try:
        with torch.device("meta"), SkipInitialisation():
            yield
    except CheckpointError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{where} has sizes that no model can have: {reason}") from None


def _values_of(key: str, record: Any) -> Iterator[Any]:
    """Every value of a key in nested JSON objects."""
    if isinstance(record, dict):
        for name, value in record.items():
            if name == key:
                yield value
            yield from _values_of(key, value)


def check_finite(found: dict[str, Tensor], where: str) -> None:
    """Raises CheckpointError naming the first tensor that holds a NaN or an infinity."""
    for name, tensor in found.items():
        if tensor.is_floating_point() and tensor.numel():
            least, most = torch.aminmax(tensor.detach())  # one pass, no copy; both are NaN where any value is
            if not (torch.isfinite(least) and torch.isfinite(most)):
                raise CheckpointError(f"{where}: tensor {name!r} holds NaN or infinity")


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
    """Copies every tensor into a module, in the module's dtype.

    Raises CheckpointError as `check_tensors` and `check_finite` do.
    """
    own = module.state_dict()
    check_tensors(own, found, where)
    check_finite(found, where)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(found[name])


def assign_strictly(module: nn.Module, found: dict[str, Tensor], where: str, dtypes: dict[str, torch.dtype]) -> None:
    """Replaces the parameters and buffers of a module, such as one on the meta device, by the given tensors.

    `dtypes` maps prefixes of names to the dtype of the floating-point tensors; the longest matching prefix counts, and
    "" matches all. Tensors that have their dtype already are not copied. Raises CheckpointError as `check_tensors` and
    `check_finite` do.
    """
    check_tensors(module.state_dict(), found, where)
    check_finite(found, where)
    by_length = sorted(dtypes.items(), key=lambda item: -len(item[0]))
    for name, tensor in found.items():
        if tensor.is_floating_point():
            found[name] = tensor.to(next(dtype for prefix, dtype in by_length if name.startswith(prefix)))
    module.load_state_dict(found, strict=True, assign=True)
