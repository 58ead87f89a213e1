"""Where a model runs: devices by name, and modules that move as a whole."""

from __future__ import annotations

import os
import re
from typing import Any, Self

import torch
from torch import Tensor, nn

from seedtok.core.errors import ConfigError


def device_named(name: str | torch.device) -> torch.device:
    """The device that a name stands for; "auto" is the first CUDA GPU, else Apple's (mps), else the CPU.

    A `torch.device` is returned as it is. Raises ConfigError for an unknown name, or a device that this machine or this
    build of torch does not have.
    """
    if isinstance(name, torch.device):
        return name
    if name == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(gpu)
    if not re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,3})?", name):
        raise ConfigError(f"unknown device {name!r}: expected auto, cpu, cuda, cuda:N or mps")
    kind, _, number = name.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device mps: there is no GPU of Apple's here, or this torch cannot use it; take auto or cpu")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise ConfigError(f"device {name}: torch {torch.__version__} finds no CUDA GPU here; take auto or cpu")
        if int(number or 0) >= count:
            raise ConfigError(f"device {name}: there are {count} CUDA GPUs here, cuda:0 to cuda:{count - 1}")
    return torch.device(name)


def tell_accelerate(name: str) -> None:
    """Chooses the device that accelerate trains on in this process, by the environment that it reads at its start.

    Raises ConfigError as `device_named` does, and for one GPU where `accelerate launch` or torchrun has started several
    processes, each with a GPU of its own.
    """
    device = device_named(name)
    if device.type == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(f"device {name}: each of several processes has its own GPU; leave the device at auto")
    else:
        os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)


def computes_bfloat16_fast(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16; a CPU without them is slower in it than in float32."""
    if device.type == "cpu":
        return torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


class MovesAsAWhole(nn.Module):
    """A module with parts that torch does not see, such as a diffusion pipeline: they move along with it.

    Every way to move or cast a module goes by `to` here.
    """

    def unseen(self) -> list[Any]:
        """The parts that torch does not see; each has a method `to(device, dtype)`, of which one may be None."""
        return []

    def uncast(self) -> list[nn.Module]:
        """Children that keep their dtype."""
        return []

    def to(self, *args: Any, **options: Any) -> Self:
        """As of every module; the parts that torch does not see come along."""
        device, dtype = device_and_dtype(args, options)
        if device is not None:
            super().to(device)
        if dtype is not None:
            kept = self.uncast()
            for part in self.children():
                if not any(part is other for other in kept):
                    part.to(dtype)
        for part in self.unseen():
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
    """What the arguments of `nn.Module.to` ask for: a device, a dtype, both, or those of a tensor."""
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
