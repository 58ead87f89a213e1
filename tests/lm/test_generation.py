"""Texts and pictures off a SEED LM, against the same written out without a cache over the whole vocabulary."""

import itertools

import numpy as np
import pytest
import torch

from seedtok.lm import generation
from seedtok.lm.beams import Beams
from seedtok.lm.cache import RoomyCache
from seedtok.lm.decoding import Rows
from seedtok.lm.packing import Sampling, sequence
from seedtok.lm.prompts import drawing_prompt

PROMPTS = ["a fox on a red background", "a cake", "two bees to the left of a photo on a red background"]


def joint(model, ids: list[int]) -> torch.Tensor:
    """Logits of the next token over the whole vocabulary, no cache, no batch."""
    return model.logits(model.states(model.embed(torch.tensor([ids]))))[0, -1]


def only_codes(model, logits: torch.Tensor) -> torch.Tensor:
    masked = torch.full_like(logits, float("-inf"))
    inside = slice(model.vocabulary.config.text, model.vocabulary.begin)
    masked[inside] = logits[inside]
    return masked


@torch.no_grad()
def test_drawing_is_the_masked_full_vocabulary(model):
    drawn = generation.draw_codes(model, PROMPTS)
    assert drawn.shape == (3, 32)
    assert drawn.dtype == torch.int64
    for prompt, codes in zip(PROMPTS, drawn, strict=True):
        ids = [*sequence(model, [drawing_prompt(prompt)]), model.vocabulary.begin]
        for code in codes:
            chosen = int(only_codes(model, joint(model, ids)).argmax())
            assert chosen - model.vocabulary.config.text == int(code)
            ids.append(chosen)


@torch.no_grad()
def test_one_picture_is_drawn_by_guesses_as_it_would_be_code_by_code(model, monkeypatch):
    together = generation.draw_codes(model, PROMPTS)
    passes = []
    extend = Rows.extend
    monkeypatch.setattr(Rows, "extend", lambda rows, ids: passes.append(ids.shape) or extend(rows, ids))
    for prompt, codes in zip(PROMPTS, together, strict=True):
        assert torch.equal(generation.draw_codes(model, [prompt])[0], codes)
    assert all(rows == 1 and window <= 16 for rows, window in passes)
    assert len(passes) <= 31 * len(PROMPTS)


