"""What tells one tokenizer or image encoder from another: some of its weights, and the dtype that it computes in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from seedtok.core.images import Interpolation

ENCODES = ("embedder.vision.", "embedder.ln_vision.", "embedder.patch_positions", "embedder.qformer.", "encode_head.")
SAMPLED = 16  # values of each tensor


@torch.no_grad()
def sampled_values(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Some values of each tensor of floats, evenly spaced, on the CPU and in their own dtype."""
    found = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.numel():
            flat = tensor.detach().flatten()
            offsets = torch.arange(SAMPLED, device=flat.device) * (len(flat) - 1) // (SAMPLED - 1)
            found[name] = flat[offsets].cpu()
    return found


def has_values(tensors: Mapping[str, Tensor], stored: Mapping[str, Tensor] | None) -> bool:
    """Whether these are tensors of which `sampled_values` gave `stored`, in any dtype."""
    values = sampled_values(tensors)
    return (
        stored is not None
        and stored.keys() == values.keys()
        and all(torch.equal(stored[name].to(value.dtype), value) for name, value in values.items())
    )


def fingerprint(
    tensors: Mapping[str, Tensor], order: tuple[int, ...] | None, interpolation: Interpolation,
    stored: Mapping[str, Tensor] | None,
) -> str:  # fmt: skip
    """A hash of the weights that encode, of the order of an image's codes, and of how images are stretched.

    Args:
        tensors: those of the tokenizer, in any dtype and on any device.
        order: `SeedConfig.code_order`.
        interpolation: `VisionConfig.interpolation`.
        stored: the `sampled_values` before the tokenizer was cast. They are hashed where they are still those of
            `tensors`, so that a checkpoint has the same fingerprint in every dtype.
    """
    tensors, stored = _encoding(tensors), None if stored is None else _encoding(stored)
    values = stored if stored is not None and has_values(tensors, stored) else sampled_values(tensors)
    digest = hashlib.sha256(f"{order or ''}{'' if interpolation == 'bicubic' else interpolation}".encode())
    for name in sorted(values):
        numbers = values[name].float() + 0.0  # -0.0 becomes 0.0
        digest.update(name.encode() + numbers.numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:16]


def _encoding(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of all that encodes."""
    return {name: tensor for name, tensor in tensors.items() if name.startswith(ENCODES)}


def dtype_name(tensors: Mapping[str, Tensor]) -> str:
    """The dtype of the weights that encode, such as "float32"; "auto" where some are narrower than others."""
    dtypes = {tensor.dtype for tensor in _encoding(tensors).values() if tensor.is_floating_point()}
    return str(dtypes.pop()).removeprefix("torch.") if len(dtypes) == 1 else "auto"
