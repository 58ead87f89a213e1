"""The files of a checkpoint, read strictly."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seedtok.core.errors import CheckpointError
from seedtok.core.records import json_value


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


def tensor_shapes(path: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file's tensors, from its header alone; raises CheckpointError as `read_tensors`."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"not a checkpoint: {path} is missing") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None


class Uninitialised(TorchFunctionMode):
    """Within, the functions of `torch.nn.init` do nothing: for modules whose weights are about to be loaded.

    On the meta device there is nothing to fill either, and for trying torch would import its compiler, in a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def built_for(record: Any, path: Path) -> Iterator[None]:
    """Within, a model is built by the sizes in `record` on the meta device, where it takes no memory.

    `path` is the safetensors file that its tensors will be read from: a model has no more layers than that has tensors.
    Raises CheckpointError for that and for other sizes that no model can have.
    """
    where, count = path.parent / "config.json", len(tensor_shapes(path))
    for layers in _values_of("layers", record):
        if not isinstance(layers, int) or not 0 <= layers <= count:
            raise CheckpointError(f"{where} asks for {layers} layers, but {path.name} has {count} tensors")
    for heads in _values_of("heads", record):  # no tensor has this size, so nothing else would tell
        if not isinstance(heads, int) or heads < 1:
            raise CheckpointError(f"{where} asks for {heads} attention heads; expected one or more")
    try:
        with torch.device("meta"), Uninitialised():
            yield
    except CheckpointError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, AssertionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{where} has sizes that no model can have: {reason}") from None


def _values_of(key: str, record: Any) -> Iterator[Any]:
    """Every value under a key of a JSON object, at any depth."""
    if isinstance(record, dict):
        for name, value in record.items():
            if name == key:
                yield value
            yield from _values_of(key, value)


def check_finite(found: dict[str, Tensor], where: str) -> None:
    """Raises CheckpointError naming the first tensor that holds a NaN or an infinity."""
    for name, tensor in found.items():
        if tensor.is_floating_point() and tensor.numel():
            least, most = torch.aminmax(tensor.detach())  # one pass and no copy; a NaN is both
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
    """Makes tensors a module's own, such as one on the meta device: what is in the right dtype is not copied.

    `dtypes` are of floating-point tensors by the start of their names, the longest that fits, "" for the others. Raises
    CheckpointError as `check_tensors` and `check_finite` do.
    """
    check_tensors(module.state_dict(), found, where)
    check_finite(found, where)
    kinds = sorted(dtypes.items(), key=lambda kind: -len(kind[0]))
    for name, tensor in found.items():
        if tensor.is_floating_point():
            found[name] = tensor.to(next(dtype for start, dtype in kinds if name.startswith(start)))
    module.load_state_dict(found, strict=True, assign=True)