@torch.no_grad()
def test_the_visual_head_alone_is_bit_equal(model):
    states = torch.randn(5, model.vocabulary.config.hidden)
    whole = model.logits(states)[:, model.vocabulary.config.text : model.vocabulary.begin]
    assert torch.equal(model.vocabulary.code_logits(states).argmax(-1), whole.argmax(-1))
    torch.testing.assert_close(model.vocabulary.code_logits(states), whole, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_beams_find_what_a_plain_search_finds(model):
    beams = 3
    found = generation.draw_codes(model, PROMPTS[:2], num_beams=beams)
    for prompt, codes in zip(PROMPTS[:2], found, strict=True):
        start = [*sequence(model, [drawing_prompt(prompt)]), model.vocabulary.begin]
        kept: list[tuple[float, list[int]]] = [(0.0, start)]
        for _ in range(32):
            grown = []
            for score, ids in kept:
                likelihood = only_codes(model, joint(model, ids)).log_softmax(-1)
                best = likelihood.topk(beams)
                grown += [(score + float(v), [*ids, int(i)]) for v, i in zip(best.values, best.indices, strict=True)]
            kept = sorted(grown, key=lambda pair: -pair[0])[:beams]
        assert [i - model.vocabulary.config.text for i in kept[0][1][len(start) :]] == codes.tolist()


def through_generate(model, ids: list[int], **options) -> str:
    """The text before the first of the end tokens, those of the generation settings and the text tokenizer's."""
    named = model.lm.generation_config.eos_token_id
    ends = {1, *(named if isinstance(named, list) else [] if named is None else [named])}
    settings = {"do_sample": False, "pad_token_id": 2, "eos_token_id": sorted(ends)} | options
    mask = torch.ones(1, len(ids), dtype=torch.long)
    out = model.lm.generate(inputs_embeds=model.embed(torch.tensor([ids])), attention_mask=mask, **settings)
    said = list(itertools.takewhile(lambda token: token not in ends, out[0].tolist()))
    return model.text_tokenizer.decode(said, skip_special_tokens=True).strip()


@torch.no_grad()
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize(("min_new_tokens", "ends"), [(0, 32), (4, 32), (0, 1), (0, 200)])
@pytest.mark.parametrize("batch_size", [2, None])
def test_beams_of_words_are_those_of_a_plain_generate(model, length_penalty, min_new_tokens, ends, batch_size):
    likely = torch.randperm(len(model.text_tokenizer))[:ends].tolist()  # random models seldom end by themselves
    model.lm.generation_config.eos_token_id = likely
    texts = [" a" * n for n in (1, 4, 2, 30, 3)]
    prompts = [sequence(model, [torch.randint(0, 64, (32,)), text]) for text in texts]
    options = {
        "max_new_tokens": 12, "num_beams": 4, "length_penalty": length_penalty, "min_new_tokens": min_new_tokens,
    }  # fmt: skip
    ours = generation.write(model, prompts, batch_size=batch_size, **options)
    assert ours == [through_generate(model, ids, **options) for ids in prompts]


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_prompts_that_take_the_places_of_others(model, monkeypatch, batch_size):
    forgot, forget = [], Beams._forget_what_nobody_sees

    def forgetting(beams: Beams) -> None:
        before = beams.seen.shape[2]
        forget(beams)
        assert beams.seen.shape[2] == beams.cache.get_seq_length() <= before
        forgot.append(before - beams.seen.shape[2])

    monkeypatch.setattr(Beams, "_forget_what_nobody_sees", forgetting)
    model.lm.generation_config.eos_token_id = torch.randperm(len(model.text_tokenizer))[:8].tolist()
    prompts = [sequence(model, [torch.randint(0, 64, (32,)), " a" * (n % 7)]) for n in range(17)]
    options = {"max_new_tokens": 40, "num_beams": 3}
    ours = generation.write(model, prompts, batch_size=batch_size, **options)
    assert ours == [through_generate(model, ids, **options) for ids in prompts]
    assert sum(forgot) > 0


@torch.no_grad()
def test_batches_of_generate_and_no_prompts(model):
    prompts = [sequence(model, [" a" * n]) for n in (1, 4, 2)]
    assert generation.write(model, prompts, batch_size=2) == [generation.write(model, [p])[0] for p in prompts]
    assert generation.write(model, [], num_beams=2) == []
    with pytest.raises(ValueError, match="a batch size of 0"):
        generation.write(model, prompts, batch_size=0)


@torch.no_grad()
def test_more_beams_than_words(model):
    ids = sequence(model, [" a"])
    options = {"max_new_tokens": 3, "num_beams": len(model.text_tokenizer) + 1}
    assert generation.write(model, [ids], **options) == [through_generate(model, ids, **options)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "settings", "sizes"),
    [
        ({"early_stopping": True}, {}, {}),
        ({"num_beams": 4, "do_sample": True}, {}, {}),
        ({}, {"min_new_tokens": 3}, {}),  # a model's own
        ({}, {}, {"sliding_window": 4}),
        ({}, {}, {"model_type": "mpt"}),
    ],
)
def test_what_our_beam_search_does_not_do_is_left_to_generate(model, monkeypatch, options, settings, sizes):
    ids, options = sequence(model, ["a photo of a fox"]), {"max_new_tokens": 6, "num_beams": 2} | options
    model.lm.generation_config.update(**settings)
    torch.manual_seed(0)
    expected = through_generate(model, ids, **options)
    monkeypatch.setattr(generation, "text_by_beams", None)
    for name, value in sizes.items():
        monkeypatch.setattr(model.lm.config, name, value, raising=False)
        monkeypatch.setattr(model.lm, "generate", lambda **_: [[5]])
        expected = model.text_tokenizer.decode([5]).strip()
    torch.manual_seed(0)
    assert generation.write(model, [ids], **options) == [expected]


@torch.no_grad()
def test_sampling_is_seeded_and_valid(model):
    def drawn(seed: int, **options: float) -> torch.Tensor:
        sampling = Sampling(1.0, generator=torch.Generator().manual_seed(seed), **options)
        return generation.draw_codes(model, PROMPTS * 4, sampling)

    first = drawn(0)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    assert first.min() >= 0
    assert first.max() < 8192
    assert torch.equal(drawn(0, top_p=1e-6), generation.draw_codes(model, PROMPTS * 4))


