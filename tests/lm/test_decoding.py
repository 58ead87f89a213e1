"""Codes of images, against the same written out without a cache over the whole vocabulary."""

import copy

import pytest
import torch

from seedtok.core.errors import InputError
from seedtok.lm.decoding import DRAFT, Sampling, decode_image, draw_codes, image_log_probs
from seedtok.lm.prompts import drawing_prompt
from seedtok.lm.sequences import CachedSequences

PROMPTS = ["a fox on a red background", "a cake", "two bees to the left of a photo on a red background"]


def prompts_of(model, count: int = len(PROMPTS)) -> list[list[int]]:
    return [model.sequence([drawing_prompt(prompt)]) for prompt in PROMPTS[:count]]


def next_logits(model, ids: list[int]) -> torch.Tensor:
    """Logits of the next token over the whole vocabulary, no cache, no batch."""
    return model.logits(model.states(model.embed(torch.tensor([ids]))))[0, -1]


def only_codes(model, logits: torch.Tensor) -> torch.Tensor:
    masked = torch.full_like(logits, float("-inf"))
    inside = slice(model.vocabulary.first_code, model.vocabulary.begin)
    masked[inside] = logits[inside]
    return masked


def drawn_one_by_one(model, prompt: list[int]) -> list[int]:
    """The greedy codes after a prompt, each by a forward over all ids."""
    ids = [*prompt, model.vocabulary.begin]
    for _ in range(32):
        ids.append(int(only_codes(model, next_logits(model, ids)).argmax()))
    return [i - model.vocabulary.first_code for i in ids[len(prompt) + 1 :]]


@torch.no_grad()
def test_drawing_is_the_masked_full_vocabulary(model):
    drawn = draw_codes(model, prompts_of(model))
    assert drawn.shape == (3, 32)
    assert drawn.dtype == torch.int64
    assert drawn.tolist() == [drawn_one_by_one(model, prompt) for prompt in prompts_of(model)]


@torch.no_grad()
def test_the_log_probability_of_an_image_is_that_of_its_codes_one_by_one(model):
    prompts, codes = prompts_of(model), torch.randint(0, model.vocabulary.codes, (3, 32))
    found = image_log_probs(model, prompts, codes, batch_size=2)
    for prompt, image, log_prob in zip(prompts, codes, found, strict=True):
        ids, expected = [*prompt, model.vocabulary.begin], 0.0
        for code in image.tolist():
            logits = only_codes(model, next_logits(model, ids))
            ids.append(model.vocabulary.first_code + code)
            expected += float(logits.log_softmax(-1)[ids[-1]])
        assert float(log_prob) == pytest.approx(expected, rel=1e-4)
    assert image_log_probs(model, [], codes[:0]).shape == (0,)
    with pytest.raises(InputError, match="shorten it"):
        image_log_probs(model, [[5] * model.context], codes[:1])


@torch.no_grad()
@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_without_a_cache_it_draws_the_same(model, monkeypatch):
    expected = draw_codes(model, prompts_of(model)), draw_codes(model, prompts_of(model, 1), num_beams=2)
    monkeypatch.setattr("seedtok.lm.decoding.supports_cache", lambda _: False)
    assert torch.equal(draw_codes(model, prompts_of(model)), expected[0])
    assert torch.equal(draw_codes(model, prompts_of(model, 1))[0], expected[0][0])
    assert torch.equal(draw_codes(model, prompts_of(model, 1), num_beams=2), expected[1])


@torch.no_grad()
def test_one_image_is_drawn_by_drafts_as_it_would_be_code_by_code(model, monkeypatch):
    together = draw_codes(model, prompts_of(model))
    passes = []
    extend = CachedSequences.extend
    monkeypatch.setattr(
        CachedSequences, "extend", lambda rows, ids, used: passes.append(ids.shape) or extend(rows, ids, used)
    )
    for prompt, codes in zip(prompts_of(model), together, strict=True):
        assert torch.equal(draw_codes(model, [prompt])[0], codes)
    assert all(rows == 1 and window <= DRAFT for rows, window in passes)
    assert len(passes) <= 31 * len(PROMPTS)


