"""SEED-LLaMA's and AnyGPT's layouts, as tiny random models: ids and greedy outputs are those of stock `generate`."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from seedtok.core.errors import CheckpointError, InputError
from seedtok.lm.decoding import Sampling
from seedtok.lm.native import (
    ANYGPT,
    INSTRUCTED_8B,
    INSTRUCTED_14B,
    PRETRAINED,
    SEED_LLAMA,
    TEMPLATES,
    find_layout,
    template_named,
    template_of,
)
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.seed import SeedTokenizer
from tiny_lms import native, text_tokenizer

pytestmark = pytest.mark.slow

NAMES = {"seed-llama": SEED_LLAMA, "anygpt": ANYGPT}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, seed: SeedTokenizer) -> dict[str, Path]:
    codes, root = len(seed.codebook.weight), tmp_path_factory.mktemp("native")
    return {
        "seed-llama": native(root / "seed-llama-8b-sft", SEED_LLAMA, codes, False),
        "anygpt": native(root / "anygpt", ANYGPT, codes, True),
    }


@pytest.fixture(params=NAMES)
def loaded(request, folders, seed) -> tuple[SeedLM, LlamaForCausalLM, object]:
    """A model as we load it, and as transformers does, with its tokenizer."""
    folder = folders[request.param]
    theirs = LlamaForCausalLM.from_pretrained(folder).eval()
    return SeedLM.from_pretrained(folder, seed=seed), theirs, AutoTokenizer.from_pretrained(folder)


def prompt_of(model: SeedLM, codes: list[int], text: str) -> str:
    """The published prompt, written out."""
    names = model.joint.names
    image = names.begin + "".join(names.code.format(code) for code in codes) + names.end
    around = model.template
    return "<s>" + around.start + around.before + image + text + around.after


def test_the_layout_is_read_from_the_tokenizer(loaded, seed):
    model, _, tokenizer = loaded
    names, layout = model.joint.names, model.vocabulary
    assert names in NAMES.values()
    assert layout.codes == len(seed.codebook.weight)
    for code in (0, 1, layout.codes - 1):
        assert tokenizer.convert_tokens_to_ids(names.code.format(code)) == layout.first_code + code
    assert tokenizer.convert_tokens_to_ids([names.begin, names.end]) == [layout.begin, layout.end]
    assert find_layout(text_tokenizer()) is None


def test_prompts_and_captions_are_those_of_generate(loaded, seed):
    model, theirs, tokenizer = loaded
    codes = torch.randint(len(seed.codebook.weight), (3, 32), generator=torch.Generator().manual_seed(1))
    expected = []
    for row in codes:
        ids = tokenizer(prompt_of(model, row.tolist(), model.template.caption), add_special_tokens=False).input_ids
        assert model.sequence([row, model.template.caption]) == ids
        banned = list(range(model.vocabulary.text, theirs.config.vocab_size))
        out = theirs.generate(
            torch.tensor([ids]), max_new_tokens=9, do_sample=False, min_new_tokens=9, suppress_tokens=banned
        )
        expected.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip())
    found = model.caption(codes, num_beams=1, max_new_tokens=9, min_new_tokens=9)
    assert [text.strip() for text in found] == expected


def test_drawings_are_those_of_generate_within_a_span(loaded):
    model, theirs, tokenizer = loaded
    layout = model.vocabulary
    allowed = list(range(layout.first_code, layout.first_code + layout.codes))
    text = (
        "<s>"
        + model.template.start
        + model.template.before
        + model.template.draw.replace("{}", "a fox")
        + model.template.after
        + (model.template.drawn and model.template.answer + model.template.drawn)
        + model.joint.names.begin
    )
    ids = tokenizer(text, add_special_tokens=False).input_ids
    out = theirs.generate(
        torch.tensor([ids]), max_new_tokens=32, min_new_tokens=32, do_sample=False,
        prefix_allowed_tokens_fn=lambda batch, sent: allowed,
    )  # fmt: skip
    assert (model.draw_codes("a fox") + layout.first_code).tolist() == [out[0, len(ids) :].tolist()]


def test_sampled_spans_are_all_valid(loaded, seed):
    model, _, _ = loaded
    sampling = Sampling(1.0, generator=torch.Generator().manual_seed(0))
    codes = model.draw_codes(["a fox", "a photo"] * 50, sampling)
    assert codes.shape == (100, 32)
    assert 0 <= int(codes.min()) <= int(codes.max()) < len(seed.codebook.weight)


def test_a_chat_of_several_turns_is_one_prompt(loaded, seed):
    model, _, tokenizer = loaded
    codes = torch.arange(32)
    around, turns = model.template, [[codes, " what is it"], ["a fox"], ["and now"]]
    names = model.joint.names
    image = names.image(codes.tolist())
    text = (
        f"<s>{around.start}{around.before}{image} what is it{around.after}"
        f"{around.answer}a fox{around.between}{around.before}and now{around.after}"
    )
    assert model.joint.sequence(around.wrap(turns)) == tokenizer(text, add_special_tokens=False).input_ids
    assert isinstance(model.chat(turns, max_new_tokens=4, max_images=1), list)
    with pytest.raises(InputError, match="2 turns: give an odd number"):
        model.chat(turns[:2])


def test_it_survives_saving(loaded, seed, tmp_path):
    model, _, _ = loaded
    model.save_pretrained(tmp_path / "again")
    again = SeedLM.from_pretrained(tmp_path / "again", seed=seed)
    assert again.vocabulary == model.vocabulary
    assert torch.equal(again.draw_codes("a fox"), model.draw_codes("a fox"))


def test_templates_go_by_the_published_names():
    small, large = (LlamaConfig(hidden_size=size, num_attention_heads=2) for size in (4096, 5120))
    assert template_of("AILab-CVC/seed-llama-8b-sft", small) is INSTRUCTED_8B
    assert template_of("AILab-CVC/seed-llama-14b-sft", large) is INSTRUCTED_14B
    assert template_of("AILab-CVC/seed-llama-8b-pretrain", small) is PRETRAINED
    assert template_of("/data/sft/seed-llama-8b-pretrain", small) is PRETRAINED
    in_cache = "/hub/models--AILab-CVC--seed-llama-8b-sft/snapshots/0123abc"
    assert template_of(in_cache, small) is INSTRUCTED_8B
    assert template_of("fnlp/AnyGPT-base", small, ANYGPT) is TEMPLATES["anygpt"]
    assert template_of("fnlp/AnyGPT-chat", small, ANYGPT) is TEMPLATES["anygpt-chat"]
    assert INSTRUCTED_8B.wrap([["a", "b"]]) == ["USER: ", "a", "b", "\nASSISTANT:"]
    assert INSTRUCTED_14B.wrap([["a"]]) == ["[INST] ", "a", " [/INST]\n"]
    assert TEMPLATES["plain"].wrap([["a"]]) == ["a"]
    with pytest.raises(InputError, match="no template 'x': choose plain"):
        template_named("x")


def test_an_instructed_model_is_asked_in_the_words_of_its_training(folders, seed):
    model = SeedLM.from_pretrained(folders["seed-llama"], seed=seed)
    codes, words = torch.arange(32), model.joint.text_tokenizer
    image, asked = SEED_LLAMA.image(codes.tolist()), []
    complete = model.joint.sequence
    model.joint.sequence = lambda segments: asked.append(complete(segments)) or asked[-1]
    model.answer(codes[None], "What is it?", max_new_tokens=1)
    model.draw_codes("A fox.")
    expected = (
        f"<s>USER: {image}What is it? Please provide an accurate answer consisting of only one word or phrase."
        "\nASSISTANT:",
        "<s>USER: Generate an image of A fox.\nASSISTANT: Here's an image.",
    )
    assert asked == [words(text, add_special_tokens=False).input_ids for text in expected]


def test_what_anygpt_says_ends_with_its_own_tokens(folders, seed):
    joint = SeedLM.from_pretrained(folders["anygpt"], seed=seed).joint
    joint.text_tokenizer.add_tokens(["<eos>", "<eom>"])
    stops = [joint.text_tokenizer.convert_tokens_to_ids(name) for name in ("<eos>", "<eom>")]
    assert set(stops) < set(joint.end_ids)
    assert None not in joint.end_ids
    assert joint.text_tokenizer.unk_token_id not in joint.end_ids
    assert joint.text_of([*joint.text_ids("a fox"), *stops]) == "a fox"


def test_a_stop_behind_the_codes_can_end_a_text(folders, seed, monkeypatch):
    model = SeedLM.from_pretrained(folders["anygpt"], seed=seed)
    head = model.joint.lm.lm_head
    last = len(head.weight) - 1  # no code, and no boundary
    head.weight.data[:] = 0  # all are equally likely: the first that is possible is taken
    monkeypatch.setattr(type(model.joint), "end_ids", property(lambda _: [last]))
    prompt = torch.tensor([model.sequence(["what is it"])])
    head.weight.data[last] = model.joint.states(model.joint.embed(prompt))[0, -1]
    assert last >= model.vocabulary.text
    assert model.chat([["what is it"]], max_new_tokens=4) == []
    for beams in (1, 5):
        assert len(model.caption(torch.arange(32)[None], num_beams=beams, max_new_tokens=8, min_new_tokens=0)) == 1


def test_a_tokenizer_whose_unknown_token_ends_texts_too_ends_them(folders, seed):
    """As OPT's and GPT-2's."""
    joint = SeedLM.from_pretrained(folders["anygpt"], seed=seed).joint
    joint.text_tokenizer.unk_token = joint.text_tokenizer.eos_token
    assert joint.text_tokenizer.eos_token_id in joint.end_ids


def test_what_it_lacks_is_said(folders, bases, seed, tmp_path):
    with pytest.raises(CheckpointError, match="names no image tokenizer: give one"):
        SeedLM.from_pretrained(folders["seed-llama"])
    with pytest.raises(CheckpointError, match="a language model without codes: train SEED-OPT on it"):
        SeedLM.from_pretrained(bases["llama"], seed=seed)
    fewer = native(tmp_path / "fewer", SEED_LLAMA, 5, False)
    with pytest.raises(CheckpointError, match=r"has 5 codes, and the image tokenizer \d+"):
        SeedLM.from_pretrained(fewer, seed=seed)
    tokenizer = text_tokenizer()
    tokenizer.add_tokens(["<img_00000>", "<else>", "<img_00001>", "<img>", "</img>"])
    with pytest.raises(CheckpointError, match="<img_00001> has the id"):
        find_layout(tokenizer)