@torch.no_grad()
def test_words_are_the_masked_full_vocabulary(model):
    prompts = [sequence(model, [torch.arange(32), text]) for text in ("A photo of", "Short answer.")]
    batched = generation.write(model, prompts, max_new_tokens=6, min_new_tokens=6)
    for row, text in zip(prompts, batched, strict=True):
        ids, end = list(row), model.text_tokenizer.eos_token_id
        for _ in range(6):
            logits = joint(model, ids)[: model.vocabulary.config.text]
            logits[end] = float("-inf")
            ids.append(int(logits.argmax()))
        assert text == model.text_tokenizer.decode(ids[len(row) :], skip_special_tokens=True).strip()


@torch.no_grad()
def test_text_streams_as_it_comes(model):
    prompt = sequence(model, ["a photo of"])
    pieces: list[str] = []
    (text,) = generation.write(model, [prompt], max_new_tokens=12, on_text=pieces.append)
    assert "".join(pieces).strip() == text
    assert "".join(pieces).strip() == generation.write(model, [prompt], max_new_tokens=12)[0]


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mixture_has_whole_pictures(model, temperature):
    """However keen it is on pictures, a picture is 32 codes, and the sequence fits the context."""
    model.vocabulary.write.bias[-2] += 50.0
    sampling = Sampling(temperature, generator=torch.Generator().manual_seed(0))
    out = generation.generate(model, ["a fox", torch.arange(32)], 5, max_images=2, sampling=sampling)
    pictures = [part for part in out if isinstance(part, torch.Tensor)]
    assert len(pictures) == 2
    assert all(p.shape == (32,) and int(p.min()) >= 0 and int(p.max()) < 8192 for p in pictures)
    model.vocabulary.write.bias[-2] -= 500.0
    assert all(isinstance(part, str) for part in generation.generate(model, ["a fox"], 5))


@torch.no_grad()
def test_any_of_the_end_tokens_ends_a_text(model, monkeypatch):
    """A chat model names several in its generation settings, and its tokenizer one."""
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", None)
    first = int(joint(model, sequence(model, ["a fox"]))[: model.vocabulary.config.text].argmax())
    assert generation.generate(model, ["a fox"], max_new_tokens=12, max_images=0) != []
    for stop in (first, [299, first]):
        monkeypatch.setattr(model.lm.generation_config, "eos_token_id", stop)
        assert generation.generate(model, ["a fox"], max_new_tokens=12, max_images=0) == []
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", None)
    own = model.text_tokenizer.convert_ids_to_tokens(first)
    model.text_tokenizer.eos_token = own  # of this test's model alone
    assert generation.generate(model, ["a fox"], max_new_tokens=12, max_images=0) == []
    assert generation.write(model, [sequence(model, ["a fox"])], max_new_tokens=12) == [""]


@torch.no_grad()
def test_pictures_in_and_out(model):
    image = np.full((20, 30, 3), 200, np.uint8)
    assert len(model.caption([image, image], max_new_tokens=4)) == 2
    assert len(model.answer(image, "what is it?", max_new_tokens=4)) == 1
    (picture,) = model.draw("a fox")
    assert picture.size == (128, 128)
    assert model.generate([image, "what is it?"], max_new_tokens=3, max_images=0)


def test_bad_input_is_refused(model):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match="an empty prompt"):
        model.draw(" ")
    with pytest.raises(ValueError, match="an empty prompt"):
        model.generate([])
    with pytest.raises(ValueError, match="an empty question"):
        model.answer(image, "")
    with pytest.raises(ValueError, match="2 questions about 1 pictures"):
        model.answer(image, ["what?", "where?"])
    with pytest.raises(ValueError, match="this model takes 160: shorten it"):
        model.draw("a fox " * 100)
    with pytest.raises(ValueError, match="exclude each other"):
        generation.draw_codes(model, ["a fox"], Sampling(1.0), num_beams=2)
    with pytest.raises(ValueError, match="a picture is 32 codes; got 31"):
        sequence(model, [torch.arange(31)])
    with pytest.raises(ValueError, match=r"valid are 0\.\.8191"):
        sequence(model, [torch.arange(32) + 8180])
    with pytest.raises(ValueError, match="expected at least 0"):
        Sampling(-1.0)


@torch.no_grad()
def test_a_cache_that_was_reset_starts_anew(model):
    ids = torch.tensor([sequence(model, ["a photo of a fox"])])
    cache = RoomyCache(model.lm, room=4)
    first = model.states(model.embed(ids), cache=cache)
    cache.reset()
    assert torch.equal(model.states(model.embed(ids), cache=cache), first)
    assert cache.get_seq_length() == ids.shape[1]
