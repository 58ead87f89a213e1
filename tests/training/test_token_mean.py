"""A mean over tokens is the same of however many micro-batches: small ones accumulated, or one large one."""

import json
from itertools import islice

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from seedtok.data.batches import Batch
from seedtok.mini.world.scenes import scene_stream
from seedtok.mini.world.source import to_batch
from seedtok.training.config import RunConfig
from seedtok.training.loop import train
from seedtok.training.stage import Stage
from seedtok.training.token_mean import TokenMean
from tiny_runs import tiny

CAPTIONS = [
    "a fox",
    "a fox to the left of a cake on a pink background",
    "cake",
    "two foxes above a fox and a bus",
]


def uneven() -> Batch:
    """Eight pictures with captions of very different lengths."""
    batch = to_batch(list(islice(scene_stream("train", 0), 8)), 64)
    captions = [CAPTIONS[i % 3 if i < 4 else 3] for i in range(8)]
    return Batch(batch.pixels, captions, captions)


def part(batch: Batch, start: int, size: int) -> Batch:
    texts = batch.captions[start : start + size]
    return Batch(batch.pixels[start : start + size], texts, texts)


def gradients_of_a_step(config: RunConfig, out, monkeypatch) -> tuple[dict[str, Tensor], float]:
    """What the optimiser is given in the first step, and the loss that is logged."""
    whole, size = uneven(), config.optimization.batch_size
    monkeypatch.setattr(
        type(config.data), "batches", lambda *_: (part(whole, i % 8, size) for i in range(0, 10**6, size))
    )
    found: dict[str, Tensor] = {}
    stages: list[Stage] = []
    build, step = type(config.stage).build, torch.optim.AdamW.step

    def kept(settings):
        stages.append(build(settings).eval())
        stages[-1].train = lambda mode=True: stages[-1]  # without dropout, whose noise is each micro-batch's own
        return stages[-1]

    def seen(self, closure=None):
        found.update({n: p.grad.clone() for n, p in stages[0].named_parameters() if p.grad is not None})
        return step(self, closure)

    monkeypatch.setattr(type(config.stage), "build", kept)
    monkeypatch.setattr(torch.optim.AdamW, "step", seen)
    train(config, out)
    monkeypatch.undo()
    return found, json.loads((out / "log.jsonl").read_text().splitlines()[0])["loss"]


@pytest.fixture
def _any_precision():
    """Other runs of this process had another one, which accelerate keeps."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
@pytest.mark.usefixtures("_any_precision")
@pytest.mark.parametrize("kind", ["stage3a", "blip2"])
def test_gradients_are_those_of_one_batch(runs, tmp_path, monkeypatch, kind):
    settings = ("optimization.steps=1", "optimization.max_grad_norm=none", "precision=no")
    settings += ("stage.replay=0",) if kind == "stage3a" else ()  # which samples those are is drawn for every batch
    at_once = tiny(kind, runs, *settings, "optimization.batch_size=8")
    in_parts = tiny(kind, runs, *settings, "optimization.batch_size=2", "optimization.accumulate=4")
    one, loss = gradients_of_a_step(at_once, tmp_path / "1", monkeypatch)
    four, accumulated = gradients_of_a_step(in_parts, tmp_path / "4", monkeypatch)
    assert one.keys() == four.keys()
    assert len(one) >= 3
    assert max(gradient.abs().max() for gradient in one.values()) > 1e-3
    for name, gradient in one.items():
        torch.testing.assert_close(four[name], gradient, rtol=1e-4, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    assert accumulated == pytest.approx(loss, abs=1e-6)


def test_by_hand():
    step = TokenMean()
    means, counts = torch.tensor([1.0, 4.0]), torch.tensor([30.0, 10.0])
    weighed = [float(mean) * step.weight(count) / 2 for mean, count in zip(means, counts, strict=True)]
    assert sum(weighed) * step.correction == pytest.approx((30 * 1 + 10 * 4) / 40)


@pytest.mark.parametrize("counts", [[None, None], [torch.tensor(7)]])
def test_nothing_changes_without_counts_or_micro_batches(counts):
    step = TokenMean()
    assert [step.weight(count) for count in counts] == [1.0] * len(counts)
    assert step.correction == 1
