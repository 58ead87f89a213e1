"""Llamas with the text tokenizer of their time, a model of sentencepiece: ids are those of sentencepiece itself."""

import json
import re
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from transformers import AutoProcessor, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from seedtok.core.errors import CheckpointError
from seedtok.lm.native import SEED_LLAMA, TEMPLATES
from seedtok.lm.seed_lm import SeedLM
from seedtok.tokenizer.seed import SeedTokenizer
from tiny_lms import WIDE

TEXT = "USER: ASSISTANT: What is this? A photo of a fox. Generate an image of a dog on a beach. Question: Answer:"
PIECES = 320


def llama(folder: Path, codes: int = 0, **config: object) -> Path:
    """A tiny random Llama, with codes as tokens of its own if it is to have any; `config` is its tokenizer's."""
    torch.manual_seed(0)
    folder.mkdir()
    (folder / "text.txt").write_text("\n".join(word for word in TEXT.split() for _ in range(9)))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=PIECES, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2, num_threads=1, normalization_rule_name="identity",
        remove_extra_whitespaces=False,
    )  # fmt: skip
    size = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model")).vocab_size()
    names = [
        *(SEED_LLAMA.code.format(code) for code in range(codes)),
        *((SEED_LLAMA.begin, SEED_LLAMA.end) if codes else ()),
    ]
    (folder / "added_tokens.json").write_text(json.dumps({name: size + i for i, name in enumerate(names)}))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", **special, **config})
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "vocab_size": size + len(names)}
    LlamaForCausalLM(LlamaConfig(**WIDE, **ids, initializer_range=0.3)).save_pretrained(folder)
    return folder


def pieces(folder: Path, text: str) -> list[str]:
    """As sentencepiece splits a text, part by part between the tokens that are not of its model.

    Those that were added, all but "<s>", take the spaces beside them away.
    """
    model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    parts = re.split(r"(<s>|\s*<img_\d+>\s*|\s*</?img>\s*)", text)
    parts = [part.strip() if "<img" in part or "</img" in part else part for part in parts]
    split = [[p] if p.startswith("<") else model.id_to_piece(model.encode(p)) for p in parts if p]
    return [piece for own in split for piece in own]


@pytest.mark.parametrize("config", [{}, {"legacy": True}])
@pytest.mark.parametrize("template", ["pretrained", "vicuna", "llama2"])
def test_a_published_llama_reads_a_prompt_as_when_it_was_trained(seed, tmp_path, config, template):
    folder = llama(tmp_path / "seed-llama", len(seed.codebook.weight), **config)
    model = SeedLM.from_pretrained(folder, seed=seed, template=TEMPLATES[template])
    codes = torch.arange(32)
    turn = [codes, "What is this?"]
    image = SEED_LLAMA.image(codes.tolist())
    text = "<s>" + "".join(part if isinstance(part, str) else image for part in model.template.wrap([turn]))
    read = model.joint.text_tokenizer.convert_ids_to_tokens(model.sequence(turn))
    assert read == pieces(folder, text)
    model.save_pretrained(tmp_path / "again")
    again = SeedLM.from_pretrained(tmp_path / "again", seed=seed, template=model.template)
    assert again.sequence(turn) == model.sequence(turn)
    kept = next((tmp_path / "again").rglob("tokenizer_config.json")).parent
    assert AutoTokenizer.from_pretrained(kept)(text, add_special_tokens=False).input_ids == model.sequence(turn)


def test_the_text_tokenizer_that_is_published_with_the_image_tokenizer_is_found(seed, tmp_path, monkeypatch):
    """As of SEED-LLaMA's instructed models."""
    folder = llama(tmp_path / "seed-llama-8b-sft", len(seed.codebook.weight))
    whole = SeedLM.from_pretrained(folder, seed=seed)
    (tmp_path / "beside").mkdir()
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
        (folder / name).rename(tmp_path / "beside" / name)
    monkeypatch.setattr("seedtok.lm.plain_files.SEED_LLAMA_IDS", whole.vocabulary.size)
    monkeypatch.setattr("seedtok.lm.plain_files.downloaded", lambda *_, **__: tmp_path / "beside")
    found = SeedLM.from_pretrained(folder, seed=seed)
    prompt = [torch.arange(32), "What is this?"]
    assert found.sequence(prompt) == whole.sequence(prompt)

    def unreachable(*_, **__):
        raise CheckpointError("the hub cannot be reached")

    monkeypatch.setattr("seedtok.lm.plain_files.downloaded", unreachable)
    with pytest.raises(CheckpointError, match=r"no text tokenizer: copy the one of AILab-CVC/seed-tokenizer-2 into it"):
        SeedLM.from_pretrained(folder, seed=seed)


def test_where_its_files_say_otherwise_they_are_right(seed, tmp_path):
    folder = llama(tmp_path / "seed-llama", len(seed.codebook.weight), legacy=False)
    model = SeedLM.from_pretrained(folder, seed=seed)
    tokens = model.joint.text_tokenizer.convert_ids_to_tokens(model.sequence([torch.arange(32), "What is"]))
    assert tokens[-len(pieces(folder, "What is")) + 1 :] == pieces(folder, "What is")[1:]
    assert tokens != pieces(folder, "<s>" + SEED_LLAMA.image(range(32)) + "What is")


def test_seed_opt_on_a_llama_is_asked_by_servers_as_it_was_trained(seed: SeedTokenizer, tmp_path):
    """Training tokenizes texts and images one by one, a processor the whole prompt."""
    model = SeedLM.build(llama(tmp_path / "llama"), seed)
    codes = torch.arange(32)
    expected = model.sequence([codes, "A photo of"])
    model.save_transformers(tmp_path / "auto")
    processor = AutoProcessor.from_pretrained(tmp_path / "auto")
    names = processor.tokenizer.convert_ids_to_tokens(model.joint.image_ids(codes))
    for folder in ("auto", "plain"):
        if folder == "plain":
            model.save_plain(tmp_path / "plain")
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / folder)
        found = tokenizer("<s>" + "".join(names) + "A photo of", add_special_tokens=False).input_ids
        assert found == expected, folder
    drawn = model.drawing_ids("a fox")
    assert processor(text="Generate an image a fox")["input_ids"][0].tolist() == drawn


def test_what_is_not_installed_or_not_there_is_said(seed, tmp_path, monkeypatch):
    folder = llama(tmp_path / "seed-llama", len(seed.codebook.weight))
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "sentencepiece", None)
        without.setattr("transformers.utils.import_utils.is_sentencepiece_available", lambda: False)
        with pytest.raises(CheckpointError, match=r"takes sentencepiece and protobuf: pip install 'seedtok\[llama\]'"):
            SeedLM.from_pretrained(folder, seed=seed)
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="it has no text tokenizer: its files"):
        SeedLM.from_pretrained(folder, seed=seed)
