"""What a run costs, counted on tensors that have shapes and no values."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from seedtok.core.errors import ConfigError
from seedtok.data.batches import Batch
from seedtok.lm.packing import Packed
from seedtok.stages.packed import PackedStage
from seedtok.training.config import RunConfig
from seedtok.training.stage import Losses, Stage

Shape = tuple[int, ...]


def attention_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Operations of softmax(Q K^T) V, two products; shapes are (B, H, L, C)."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[-2] * (width + value[-1])


def attention_backward_flops(_: Shape, query: Shape, key: Shape, value: Shape, *__: object, **___: object) -> int:
    """Operations of its backward pass, five products: Q K^T again, and the gradients of Q, K, V and the weights."""
    batch, heads, length, width = query
    return 2 * batch * heads * length * key[-2] * (3 * width + 2 * value[-1])


CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
ATTENTION = {CPU_ATTENTION: attention_flops, CPU_ATTENTION_BACKWARD: attention_backward_flops}  # torch 2.13 skips them
TYPES = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Gpu:
    """`memory` in bytes; `peak` in operations a second, dense, of 16-bit products on its matrix units."""

    memory: float
    peak: float


GPUS = {
    "v100-32gb": Gpu(32 * 2**30, 125e12),
    "a100-80gb": Gpu(80 * 2**30, 312e12),
    "h100": Gpu(80 * 2**30, 989e12),
}


@dataclass(frozen=True)
class Cost:
    """Of one rank: `flops` of a micro-batch, forward and backward, a product and a sum being two; bytes by part."""

    parameters: int
    trained: int
    flops: int
    frozen_weights: int
    trained_weights: int
    gradients: int
    optimizer: int
    activations: int  # what the backward pass needs, with 16-bit copies of weights

    @property
    def memory(self) -> int:
        return self.frozen_weights + self.trained_weights + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class Plan:
    """A whole run on `gpus` of one kind that reach `utilisation` of their peak."""

    cost: Cost
    gpu: str
    gpus: int
    utilisation: float
    flops: int  # of a step, over all GPUs
    step_seconds: float
    days: float
    samples: int  # seen in all, those of every epoch counted

    @property
    def fits(self) -> bool:
        return self.cost.memory <= GPUS[self.gpu].memory


def check_gpus(gpu: str, gpus: int, utilisation: float) -> None:
    """Raises ConfigError for an unknown GPU, and for numbers of no sense."""
    if gpu not in GPUS:
        raise ConfigError(f"unknown GPU {gpu!r}; known are {', '.join(GPUS)}")
    if gpus < 1 or not 0 < utilisation <= 1:
        raise ConfigError(f"expected at least 1 GPU and a utilisation up to 1, not {gpus} and {utilisation}")


def plan(cost: Cost, config: RunConfig, gpu: str, gpus: int, utilisation: float) -> Plan:
    """What a run takes; the time of data and of what GPUs tell one another is not in it, but for the utilisation.

    Raises ConfigError as `check_gpus` does.
    """
    check_gpus(gpu, gpus, utilisation)
    o = config.optimization
    seconds = cost.flops * o.accumulate / (GPUS[gpu].peak * utilisation)
    samples = o.steps * o.batch_size * o.accumulate * gpus
    flops = cost.flops * o.accumulate * gpus
    return Plan(cost, gpu, gpus, utilisation, flops, seconds, o.steps * seconds / 86400, samples)


def cost(stage: Stage, config: RunConfig, batch: Batch) -> Cost:
    """Counts one forward and backward pass of a stage, which may be on the meta device, over a batch like this one.

    Of the batch only shapes, captions and metadata matter. Attention counts as it is computed on a CPU.
    """
    stage.train()
    step = _step(stage, batch)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        fakes = {name: _like(tensor) for name, tensor in (*stage.named_parameters(), *stage.named_buffers())}
    saved: list[Tensor] = []  # for the backward pass
    keeping = torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda t: t)
    dtype = TYPES.get(config.precision)
    replaced = torch.nn.utils.stateless._reparametrize_module(stage, fakes, tie_weights=True)
    with mode, FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter, replaced:
        with torch.autocast("cpu", dtype, enabled=dtype is not None), keeping:
            loss = step()["loss"]
        loss.backward()
    weights = _storages(fakes.values())
    trained = [fakes[name] for name, parameter in stage.named_parameters() if parameter.requires_grad]
    sizes = {name: tensor.numel() * tensor.element_size() for name, tensor in fakes.items()}
    trained_bytes = sum(tensor.numel() * tensor.element_size() for tensor in trained)
    return Cost(
        parameters=sum(parameter.numel() for parameter in stage.parameters()),
        trained=sum(tensor.numel() for tensor in trained),
        flops=counter.get_total_flops(),
        frozen_weights=sum(sizes.values()) - trained_bytes,
        trained_weights=trained_bytes,
        gradients=trained_bytes,
        optimizer=2 * trained_bytes,
        activations=sum((_storages(saved) | weights).values()) - sum(weights.values()),
    )


def _step(stage: Stage, batch: Batch) -> Callable[[], Losses]:
    """One pass over a batch. What depends on values, the packing of texts, is done before."""
    if isinstance(stage, PackedStage):
        codes = torch.zeros(len(batch.captions), 32, dtype=torch.long)
        rows = stage.packed(replace(batch, codes=codes))
        return lambda: stage.losses(Packed(*map(_like, rows)))

    def run() -> Losses:
        return stage(replace(batch, pixels=torch.empty(batch.pixels.shape, dtype=batch.pixels.dtype)))

    return run


def _like(tensor: Tensor) -> Tensor:
    fake = torch.empty_like(tensor, device="cpu")
    return fake.requires_grad_(tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """The bytes of each storage that tensors lie in."""
    return {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
