"""Communication between ranks: features gathered with their gradients, and sharded models (FSDP2)."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, init_device_mesh

from seedtok.core.device import of_all_ranks, rank_and_world
from seedtok.core.errors import ConfigError

T = TypeVar("T")


def gather_with_gradient(features: Tensor) -> Tensor:
    """(B, ...) on every rank -> (B * ranks, ...), rank 0 first; gradients flow back to every rank.

    With the mean over ranks that data-parallel training takes, a loss of local rows against all columns then has the
    gradient of one process with the whole batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    gathered = _Gather.apply(features)
    assert isinstance(gathered, Tensor)
    return gathered


def rank_weight(count: int | Tensor) -> float:
    """This rank's count beside the mean of all ranks'.

    By it, a mean over what a rank has becomes a part of the mean over what all have, however unevenly it is spread.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return 1.0
    return float(count) / mean_over_ranks({"count": torch.tensor(float(count))})["count"]


def mean_over_ranks(numbers: dict[str, Tensor]) -> dict[str, float]:
    """Numbers of each rank -> their means; called on every rank with the same names."""
    values = torch.stack([value.float().cpu() for value in numbers.values()])
    return dict(zip(numbers, (sum_over_ranks(values) / rank_and_world()[1]).tolist(), strict=True))


def sum_over_ranks(values: Tensor) -> Tensor:
    """A tensor of each rank -> their sum, on the CPU; called on every rank with the same shape."""
    if rank_and_world()[1] == 1:
        return values.cpu()
    values = values.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    dist.all_reduce(values)
    return values.cpu()


def differs_over_ranks(number: int) -> bool:
    """Whether ranks do not all have the same number; called on every rank."""
    return len(set(objects_of_all_ranks(number))) > 1


def objects_of_all_ranks(value: T) -> list[T]:
    """What each rank gives, rank 0 first; called on every rank."""
    values = [value] * rank_and_world()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def per_rank(count: int) -> int:
    """How many each rank takes so that all of them together take `count`, or a few more."""
    return -(-count // rank_and_world()[1])


def first_row(features: Tensor) -> int:
    """Where this rank's rows begin in what `gather_with_gradient` returns."""
    return dist.get_rank() * len(features) if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    """In place of torch.distributed.nn's all_gather: over gloo, that one's backward scrambles a transposed gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        return of_all_ranks(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def check_can_shard(module: nn.Module) -> None:
    """Raises ConfigError for a part that writes parameters in place: of a gathered copy that would be lost."""
    for part in module.modules():
        if reason := getattr(part, "writes_parameters", ""):
            raise ConfigError(f"sharded=true does not go with {reason}")


def shard_parameters(module: nn.Module, device: torch.device, methods: tuple[str, ...]) -> None:
    """Has every rank hold a part of each parameter, in place (FSDP2): blocks are put together as they are used.

    Beside `forward`, the `methods` put the module's own parameters together; `reshard` takes them apart again.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}  # which FSDP2 does not take
    for scalar in filter(lambda parameter: parameter.requires_grad, scalars):
        scalar.register_post_accumulate_grad_hook(_average_gradient)
    for part in reversed(list(module.modules())):
        if isinstance(part, nn.ModuleList):
            for block in part:
                fully_shard(block, mesh=mesh, ignored_params=scalars)
    fully_shard(module, mesh=mesh, ignored_params=scalars)
    for name in methods:
        register_fsdp_forward_method(module, name)


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


def reshard(module: nn.Module) -> None:
    """Frees what a pass without a backward one left put together."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def gather_full(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which every rank holds a part, put together on all; called on every rank."""
    return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in tensors.items()}
