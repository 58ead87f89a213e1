"""What a causal LM does between its decoder's states and its logits, besides its head: a scale, or a cap.

Cohere multiplies its logits by a constant, Granite divides them, Gemma 2 caps them, MiniCPM scales the states first.
No layer of these models can be asked for that, so it is measured: a forward of the model itself runs with a known
vector in place of its head's output, and the logits show what happens to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.core.errors import CheckpointError
from seedtok.lm.base import output_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-5  # relative, of a float32 probe
LARGEST = 1e4  # the largest value of the probe, far beyond any cap on logits


@dataclass(frozen=True)
class LogitMap:
    """logits = cap_logits(scale * head(state_scale * states)), where cap_logits(x) = cap * tanh(x / cap)."""

    state_scale: float = 1.0
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: Float[Tensor, "*b hidden"], head: Callable[[Tensor], Tensor]) -> Float[Tensor, "*b n"]:
        """Logits of the decoder's last states; `head` is the LM's output embedding, or some rows of it."""
        return self.after_head(head(states if self.state_scale == 1 else states * self.state_scale))

    def after_head(self, values: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """Logits of the head's output."""
        return self.cap_logits(values if self.scale == 1 else values * self.scale)

    def cap_logits(self, logits: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """Logits under the cap of the LM, if it has one."""
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


@torch.no_grad()
def measure_logit_map(lm: PreTrainedModel) -> LogitMap:
    """Measures the map of a causal LM by three forwards of two tokens; a model on the meta device gets the identity.

    Raises CheckpointError for a model that does anything else to its states or its logits.
    """
    if lm.device.type == "meta":
        return LogitMap()
    training = [module for module in lm.modules() if module.training]  # dropout would change what is measured
    lm.eval()
    try:
        return _measure(lm, output_head(lm))
    finally:
        for module in training:
            module.training = True


def _measure(lm: PreTrainedModel, head: nn.Module) -> LogitMap:
    name = f"{type(lm).__name__} ({lm.config.model_type})"
    ids = torch.tensor([[0, 1]], device=lm.device)
    states = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()
    head_input, small = _probe(lm, head, ids, _small_values)
    if head_input.shape != states.shape:
        raise CheckpointError(f"{name} has layers between its decoder and its head, which are not supported")
    state_scale = _ratio(head_input, states)
    scale = _ratio(small, _small_values(len(small)).to(small.device))
    _, large = _probe(lm, head, ids, _large_values)
    highest = float(large.abs().max())
    found = LogitMap(state_scale, scale, highest if highest < 0.5 * abs(scale) * LARGEST else None)
    rounding = float(torch.finfo(lm.dtype).eps)
    if not (
        is_close(head_input, states * state_scale, 4 * rounding)
        and is_close(small, found.after_head(_small_values(len(small)).to(small.device)), TOLERANCE)
        and is_close(large, found.after_head(_large_values(len(large)).to(large.device)), TOLERANCE)
    ):
        raise CheckpointError(
            f"{name} changes its states or its logits in a way that is not supported: a scale, or a cap by tanh, is"
        )
    return found


def _small_values(count: int) -> Tensor:
    """Values at which a cap by tanh is linear to rounding."""
    return torch.linspace(-1e-2, 1e-2, count)


def _large_values(count: int) -> Tensor:
    """Values from 0 to far beyond any cap."""
    return torch.linspace(-1, 1, count).pow(3) * LARGEST


def _probe(lm: PreTrainedModel, head: nn.Module, ids: Tensor, values: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """The head's input at the last token, and the model's logits where `values` take the place of the head's output."""
    inputs_seen: list[Tensor] = []

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs_seen.append(inputs[0].reshape(-1, inputs[0].shape[-1])[-1].float())
        return values(output.shape[-1]).to(output.device).expand(output.shape)

    hook = head.register_forward_hook(replace)
    try:
        logits = lm(input_ids=ids, use_cache=False).logits[0, -1].float()
    finally:
        hook.remove()
    if not inputs_seen:
        raise CheckpointError(f"{type(lm).__name__} does not use its output embedding, so its logits are not known")
    return inputs_seen[0], logits


def _ratio(one: Tensor, other: Tensor) -> float:
    """The factor between two vectors, exactly 1 where it is 1 to rounding."""
    factor = float(one.double() @ other.double() / other.double().square().sum())
    return 1.0 if abs(factor - 1) < 1e-4 else factor


def is_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Whether two tensors of one shape differ by at most `tolerance` times the largest magnitude of the other."""
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())