@torch.no_grad()
@pytest.mark.parametrize("draft", [1, 2, 5, 40])
def test_images_are_drawn_by_drafts_as_each_alone(model, monkeypatch, draft):
    """Prompts of several lengths, the code that would follow too: the sequences can be continued."""
    monkeypatch.setattr("seedtok.lm.decoding.BATCH_DRAFT", draft)
    rows = [[*prompt, model.vocabulary.begin] for prompt in prompts_of(model)]
    sequences = CachedSequences(model, rows)
    codes = decode_image(sequences, Sampling())
    assert codes.tolist() == [drawn_one_by_one(model, prompt) for prompt in prompts_of(model)]
    states = sequences.append(model.vocabulary.code_ids(codes[:, -1]))
    for row, drawn, state in zip(rows, codes, states, strict=True):
        ids = torch.tensor([[*row, *model.vocabulary.code_ids(drawn).tolist()]])
        assert torch.allclose(state, model.states(model.embed(ids))[0, -1], atol=1e-4)


@torch.no_grad()
def test_where_each_code_of_a_draft_costs_as_much_as_one_there_is_no_draft(model, monkeypatch):
    monkeypatch.setattr("seedtok.lm.decoding.computes_bfloat16_fast", lambda _: False)
    windows = []
    extend = CachedSequences.extend
    monkeypatch.setattr(
        CachedSequences, "extend", lambda rows, ids, used: windows.append(ids.shape[1]) or extend(rows, ids, used)
    )
    draw_codes(model, prompts_of(model, 1))
    assert max(windows) == DRAFT
    windows.clear()
    draw_codes(copy.deepcopy(model).bfloat16(), prompts_of(model, 1))
    assert windows == [1] * 31


@torch.no_grad()
def test_the_logits_of_codes_alone_are_those_of_the_whole_vocabulary(model):
    states = torch.randn(5, model.adapter.config.hidden)
    inside = slice(model.vocabulary.first_code, model.vocabulary.begin)
    whole = model.logits(states)[:, inside]
    assert torch.equal(model.code_logits(states).argmax(-1), whole.argmax(-1))
    torch.testing.assert_close(model.code_logits(states), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_beams_find_what_a_plain_search_finds(model):
    beams = 3
    found = draw_codes(model, prompts_of(model, 2), num_beams=beams)
    for prompt, codes in zip(prompts_of(model, 2), found, strict=True):
        start = [*prompt, model.vocabulary.begin]
        kept: list[tuple[float, list[int]]] = [(0.0, start)]
        for _ in range(32):
            grown = []
            for score, ids in kept:
                log_probs = only_codes(model, next_logits(model, ids)).log_softmax(-1)
                best = log_probs.topk(beams)
                grown += [(score + float(v), [*ids, int(i)]) for v, i in zip(best.values, best.indices, strict=True)]
            kept = sorted(grown, key=lambda pair: -pair[0])[:beams]
        assert [i - model.vocabulary.first_code for i in kept[0][1][len(start) :]] == codes.tolist()


@pytest.mark.slow
@torch.no_grad()
def test_sampling_is_seeded_and_valid(model):
    prompts = prompts_of(model) * 4

    def drawn(seed: int, **options: float) -> torch.Tensor:
        return draw_codes(model, prompts, Sampling(1.0, generator=torch.Generator().manual_seed(seed), **options))

    first = drawn(0)
    assert torch.equal(first, drawn(0))
    assert not torch.equal(first, drawn(1))
    assert first.min() >= 0
    assert first.max() < 8192
    assert torch.equal(drawn(0, top_p=1e-6), draw_codes(model, prompts))


def test_top_p_keeps_the_most_likely_tokens_of_that_mass():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(2000, -1)
    sampling = Sampling(1.0, 0.75, torch.Generator().manual_seed(0))
    counts = sampling.next_tokens(logits).bincount(minlength=4) / 2000
    assert counts[2:].sum() == 0
    assert float(counts[0]) == pytest.approx(0.5 / 0.8, abs=0.04)


@pytest.mark.parametrize("sampling", [Sampling(1e-320), Sampling(1e-38), Sampling(1e-6), Sampling(1.0, 1e-320)])
def test_the_coldest_and_narrowest_sampling_is_greedy(sampling):
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0)) * 100
    assert torch.equal(sampling.next_tokens(logits), logits.argmax(-1))


def test_bad_input_is_refused(model):
    with pytest.raises(InputError, match="exclude each other"):
        draw_codes(model, prompts_of(model), Sampling(1.0), num_beams=2)
    with pytest.raises(InputError, match="0 beams"):
        draw_codes(model, prompts_of(model), num_beams=0)
    with pytest.raises(InputError, match="expected at least 0"):
        Sampling(-1.0)
    with pytest.raises(InputError, match="this model takes 160: shorten it"):
        draw_codes(model, [[5] * 150])
