"""Where and how a model runs: devices, dtypes, ranks, eval mode; modules that move and cast with all their parts."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seedtok.core.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
M = TypeVar("M", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")


def dtype_named(name: str | torch.dtype) -> torch.dtype:
    """The floating-point dtype of a name such as "bfloat16"; a `torch.dtype` is returned unchanged.

    Raises ConfigError for anything else.
    """
    if isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype {name!r}: expected {', '.join(DTYPES)}")
    return getattr(torch, name)


def device_named(name: str | int | torch.device) -> torch.device:
    """The device of a name; "auto" is the first CUDA GPU, or else Apple's GPU (mps), or else the CPU.

    A number is that of a CUDA GPU, and a `torch.device` is returned unchanged. Raises ConfigError for an unknown name,
    and for a device that this machine or this build of torch does not have.
    """
    if isinstance(name, torch.device):
        return name
    name = f"cuda:{name}" if isinstance(name, int) else name
    if name == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(gpu)
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise ConfigError(f"unknown device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    kind, _, number = name.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: there is no Apple GPU, or this build of torch cannot use it; use auto or cpu")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ConfigError(f"device {name}: torch {torch.__version__} finds no CUDA GPU; use auto or cpu")
        if int(number or 0) >= count:
            raise ConfigError(f"device {name}: there are {count} CUDA GPUs, cuda:0 to cuda:{count - 1}")
    return torch.device(name)


def set_training_device(name: str) -> None:
    """Sets the device on which accelerate trains in this process, by the environment variables that it reads.

    Raises ConfigError as `device_named` does, and for a GPU where `accelerate launch` or torchrun has started several
    processes, each of which has its own.
    """
    device = device_named(name)
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"device {name}: each of several processes has its own GPU; leave the device at auto")
    else:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)


def computes_bfloat16_fast(device: torch.device) -> bool:
    """Whether a device has bfloat16 instructions; a CPU without them is slower in bfloat16 than in float32."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks of `torch.distributed`; (0, 1) where it is not initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def of_all_ranks(x: Tensor) -> Tensor:
    """Gathers (N, ...) of every rank -> (N * ranks, ...), rank 0 first."""
    ranks = rank_and_world()[1]
    if ranks == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(ranks)]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def from_rank_0(x: Tensor) -> Tensor:
    """The tensor of rank 0, on every rank."""
    x = x.contiguous()
    if dist.is_available() and dist.is_initialized():
        dist.broadcast(x, src=0)
    return x


def inference(function: Callable[Concatenate[M, P], R]) -> Callable[Concatenate[M, P], R]:
    """Decorates a function of a module, or a method of it: it computes in eval mode and without gradients.

    Every part of the module is in the mode that it was in before when the function returns or raises. Of a module in
    training mode, one thread at a time may call such functions.
    """

    @functools.wraps(function)
    def wrapped(module: M, *args: P.args, **options: P.kwargs) -> R:
        in_training = [part for part in module.modules() if part.training]
        for part in in_training:
            part.training = False
        try:
            with torch.no_grad():
                return function(module, *args, **options)
        finally:
            for part in in_training:
                part.training = True

    return wrapped


class FixedDtypeModule(nn.Module):
    """A module whose tensors keep their dtype when it is moved or cast, also as a part of another module."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


class CompositeModule(nn.Module):
    """A module with parts that are no `nn.Module`, such as a diffusion pipeline, which move and cast along with it."""

    def unregistered_parts(self) -> list[Any]:
        """The parts that are no children; each has a method `to(device, dtype)`, of which one argument may be None."""
        return []

    def to(self, *args: Any, **options: Any) -> Self:
        """Moves and casts the module, with the arguments of `nn.Module.to`."""
        super().to(*args, **options)
        device, dtype = device_and_dtype(args, options)
        for part in self.unregistered_parts():
            part.to(device, dtype)
        return self

    def cpu(self) -> Self:
        return self.to(torch.device("cpu"))

    def cuda(self, device: int | str | torch.device | None = None) -> Self:
        return self.to(torch.device("cuda", device) if isinstance(device, int) else torch.device(device or "cuda"))

    def half(self) -> Self:
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    def float(self) -> Self:
        return self.to(torch.float32)

    def double(self) -> Self:
        return self.to(torch.float64)


def device_and_dtype(args: tuple[Any, ...], options: dict[str, Any]) -> tuple[torch.device | None, torch.dtype | None]:
    """The device and dtype in the arguments of `nn.Module.to`; those of a tensor, if one is given."""
    device: torch.device | None = None
    dtype: torch.dtype | None = None
    named = (options.get(name) for name in ("device", "dtype", "tensor"))
    for given in (*args, *named):
        if isinstance(given, Tensor):
            device, dtype = given.device, given.dtype
        elif isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, str | torch.device) or (isinstance(given, int) and not isinstance(given, bool)):
            device = torch.device(given)
    return device, dtype
