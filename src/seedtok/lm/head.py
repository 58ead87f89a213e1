"""What a causal LM does between its decoder's states and its logits: the head, and the scale or cap around it.

Cohere multiplies its logits by a constant, Granite divides them, Gemma 2 caps them, MiniCPM scales the states first.
None of this is a layer that could be asked for, so it is measured: a probe takes the place of the head's output in a
forward of the model itself, and what comes out says what is done to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.core.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-5  # relative, of a float32 probe
STEEPEST = 1e4  # the largest value of the probe, far beyond any cap on logits


@dataclass(frozen=True)
class LogitMap:
    """logits = capped(scale * head(state_scale * states)), where capped(x) = cap * tanh(x / cap)."""

    state_scale: float = 1.0
    scale: float = 1.0
    cap: float | None = None

    def logits(self, states: Float[Tensor, "*b hidden"], head: nn.Module) -> Float[Tensor, "*b text"]:
        """Logits over texts; `states` are the last of the decoder, `head` is the LM's output embedding."""
        return self.around(head(states if self.state_scale == 1 else states * self.state_scale))

    def around(self, logits: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """What follows the head."""
        scaled = logits if self.scale == 1 else logits * self.scale
        return scaled if self.cap is None else self.cap * torch.tanh(scaled / self.cap)


@torch.no_grad()
def logit_map(lm: PreTrainedModel) -> LogitMap:
    """Measures the map of a causal LM by three forwards of two tokens; a model on the meta device gets the identity.

    Raises CheckpointError for a model that does anything else to its states or its logits.
    """
    if lm.device.type == "meta":
        return LogitMap()
    training = [module for module in lm.modules() if module.training]  # dropout would change what is measured
    lm.eval()
    try:
        return _measured(lm, cast(nn.Module, lm.get_output_embeddings()))
    finally:
        for module in training:
            module.training = True


def _measured(lm: PreTrainedModel, head: nn.Module) -> LogitMap:
    name = f"{type(lm).__name__} ({lm.config.model_type})"
    ids = torch.tensor([[0, 1]], device=lm.device)
    states = lm.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()
    read, smallest = _with_probe(lm, head, ids, lambda n: torch.linspace(-1e-2, 1e-2, n))
    if read.shape != states.shape:
        raise CheckpointError(f"{name} has layers between its decoder and its head, which are not supported")
    state_scale = _ratio(read, states)
    probe = torch.linspace(-1e-2, 1e-2, len(smallest), device=smallest.device)
    scale = _ratio(smallest, probe)
    _, steep = _with_probe(lm, head, ids, lambda n: torch.linspace(-1, 1, n).pow(3) * STEEPEST)
    steepest = torch.linspace(-1, 1, len(steep), device=steep.device).pow(3) * STEEPEST
    highest = float(steep.abs().max())
    capped = highest < 0.5 * abs(scale) * STEEPEST
    found = LogitMap(state_scale, scale, highest if capped else None)
    rounding = float(torch.finfo(lm.dtype).eps)
    if not (
        _close(read, states * state_scale, 4 * rounding)
        and _close(smallest, found.around(probe), TOLERANCE)
        and _close(steep, found.around(steepest), TOLERANCE)
    ):
        raise CheckpointError(
            f"{name} changes its states or its logits in a way that is not supported: a scale, or a cap by tanh, is"
        )
    return found


def _with_probe(lm: PreTrainedModel, head: nn.Module, ids: Tensor, values: Any) -> tuple[Tensor, Tensor]:
    """What the head reads at the last token, and the logits that the model makes of a float32 probe in place of its
    head's output."""
    read: list[Tensor] = []

    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        read.append(inputs[0].reshape(-1, inputs[0].shape[-1])[-1].float())
        return values(output.shape[-1]).to(output.device).expand(output.shape)

    hook = head.register_forward_hook(replace)
    try:
        logits = lm(input_ids=ids, use_cache=False).logits[0, -1].float()
    finally:
        hook.remove()
    if not read:
        raise CheckpointError(f"{type(lm).__name__} does not use its output embedding, so its logits are not known")
    return read[0], logits


def _ratio(one: Tensor, other: Tensor) -> float:
    """The factor between two vectors, exactly 1 where it is 1 to rounding."""
    factor = float(one.double() @ other.double() / other.double().square().sum())
    return 1.0 if abs(factor - 1) < 1e-4 else factor


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return one.shape == other.shape and bool((one - other).abs().max() <= tolerance * other.abs().max())
