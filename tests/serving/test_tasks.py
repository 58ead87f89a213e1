"""Tasks, each by itself: what the image decoder draws at once, and in what it computes."""

from typing import Any

import pytest
import torch
from PIL import Image

from seedtok.lm import interleaved
from seedtok.lm.decoding import Sampling
from seedtok.lm.model import JointLM
from seedtok.lm.seed_lm import SeedLM
from seedtok.serving.engine import Engine
from seedtok.serving.tasks import Caption, Continue, Decode, Draw, Task
from serving.helpers import alike, picture


@pytest.fixture
def drawn(lm: SeedLM, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, torch.dtype | None]]:
    """How many pictures each call of the image decoder drew, and in what type."""
    calls, decode = [], lm.seed.decode

    def noted(codes, steps=None, guidance=None, generator=None, dtype=None) -> list[Image.Image]:
        calls.append((len(codes), dtype))
        return decode(codes, steps, guidance, generator, dtype)

    monkeypatch.setattr(lm.seed, "decode", noted)
    return calls


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_more_pictures_than_a_batch_are_drawn_at_once(lm: SeedLM, drawn: list, temperature: float):
    """And they are the same in batches of any size."""
    task = Draw("a fox", 7, 10, temperature)
    [small], [large] = (Draw.run(Engine(lm, batch=size), [task]) for size in (4, 16))
    assert [count for count, _ in drawn] == [4, 4, 2, 10]
    assert len(small.pictures) == 10
    assert all(map(alike, small.pictures, large.pictures))
    sampling = Sampling(temperature, 1.0, torch.Generator().manual_seed(7))
    expected = lm.draw(["a fox"] * 10, sampling, 1, [torch.Generator().manual_seed(7) for _ in range(10)])
    assert all(map(alike, small.pictures, expected))


@pytest.mark.parametrize("task", [Draw("a fox", 0), Decode((1,) * 32, 0), Continue((("a fox",),), 0, 4, 1)])
def test_pictures_are_drawn_in_the_type_that_was_asked_for(
    lm: SeedLM, drawn: list, task: Task, monkeypatch: pytest.MonkeyPatch
):
    between = interleaved._between_images

    def with_begin(model: JointLM, *rest: Any) -> torch.Tensor:
        logits = between(model, *rest)
        logits[:, model.vocabulary.begin] += 100
        return logits

    monkeypatch.setattr(interleaved, "_between_images", with_begin)
    [outcome] = type(task).run(Engine(lm, drawing_dtype=torch.bfloat16), [task])
    assert len(outcome.pictures) == 1
    assert [dtype for _, dtype in drawn] == [torch.bfloat16]


def test_a_text_is_fitted_into_the_context(lm: SeedLM):
    engine, context = Engine(lm), lm.joint.context
    assert Caption(picture(), 5, 30).fitted(engine).max_new_tokens == 30
    fitted = Caption(picture(), 5, 10 * context).fitted(engine)
    assert 0 < fitted.max_new_tokens < context - 34
    assert len(Caption.run(engine, [fitted])) == 1
