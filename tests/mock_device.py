"""A device that no machine has: its tensors live on the CPU, and refuse to meet those of the CPU, as a GPU's do.

Its name is "meta", since that is the one name besides "cpu" under which every build of torch makes tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
aten = torch.ops.aten


class Away(Tensor):
    """A tensor on the mock device, around one of the CPU that holds its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Away:
        if inner.dtype == torch.float64:  # as on Apple's GPUs
            raise TypeError("the mock device has no float64")
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


@contextmanager
def mock_device() -> Iterator[torch.device]:
    """Within, `.to(DEVICE)` and `device=DEVICE` work, and operations across devices fail as they do with a GPU."""
    autocast = torch.autocast

    def at_home(device_type: str, *args: Any, **options: Any) -> torch.autocast:  # there is none for "meta"
        return autocast("cpu" if device_type == DEVICE.type else device_type, *args, **options)

    with patch("torch.autocast", at_home), _Operations(), _Constructors():
        yield DEVICE


class _Constructors(TorchFunctionMode):
    """`torch.tensor`, which fills a tensor below where the other mode sees it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if func is torch.tensor and device is not None:
            return torch.tensor(*args, **kwargs | {"device": None}).to(device)
        return func(*args, **kwargs)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    away = [isinstance(x, Away) for x in given]
    moves = func in (aten._to_copy.default, aten.copy_.default, aten.index_put_.default)
    lone = [x for x in given if not isinstance(x, Away) and x.ndim]  # numbers may come from the CPU
    if any(away) and lone and func is not aten.copy_.default:
        raise RuntimeError(f"{func}: expected all tensors on one device; one of shape {tuple(lone[0].shape)} is on cpu")
    if isinstance(kwargs.get("generator"), torch.Generator) and kwargs["generator"].device.type == "cpu" and any(away):
        raise RuntimeError(f"{func}: expected a generator of the mock device, not of the CPU")
    target = kwargs.get("device")
    inner_kwargs = kwargs | ({"device": torch.device("cpu")} if target is not None else {})
    inner = func(*tree_map(_inner, args), **tree_map(_inner, inner_kwargs))
    on = torch.device(target) == DEVICE if target is not None else any(away)
    if func is aten.copy_.default:
        on = isinstance(args[0], Away)
    if not on or (moves and target is not None and torch.device(target) != DEVICE):
        return inner
    out = tree_map(lambda x: Away(x) if isinstance(x, Tensor) else x, inner)
    return return_and_correct_aliasing(func, args, kwargs, out) if any(away) else out


def _inner(x: Any) -> Any:
    return x.inner if isinstance(x, Away) else x
