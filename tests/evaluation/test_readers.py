"""Models that read pictures say through the evaluation what they say by themselves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessorPil

import publishers
from seedtok.baselines.prefix_lm import PrefixLM
from seedtok.core.errors import CheckpointError, ConfigError, InputError
from seedtok.core.files import BLOCK, BLOCKS
from seedtok.evaluation.foreign import identity_of
from seedtok.evaluation.prompts import PAPER, Prompts
from seedtok.evaluation.readers import (
    ForeignBlip2Reader,
    PrefixReader,
    RerankingReader,
    SeedReader,
    load_reader,
    reranking,
)
from seedtok.evaluation.run import Run
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm.native import BRIEFLY, DESCRIBE, SEED_LLAMA
from seedtok.lm.prompts import ANSWERING, CAPTIONING, TextSettings
from seedtok.lm.seed_lm import SeedLM
from seedtok.lm.texts import complete
from tiny_lms import native

pytestmark = pytest.mark.slow

QUESTIONS = [["Is it sunny?", "What is on the table?"], [], ["How many dogs?"]]
SHORT, ANSWER = replace(CAPTIONING, num_beams=2), replace(ANSWERING, num_beams=2)
ASKED = [[PAPER.asked(question) for question in own] for own in QUESTIONS]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.effect_noise((40 + i, 30), 80 + 20 * i).convert("RGB") for i in range(3)]


def test_a_seed_lm_of_any_base_says_what_it_says_by_itself(seed_lm: SeedLM, pictures):
    reader = SeedReader(seed_lm)
    assert reader.write(pictures, [[PAPER.caption]] * 3, SHORT) == seed_lm.caption(pictures, num_beams=2)
    several = [pictures[0], pictures[0], pictures[2]]
    flat = [question for own in QUESTIONS for question in own]
    assert reader.write(pictures, ASKED, ANSWER) == seed_lm.answer(several, flat, num_beams=2)


def test_reranked_it_says_what_it_says_by_itself(seed_lm: SeedLM, pictures):
    reader = RerankingReader(seed_lm)
    expected = seed_lm.caption(pictures, num_beams=2, rerank=True)
    assert reader.write(pictures, [[PAPER.caption]] * 3, SHORT) == expected
    assert reader.settings["reranked_by"] == seed_lm.template.draw
    assert list(reranking({"a": SeedReader(seed_lm), "b": reader}, SHORT)) == ["a", "a_reranked", "b", "b_reranked"]
    with pytest.raises(InputError, match="one beam"):
        reranking({"a": reader}, replace(SHORT, num_beams=1))
    with pytest.raises(ConfigError, match="none of these models draws"):
        reranking({}, SHORT)


def test_described_first_the_picture_is_not_read_for_the_answer(tiny_lm, sets, cli, prepared, tmp_path):
    model = SeedLM.from_pretrained(tiny_lm)
    data = sets["vqav2"]
    arguments = ("evaluate", "vqa", "--model", tiny_lm, "--data", prepared["vqav2"], "--beams", 1, "--json")
    code, out, error = cli(*arguments, "--describe", "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    found = json.loads(out)
    plain = json.loads(cli(*arguments)[1])
    assert found["seed_opt"] == plain["seed_opt"]
    assert found["settings"]["models"]["seed_opt_describing"]["describes_first"]["prompt"] == PAPER.caption
    said = {}
    for entry, text in zip(data, model.caption([data.picture(i) for i in range(len(data))]), strict=True):
        for question in entry.questions:
            prompt = model.joint.sequence([f"{text} {PAPER.asked(question.text)}"])
            (said[question.id],) = complete(model.joint, [prompt], replace(ANSWERING, num_beams=1), 1)
    written = json.loads((tmp_path / "out/seed_opt_describing.json").read_text())
    assert {record["question_id"]: record["answer"] for record in written} == said


def test_the_baseline_says_what_it_says_by_itself(bases, seed, tmp_path, pictures):
    seed.embedder.save_pretrained(tmp_path / "qformer")
    torch.manual_seed(2)
    model = PrefixLM.on_qformer(bases["opt"], tmp_path / "qformer")
    pixels, reader = seed.pixels(pictures), PrefixReader(model)
    assert reader.write(pictures, [[PAPER.caption]] * 3, SHORT) == model.caption(pixels, num_beams=2)
    flat = [question for own in QUESTIONS for question in own]
    assert reader.write(pictures, ASKED, ANSWER) == model.answer(pixels[[0, 0, 2]], flat, num_beams=2)


@pytest.fixture(scope="module")
def blip2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip2-opt") / "blip2-opt"
    publishers.blip2_opt(folder)
    return folder


@pytest.mark.parametrize("decoding", [TextSettings(1, 6, 3), TextSettings(3, 6, None, 0.0), TextSettings(2, 5, 4)])
def test_blip2_of_transformers_says_what_its_processor_and_generate_say(blip2, pictures, decoding):
    """Each prompt alone through the processor, where nothing is padded."""
    model = Blip2ForConditionalGeneration.from_pretrained(blip2).eval()
    words = AutoTokenizer.from_pretrained(blip2)
    processor = Blip2Processor(BlipImageProcessorPil.from_pretrained(blip2), words, num_query_tokens=32)
    expected = []
    for picture, own in zip(pictures, ASKED, strict=True):
        for text in own:
            inputs = processor(images=picture, text=text, return_tensors="pt")
            out = model.generate(**inputs, pad_token_id=words.pad_token_id, **decoding.arguments())
            after = out[0, inputs.input_ids.shape[1] :]
            expected.append(words.decode(after, skip_special_tokens=True).strip())
    found = load_reader(blip2).write(pictures, ASKED, decoding)
    assert found == expected
    assert any(found)


def test_blip2_of_transformers_in_a_whole_evaluation(blip2, sets, cli, prepared, tmp_path):
    found = evaluate_vqa({"blip2": load_reader(blip2)}, sets["vqav2"], Run(batch_size=2))
    assert set(found["blip2"]) == {"accuracy", "yes/no", "number", "other"}
    assert found["settings"]["models"]["blip2"]["preprocessing"]["size"] == {"height": 28, "width": 28}
    code, out, error = cli(
        "evaluate", "vqa", "--model", blip2, "--data", prepared["vqav2"], "--batch-size", 2, "--json", "--prompt",
        "lavis", "--beams", 1, "--out", tmp_path / "out",
    )  # fmt: skip
    assert (code, error) == (0, "")
    shown = json.loads(out)
    assert shown["settings"]["prompt"] == "Question: {} Short answer:"
    assert shown["settings"]["decoding"]["num_beams"] == 1
    assert shown["count"] == 3


def test_an_encoder_decoder_is_refused(blip2):
    reader = load_reader(blip2)
    reader.model.config.image_token_index = None
    with pytest.raises(CheckpointError, match="evaluate one on OPT"):
        ForeignBlip2Reader(reader.model, reader.words, reader.preprocessing)


def test_what_reads_no_pictures_is_refused(bases, tiny_tokenizer, cli):
    code, _, error = cli("evaluate", "vqa", "--model", bases["opt"])
    assert code == 2
    assert "names no image tokenizer: give one" in error
    code, _, error = cli("evaluate", "vqa", "--model", tiny_tokenizer)
    assert code == 2
    assert "is a SEED tokenizer: for captioning and vqa, give a SEED language model" in error


@pytest.mark.parametrize("form", ["seed-llama-8b-sft", "plain"])
def test_a_model_with_codes_among_its_tokens_is_asked_as_it_was_trained(
    form, seed, tiny_lm, tiny_tokenizer, pictures, cli, prepared, tmp_path
):
    folder, tokenizer = tmp_path / form, tiny_tokenizer
    if form == "plain":
        SeedLM.from_pretrained(tiny_lm).save_plain(folder)
        tokenizer = None
    else:
        native(folder, SEED_LLAMA, len(seed.codebook.weight), False)
    reader, model = load_reader(folder, tokenizer=tokenizer), SeedLM.from_pretrained(folder, seed=tokenizer)
    own = reader.prompts
    assert own == (PAPER if form == "plain" else Prompts(DESCRIBE, BRIEFLY))
    assert reader.write(pictures, [[own.caption]] * 3, SHORT) == model.caption(pictures, num_beams=2)
    several = [pictures[0], pictures[0], pictures[2]]
    flat = [question for some in QUESTIONS for question in some]
    asked = [[own.asked(question) for question in some] for some in QUESTIONS]
    assert reader.write(pictures, asked, ANSWER) == model.answer(several, flat, num_beams=2)
    given = [] if tokenizer is None else ["--tokenizer", tokenizer]
    arguments = ("evaluate", "vqa", "--model", folder, *given, "--data", prepared["vqav2"], "--beams", 1, "--json")
    found = json.loads(cli(*arguments, "--out", tmp_path / "own")[1])
    assert found["settings"]["prompt"] == own.question
    assert found["settings"]["models"]["seed_opt"].get("template", {}).get("before") == (
        None if form == "plain" else "USER: "
    )
    other = json.loads(cli(*arguments, "--template", "llama2", "--prompt", "paper")[1])
    assert other["settings"]["models"]["seed_opt"]["template"]["before"] == "[INST] "
    assert other["settings"]["prompt"] == PAPER.question


def test_a_checkpoint_is_known_by_its_weights(tiny_lm, tmp_path):
    other = tmp_path / "lm"
    shutil.copytree(tiny_lm, other)
    assert identity_of(other) == identity_of(tiny_lm)
    weights = next(other.rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))  # as another training of the same recipe: the same names and sizes
    assert identity_of(other) != identity_of(tiny_lm)


def test_of_a_large_file_blocks_all_over_it_count(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for size in (BLOCK * BLOCKS, 5 * BLOCK * BLOCKS // 2):
        content = np.random.default_rng(size).integers(0, 256, size, np.uint8)
        (tmp_path / "a.bin").write_bytes(content.tobytes())
        before = identity_of(tmp_path)
        for place in (0, size // BLOCKS * 7):
            changed = content.copy()
            changed[place] ^= 1
            (tmp_path / "a.bin").write_bytes(changed.tobytes())
            assert identity_of(tmp_path) != before
