"""The short attention of bfloat16 on a CPU, against the fused kernel in float32."""

import pytest
import torch

from seedtok.tokenizer import layers


@pytest.mark.parametrize("masking", ["none", "causal", "mask"])
def test_short_attention_is_attention(monkeypatch, masking):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 20, 64).bfloat16().requires_grad_() for _ in range(3))
    mask = (torch.rand(3, 1, 20, 20) > 0.3) | torch.eye(20, dtype=torch.bool) if masking == "mask" else None
    causal = masking == "causal"
    direction = torch.randn(3, 20, 64)

    def results(q, k, v):
        out = layers.attention(q, k, v, 4, mask, causal)
        return out, *torch.autograd.grad((out.float() * direction).sum(), (q, k, v))

    exact = results(*(x.detach().float().requires_grad_() for x in (q, k, v)))
    short = results(q, k, v)
    monkeypatch.setattr(layers, "SHORT", 0)
    fused = results(q, k, v)
    for a, b, c in zip(short, fused, exact, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        assert (a - c).abs().max() < 2 * (b - c).abs().max() + 1e-2
