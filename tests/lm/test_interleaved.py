"""Texts and images in any order: whole images, within the context, and every end id."""

import pytest
import torch

from seedtok.core.errors import InputError
from seedtok.lm.decoding import Sampling
from seedtok.lm.interleaved import generate


def prefer_images(model, amount: float) -> None:
    """Adds to the logit of begin-of-image, through a bias of the visual head."""
    head = model.adapter.visual_head
    model.adapter.visual_head = torch.nn.Linear(head.in_features, head.out_features).requires_grad_(False)
    model.adapter.visual_head.weight.copy_(head.weight)
    model.adapter.visual_head.bias.zero_()[-2] = amount
    object.__setattr__(model.adapter.config, "head_bias", True)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_images_are_whole(model, temperature):
    """However likely images are, an image is 32 codes, and the sequence fits the context."""
    prefer_images(model, 50.0)
    sampling = Sampling(temperature, generator=torch.Generator().manual_seed(0))
    out = generate(model, ["a fox", torch.arange(32)], 5, max_images=2, sampling=sampling)
    images = [part for part in out if isinstance(part, torch.Tensor)]
    assert len(images) == 2
    assert all(codes.shape == (32,) and int(codes.min()) >= 0 and int(codes.max()) < 8192 for codes in images)
    filled = generate(model, ["a fox"], 5, max_images=99, sampling=sampling)
    assert sum(isinstance(part, torch.Tensor) for part in filled) == (160 - len(model.sequence(["a fox"]))) // 34
    prefer_images(model, -500.0)
    assert all(isinstance(part, str) for part in generate(model, ["a fox"], 5))


@torch.no_grad()
def test_any_of_the_end_ids_ends_a_text(model, monkeypatch):
    """A chat model has several in its generation config, and its tokenizer one."""
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", None)
    first = int(model.text_logits(model.states(model.embed(torch.tensor([model.sequence(["a fox"])]))))[0, -1].argmax())
    assert generate(model, ["a fox"], max_new_tokens=12, max_images=0) != []
    for stop in (first, [299, first]):
        monkeypatch.setattr(model.lm.generation_config, "eos_token_id", stop)
        assert generate(model, ["a fox"], max_new_tokens=12, max_images=0) == []
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", None)
    model.text_tokenizer.eos_token = model.text_tokenizer.convert_ids_to_tokens(first)  # of this test's model alone
    assert generate(model, ["a fox"], max_new_tokens=12, max_images=0) == []


@torch.no_grad()
def test_text_streams_as_it_comes(model):
    pieces: list[str] = []
    out = generate(model, ["a fox"], 8, max_images=0, on_text=pieces.append)
    assert "".join(pieces).strip() == "".join(map(str, out))


@torch.no_grad()
def test_images_stream_between_the_texts(model):
    """Each piece of text and each image comes once, in order."""
    begin = model.vocabulary.begin
    script = iter([*model.text_ids("a red"), begin, begin, *model.text_ids("a fox")])

    class Scripted(Sampling):
        def next_tokens(self, logits):
            return torch.tensor([next(script)]) if logits.shape[1] > 8192 else super().next_tokens(logits)

    parts: list = []
    length = len(model.text_ids("a red")) + len(model.text_ids("a fox"))
    out = generate(model, ["a"], length, sampling=Scripted(), on_text=parts.append, on_image=parts.append)
    assert [isinstance(part, str) for part in out] == [True, False, False, True]
    texts: list = [""]
    for part in parts:
        if isinstance(part, str):
            texts[-1] += part
        else:
            texts += [part, ""]
    for whole, streamed in zip(out, [part for part in texts if not isinstance(part, str) or part], strict=True):
        assert streamed.strip() == whole if isinstance(whole, str) else streamed is whole


def test_an_empty_prompt_is_refused(model):
    for segments in ([], [""]):
        with pytest.raises(InputError, match="an empty prompt"):
            generate(model, segments)
