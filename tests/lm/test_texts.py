"""Texts off a joint LM: greedy and by beams, against `generate` and against logits without a cache."""

import itertools

import pytest
import torch

from seedtok.core.errors import InputError
from seedtok.lm import texts
from seedtok.lm.beams import BeamSearch
from seedtok.lm.prompts import TextSettings
from seedtok.lm.texts import candidates, complete


def through_generate(model, ids: list[int], settings: TextSettings) -> str:
    """The text before the first of the end ids, those of the generation config and the text tokenizer's."""
    named = model.lm.generation_config.eos_token_id
    ends = {1, *(named if isinstance(named, list) else [] if named is None else [named])}
    options = {"pad_token_id": 2, "eos_token_id": sorted(ends)} | settings.arguments()
    mask = torch.ones(1, len(ids), dtype=torch.long)
    out = model.lm.generate(inputs_embeds=model.embed(torch.tensor([ids])), attention_mask=mask, **options)
    before_end = list(itertools.takewhile(lambda token: token not in ends, out[0].tolist()))
    return model.text_tokenizer.decode(before_end, skip_special_tokens=True).strip()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize(("min_new_tokens", "ends"), [(0, 32), (4, 32), (0, 1), (0, 200)])
@pytest.mark.parametrize("batch_size", [2, None])
def test_beams_find_what_generate_finds(model, monkeypatch, length_penalty, min_new_tokens, ends, batch_size):
    likely = torch.randperm(len(model.text_tokenizer))[:ends].tolist()  # random models seldom end by themselves
    model.lm.generation_config.eos_token_id = likely
    prompts = [model.sequence([torch.randint(0, 64, (32,)), " a" * n]) for n in (1, 4, 2, 30, 3)]
    settings = TextSettings(4, 12, min_new_tokens, length_penalty)
    expected = [through_generate(model, ids, settings) for ids in prompts]
    monkeypatch.setattr(texts, "_generate", None)
    assert complete(model, prompts, settings, batch_size) == expected


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_waiting_prompts_take_the_rows_of_others(model, monkeypatch, batch_size):
    dropped, compact = [], BeamSearch._compact

    def counted(search: BeamSearch) -> None:
        before = search.visible.shape[2]
        compact(search)
        assert search.visible.shape[2] == search.cache.get_seq_length() <= before
        dropped.append(before - search.visible.shape[2])

    monkeypatch.setattr(BeamSearch, "_compact", counted)
    model.lm.generation_config.eos_token_id = torch.randperm(len(model.text_tokenizer))[:8].tolist()
    prompts = [model.sequence([torch.randint(0, 64, (32,)), " a" * (n % 7)]) for n in range(17)]
    settings = TextSettings(num_beams=3, max_new_tokens=40)
    assert complete(model, prompts, settings, batch_size) == [through_generate(model, p, settings) for p in prompts]
    assert sum(dropped) > 0


