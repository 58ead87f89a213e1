"""Which float32 products are taken for exact, and that others are not used."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from seedtok.core import products
from seedtok.core.products import fast_products, gain, is_exact

CPU = torch.device("cpu")


def in_bfloat16(x, weight):
    return F.linear(x.bfloat16(), weight.bfloat16()).float()


def in_tf32(x, weight):
    """Inputs with 10 bits of mantissa."""
    return F.linear(*(((t.view(torch.int32) + 4096) & ~8191).view(torch.float32) for t in (x, weight)))


@pytest.mark.parametrize(("product", "exact"), [(F.linear, True), (in_bfloat16, False), (in_tf32, False)])
def test_only_float32_is_exact(product, exact):
    assert is_exact(product) == exact


def test_gain_is_in_processor_time():
    def slow(x, weight):
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return x

    assert gain(lambda x, weight: x, slow) > 2
    assert gain(slow, lambda x, weight: x) < 0.5


@pytest.mark.parametrize(("exact", "times", "used"), [(True, 2.0, True), (True, 1.0, False), (False, 9.0, False)])
def test_they_are_used_where_they_are_exact_and_faster(monkeypatch, exact, times, used):
    monkeypatch.setattr(products, "is_exact", lambda product: exact)
    monkeypatch.setattr(products, "gain", lambda product, other: times)
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    products._is_worthwhile.cache_clear()
    try:
        with fast_products(CPU):
            assert (settings.fp32_precision == "tf32") == used
        assert settings.fp32_precision == before
        with fast_products(torch.device("meta")):
            assert settings.fp32_precision == before
    finally:
        products._is_worthwhile.cache_clear()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", [(32,), (3, 32), (2, 8, 32), (40, 32), (200, 32)])
def test_products_of_few_rows(monkeypatch, shape, turned):
    monkeypatch.setattr(products, "_is_turned_faster", lambda: turned)
    x, weight, bias = torch.randn(shape), torch.randn(24, 32), torch.randn(24)
    for dtype in (torch.float32, torch.float64):
        given = [t.to(dtype) for t in (x, weight, bias)]
        torch.testing.assert_close(products.linear_of_few(*given), F.linear(*given), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(products.linear_of_few(*given[:2]), F.linear(*given[:2]), rtol=1e-5, atol=1e-5)


def test_threads_leave_the_precision_of_products_as_it_was():
    settings = torch.backends.mkldnn.matmul
    before, barrier = settings.fp32_precision, threading.Barrier(2)

    def first():
        with products.by_onednn:
            barrier.wait()
            barrier.wait()  # the second is inside
        barrier.wait()

    def second():
        barrier.wait()
        with products.by_onednn:
            barrier.wait()
            barrier.wait()  # the first has left
            assert settings.fp32_precision == "tf32"

    with ThreadPoolExecutor(2) as threads:
        for done in [threads.submit(first), threads.submit(second)]:
            done.result()
    assert settings.fp32_precision == before


def test_they_are_measured_on_the_cpu_whatever_the_default_device_is():
    with torch.device("meta"):
        assert is_exact(F.linear)
