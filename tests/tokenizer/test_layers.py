"""Attention on a CPU: as two products against the fused kernel in float32, and which of the two is used."""

import pytest
import torch

from seedtok.tokenizer import layers


@pytest.mark.parametrize("masking", ["none", "causal", "mask"])
def test_two_products_are_attention(monkeypatch, masking):
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


def projected(count: int, dtype: torch.dtype, batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, count, 64).to(dtype) for _ in range(3)]


@pytest.fixture
def measurements(monkeypatch) -> list[float]:
    """How many times as fast two products are; a measurement takes the first of the list."""
    results: list[float] = []
    monkeypatch.setattr(layers, "times_as_fast", lambda run, other, rounds: results.pop(0))
    layers._are_two_products_faster.cache_clear()
    yield results
    layers._are_two_products_faster.cache_clear()


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Which of the two was used, call by call."""
    names: list[str] = []
    for place, name in ((layers, "_two_products"), (layers.F, "scaled_dot_product_attention")):
        function = getattr(place, name)

        def recorded(*args, function=function, name=name, **options):
            names.append(name.removeprefix("_"))
            return function(*args, **options)

        monkeypatch.setattr(place, name, recorded)
    return names


PRODUCTS, FUSED = "two_products", "scaled_dot_product_attention"


@pytest.mark.parametrize(
    ("count", "gain", "expected"),
    [
        (257, 2.0, PRODUCTS), (257, 1.1, FUSED), (257, 0.5, FUSED),
        (20, 2.0, PRODUCTS), (20, 0.9, PRODUCTS), (20, 0.5, FUSED),
    ],
)  # fmt: skip
def test_in_bfloat16_the_faster_is_used_and_measured_once(measurements, used, count, gain, expected):
    measurements += [gain, 1 / gain]
    for batch in (1, 3):
        layers.attention(*projected(count, torch.bfloat16, batch), 4)
    layers.attention(*projected(count + 1, torch.bfloat16), 4)  # of the same class
    assert used == [expected] * 3
    assert measurements == [1 / gain]


@pytest.mark.parametrize(("count", "expected"), [(257, FUSED), (20, PRODUCTS)])
def test_in_float32_and_with_gradients_lengths_alone_decide(measurements, used, count, expected):
    layers.attention(*projected(count, torch.float32), 4)
    layers.attention(*(x.requires_grad_() for x in projected(count, torch.bfloat16)), 4)
    layers.attention(*projected(count, torch.bfloat16), 4, dropout=0.1)
    assert used == [expected] * 3  # a measurement would have failed: there is no result for it


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"mask": torch.ones(1, 1, 20, 20).bool().tril()}])
def test_what_is_measured_gives_the_same(options):
    q, k, v = projected(20, torch.bfloat16)
    layers._are_two_products_faster.cache_clear()
    out = layers.attention(q, k, v, 4, **options)
    assert layers._are_two_products_faster.cache_info().currsize == 1
    exact = layers.attention(q.float(), k.float(), v.float(), 4, **options)
    torch.testing.assert_close(out.float(), exact, rtol=2e-2, atol=2e-2)