@torch.no_grad()
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [2, None])
def test_candidates_are_the_best_texts_that_generate_keeps(model, length_penalty, batch_size):
    """With its log-probabilities, which are also those of the logits without a cache."""
    ends = torch.randperm(len(model.text_tokenizer))[:64].tolist()
    model.lm.generation_config.eos_token_id = ends
    prompts = [model.sequence([torch.randint(0, 64, (32,)), " a" * n]) for n in (1, 4, 2)]
    settings = TextSettings(4, 8, length_penalty=length_penalty)
    found = candidates(model, prompts, settings, batch_size)
    for ids, own in zip(prompts, found, strict=True):
        out = model.lm.generate(
            inputs_embeds=model.embed(torch.tensor([ids])), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pad_token_id=2, eos_token_id=sorted({1, *ends}), num_return_sequences=4, return_dict_in_generate=True,
            output_scores=True, **settings.arguments(),
        )  # fmt: skip
        assert len(own) == 4
        for (text, log_prob), row, score in zip(own, out.sequences.tolist(), out.sequences_scores, strict=True):
            length = next((n for n, token in enumerate(row, 1) if token in {1, *ends}), len(row))
            states = model.states(model.embed(torch.tensor([[*ids, *row[: length - 1]]])))[0, len(ids) - 1 :]
            log_probs = model.text_logits(states).log_softmax(-1)
            alone = log_probs.gather(1, torch.tensor(row[:length])[:, None]).sum()
            torch.testing.assert_close(torch.tensor(log_prob), alone, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(alone / length**length_penalty, score, rtol=1e-4, atol=1e-4)
            said = row[: length - 1] if row[length - 1] in {1, *ends} else row
            assert text == model.text_tokenizer.decode(said, skip_special_tokens=True).strip()
    with pytest.raises(InputError, match="only the best text is known"):
        candidates(model, prompts, TextSettings(4, generate_options={"do_sample": True}))
    assert candidates(model, [], settings) == []


@torch.no_grad()
def test_batches_of_generate_and_no_prompts(model):
    prompts, greedy = [model.sequence([" a" * n]) for n in (1, 4, 2)], TextSettings()
    assert complete(model, prompts, greedy, 2) == [complete(model, [prompt], greedy)[0] for prompt in prompts]
    assert complete(model, [], TextSettings(2)) == []
    with pytest.raises(InputError, match="a batch size of 0"):
        complete(model, prompts, greedy, 0)
    with pytest.raises(InputError, match="0 beams"):
        TextSettings(0)


@torch.no_grad()
def test_more_beams_than_tokens(model):
    ids, settings = model.sequence([" a"]), TextSettings(len(model.text_tokenizer) + 1, 3)
    assert complete(model, [ids], settings) == [through_generate(model, ids, settings)]


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "own", "window"),
    [
        ({"early_stopping": True}, {}, None),
        ({"do_sample": True}, {}, None),
        ({}, {"min_new_tokens": 3}, None),  # a generation config's
        ({}, {}, 4),
    ],
)
def test_what_our_beam_search_does_not_do_is_left_to_generate(model, monkeypatch, options, own, window):
    ids, settings = model.sequence(["a photo of a fox"]), TextSettings(4, 6, generate_options=options)
    model.lm.generation_config.update(**own)
    torch.manual_seed(0)
    expected = through_generate(model, ids, settings)
    monkeypatch.setattr(texts, "search_texts", None)
    if window is not None:
        monkeypatch.setattr(model.lm.config, "sliding_window", window, raising=False)
        monkeypatch.setattr(model.lm, "generate", lambda **_: torch.tensor([[5]]))
        expected = model.text_tokenizer.decode([5]).strip()
    torch.manual_seed(0)
    assert complete(model, [ids], settings) == [expected]


@torch.no_grad()
def test_greedy_text_is_the_most_likely_of_the_masked_logits(model):
    prompts = [model.sequence([torch.arange(32), text]) for text in ("A photo of", "Short answer.")]
    batched = complete(model, prompts, TextSettings(max_new_tokens=6, min_new_tokens=6))
    for row, text in zip(prompts, batched, strict=True):
        ids, end = list(row), model.text_tokenizer.eos_token_id
        for _ in range(6):
            logits = model.logits(model.states(model.embed(torch.tensor([ids]))))[0, -1, : model.vocabulary.text]
            logits[end] = float("-inf")
            ids.append(int(logits.argmax()))
        assert text == model.text_tokenizer.decode(ids[len(row) :], skip_special_tokens=True).strip()


@torch.no_grad()
def test_text_streams_as_it_comes(model):
    prompt, settings = model.sequence(["a photo of"]), TextSettings(max_new_tokens=12)
    pieces: list[str] = []
    (text,) = complete(model, [prompt], settings, on_text=pieces.append)
    assert "".join(pieces).strip() == text == complete(model, [prompt], settings)[0]


@torch.no_grad()
def test_an_end_id_of_the_text_tokenizer_ends_a_text(model, monkeypatch):
    monkeypatch.setattr(model.lm.generation_config, "eos_token_id", None)
    prompt = model.sequence(["a fox"])
    first = int(model.text_logits(model.states(model.embed(torch.tensor([prompt]))))[0, -1].argmax())
    model.text_tokenizer.eos_token = model.text_tokenizer.convert_ids_to_tokens(first)  # of this test's model alone
    assert complete(model, [prompt], TextSettings(max_new_tokens=12)) == [""]
