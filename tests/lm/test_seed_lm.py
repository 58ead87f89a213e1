"""SEED-OPT's public face: images in and out, bad input, and its files."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from seedtok.core.errors import CheckpointError, InputError, SeedTokWarning
from seedtok.lm import texts
from seedtok.lm.adapter import AdapterConfig, VisualAdapter
from seedtok.lm.decoding import image_log_probs
from seedtok.lm.model import JointLM
from seedtok.lm.prompts import TextSettings, drawing_prompt
from seedtok.lm.seed_lm import SeedLM


@pytest.fixture
def ids(model) -> torch.Tensor:
    torch.manual_seed(2)
    codes = torch.randint(0, 8192, (2, 32))
    text = torch.randint(3, model.vocabulary.text, (2, 6))
    return torch.cat([text, model.vocabulary.image_ids(codes), text], dim=1)


@torch.no_grad()
def logits(seed_lm: SeedLM, ids: torch.Tensor) -> torch.Tensor:
    model = seed_lm.joint
    return model.logits(model.states(model.embed(ids)))


# ------------------------------------------------------------ texts and images


def test_images_in_and_out(seed_lm):
    image = np.full((20, 30, 3), 200, np.uint8)
    assert len(seed_lm.caption([image, image], max_new_tokens=4)) == 2
    assert len(seed_lm.answer(image, "what is it?", max_new_tokens=4)) == 1
    (drawn,) = seed_lm.draw("a fox")
    assert drawn.size == (128, 128)
    assert seed_lm.generate([image, "what is it?"], max_new_tokens=3, max_images=0)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_odd_segments_and_settings_are_one_line(seed_lm):
    for several in (np.zeros((2, 32, 32, 3), np.uint8), np.zeros((0, 32, 32, 3), np.uint8)):
        with pytest.raises(InputError, match="give each image as a segment of its own"):
            seed_lm.generate([several, "what is it?"], max_new_tokens=2)
    too_long_for_a_name = "a " * 150 + ".png"
    assert len(seed_lm.generate(too_long_for_a_name, max_new_tokens=1, max_images=0)) <= 1
    with pytest.raises(InputError, match="0 new tokens"):
        seed_lm.caption(torch.zeros(1, 32, dtype=torch.int64), max_new_tokens=0)


def test_prompts_of_drawings_are_written_as_captions_are_in_training():
    assert drawing_prompt(' A fox, "on the left". ') == "Generate an image a fox, on the left"
    assert drawing_prompt(" A fox. ", "Draw") == "Draw A fox."
    assert drawing_prompt("!!!") == "Generate an image !!!"


@torch.no_grad()
def test_a_reranked_caption_is_the_candidate_likeliest_in_both_directions(seed_lm):
    codes = torch.randint(0, 64, (3, 32))
    settings = TextSettings(4, 6, min(seed_lm.template.caption_tokens, 6))
    prompts = [seed_lm.sequence([image, seed_lm.template.caption]) for image in codes]
    best = []
    for image, own in zip(codes, texts.candidates(seed_lm.joint, prompts, settings), strict=True):
        rows = [seed_lm.sequence([drawing_prompt(text, seed_lm.template.draw)]) for text, _ in own]
        drawn = image_log_probs(seed_lm.joint, rows, image.expand(len(own), -1))
        both = [log_prob + float(other) for (_, log_prob), other in zip(own, drawn, strict=True)]
        best.append(own[both.index(max(both))][0])
    assert seed_lm.caption(codes, 4, 2, max_new_tokens=6, rerank=True) == best
    assert seed_lm.caption(codes[:0], 4, rerank=True) == []
    seed_lm.joint.lm.generation_config.repetition_penalty = 1.2
    with pytest.raises(InputError, match="decoded by transformers' generate"):
        seed_lm.caption(codes, 4, rerank=True)
    with pytest.raises(InputError, match="one beam leaves nothing to rerank"):
        seed_lm.caption(codes, 1, rerank=True)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_prompts_can_be_replaced(seed_lm, monkeypatch):
    asked: list[list[int]] = []
    sequence = JointLM.sequence
    monkeypatch.setattr(JointLM, "sequence", lambda *given: asked.append(sequence(*given)) or asked[-1])
    codes = torch.arange(32)[None]
    seed_lm.caption(codes, 1, max_new_tokens=2, prompt="A cake")
    seed_lm.answer(codes, "a fox", 1, max_new_tokens=2, template="{}?")
    seed_lm.draw_codes("a fox", instruction="Draw")
    texts = [seed_lm.joint.text_of([i for i in ids if i < seed_lm.vocabulary.text]) for ids in asked]
    assert texts == ["A cake", "a fox?", "Draw a fox"]


def test_a_single_segment_is_a_prompt_of_its_own(seed_lm):
    for segment in ("what is it?", np.full((9, 9, 3), 200, np.uint8)):
        options = {"max_new_tokens": 3, "max_images": 0}
        assert seed_lm.generate(segment, **options) == seed_lm.generate([segment], **options)
        assert seed_lm.chat([segment], **options) == seed_lm.chat([[segment]], **options)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_codes_come_in_any_form_and_images_from_any_source(seed_lm):
    codes, short = torch.arange(32), {"num_beams": 1, "max_new_tokens": 3}
    file = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(file, "PNG")
    expected = seed_lm.caption(codes[None], **short)
    stored = codes.numpy().astype(np.uint16)
    for given in (codes, codes.int(), stored, stored[None], [codes], [stored], codes.tolist(), [codes.tolist()]):
        assert seed_lm.caption(given, **short) == expected
        assert seed_lm.answer(given, (question for question in ["what?"]), **short)
    options = {"max_new_tokens": 3, "max_images": 0}
    expected = seed_lm.generate([codes, "A photo of"], **options)
    for given in (codes.int(), stored, codes[None]):
        assert seed_lm.generate([given, "A photo of"], **options) == expected
    assert seed_lm.generate((segment for segment in (codes, "A photo of")), **options) == expected
    for wrong in (codes.float(), codes[None].float(), [codes.float()]):
        with pytest.raises(InputError, match=r"codes of torch\.float32; expected integers"):
            seed_lm.caption(wrong)
    with pytest.raises(InputError, match="expected integers"):
        seed_lm.generate([torch.rand(32), "A photo of"])
    expected = seed_lm.generate(np.asarray(Image.open(file)), **options)
    for given in (file.getvalue(), bytearray(file.getvalue()), io.BytesIO(file.getvalue())):
        assert seed_lm.generate(given, **options) == expected


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_prompts_come_one_by_one(seed_lm):
    prompts = ("a fox", "a cake")
    expected = seed_lm.draw_codes(prompts)
    assert torch.equal(seed_lm.draw_codes(prompt for prompt in prompts), expected)
    assert torch.equal(seed_lm.draw_codes(np.array(prompts)), expected)
    assert len(seed_lm.draw((prompt for prompt in prompts), dtype="bfloat16")) == 2


def test_built_in_bfloat16_it_draws(bases, seed):
    model = SeedLM.build(bases["opt"], seed, dtype="bfloat16")
    assert model.draw_codes("a fox").shape == (1, 32)
    assert {weight.dtype for weight in model.joint.adapter.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_between_steps_of_training_it_says_and_draws_without_dropout(seed_lm):
    def made() -> list:
        codes = torch.arange(32)
        said = [seed_lm.caption(codes, 2, max_new_tokens=6), seed_lm.answer(codes, "what?", 1, max_new_tokens=6)]
        return [*said, seed_lm.draw_codes("a fox").tolist(), seed_lm.generate("a fox", max_new_tokens=6, max_images=0)]

    expected = made()
    seed_lm.train()
    modes = [part.training for part in seed_lm.modules()]
    assert any(modes)
    assert made() == expected
    assert [part.training for part in seed_lm.modules()] == modes


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_greedy_answer_says_nothing(seed_lm, caplog, capfd):
    seed_lm.answer(torch.arange(32), "what?", num_beams=1, max_new_tokens=2)
    assert "length_penalty" not in caplog.text + "".join(capfd.readouterr())


def test_bad_input_is_refused(seed_lm):
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="an empty prompt"):
        seed_lm.draw(" ")
    with pytest.raises(InputError, match="an empty prompt"):
        seed_lm.generate([])
    with pytest.raises(InputError, match="an empty question"):
        seed_lm.answer(image, "")
    with pytest.raises(InputError, match="2 questions about 1 images"):
        seed_lm.answer(image, ["what?", "where?"])
    with pytest.raises(InputError, match="this model takes 160: shorten it"):
        seed_lm.draw("a fox " * 100)
    with pytest.raises(InputError, match="a batch size of 0"):
        seed_lm.caption(image, batch_size=0)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_the_name_of_an_image_file_is_a_text_with_a_warning(seed_lm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox.png").write_bytes(b"")
    with pytest.warns(SeedTokWarning, match=r"read as a text; .* give pathlib\.Path\('fox\.png'\)"):
        seed_lm.generate(["fox.png"], max_new_tokens=1, max_images=0)


# ------------------------------------------------------------ files


@pytest.mark.parametrize("seed_lm", ["opt"], indirect=True)
def test_a_home_folder_is_that_of_the_user(seed_lm, seed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    seed.save_pretrained("~/seed")
    for name, save in (("lm", seed_lm.save_pretrained), ("plain", seed_lm.save_plain)):
        save(f"~/{name}")
        assert SeedLM.from_pretrained(f"~/{name}", seed="~/seed").seed.source == str(tmp_path / "seed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lm", "plain", "seed"]


@pytest.mark.parametrize("merged", [False, True])
def test_saved_and_loaded_it_has_the_same_logits(seed_lm, ids, tmp_path, seed, merged):
    before = logits(seed_lm, ids)
    seed_lm.save_pretrained(tmp_path / "lm", merged=merged)
    again = SeedLM.from_pretrained(tmp_path / "lm", seed=seed)
    assert (tmp_path / "lm" / "base").is_dir() == merged
    torch.testing.assert_close(logits(again, ids), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed_lm", ["llama", "opt"], indirect=True)
def test_a_merged_save_leaves_the_model_as_it_was(seed_lm, ids, tmp_path, seed):
    before, names = logits(seed_lm, ids), set(seed_lm.state_dict())
    seed_lm.save_pretrained(tmp_path / "merged", merged=True)
    assert torch.equal(logits(seed_lm, ids), before)
    assert set(seed_lm.state_dict()) == names
    assert any(p.requires_grad for n, p in seed_lm.named_parameters() if "lora_" in n)
    seed_lm.save_pretrained(tmp_path / "after")
    loaded = SeedLM.from_pretrained(tmp_path / "after", seed=seed)
    loaded.save_pretrained(tmp_path / "merged", merged=True)  # of a model whose LoRA is added to its weights
    loaded.save_pretrained(tmp_path / "after")
    for folder in ("after", "merged"):
        again = SeedLM.from_pretrained(tmp_path / folder, seed=seed)
        torch.testing.assert_close(logits(again, ids), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("seed_lm", ["opt"], indirect=True)
def test_checkpoints_with_the_former_names_and_a_bias_load(seed_lm, ids, tmp_path, seed):
    """As the shipped ones."""
    adapter = VisualAdapter(AdapterConfig(**(vars(seed_lm.joint.adapter.config) | {"head_bias": True})))
    adapter.load_state_dict(
        seed_lm.joint.adapter.state_dict() | {"visual_head.bias": torch.randn(adapter.config.codes + 2)}
    )
    seed_lm.joint.adapter = adapter
    expected = logits(seed_lm, ids)
    seed_lm.save_pretrained(tmp_path / "lm")
    record = json.loads((tmp_path / "lm" / "config.json").read_text())
    del record["vocabulary"]["head_bias"]
    (tmp_path / "lm" / "config.json").write_text(json.dumps(record))
    former = {"input_projection": "read", "boundary_embeddings": "marks", "visual_head": "write"}
    tensors = load_file(tmp_path / "lm" / "visual.safetensors")
    for name in list(tensors):
        layer, dot, rest = name.partition(".")
        tensors[former.get(layer, layer) + dot + rest] = tensors.pop(name)
    save_file(tensors, tmp_path / "lm" / "visual.safetensors")
    torch.testing.assert_close(logits(SeedLM.from_pretrained(tmp_path / "lm", seed=seed), ids), expected)


def test_what_does_not_fit_is_refused(bases, seed, tmp_path):
    SeedLM.build(bases["opt"], seed).save_pretrained(tmp_path / "lm")
    with pytest.raises(CheckpointError, match="another base"):
        SeedLM.from_pretrained(tmp_path / "lm", base=bases["llama"], seed=seed)
    with pytest.raises(CheckpointError, match="nowhere/at-all: no such folder"):
        SeedLM.from_pretrained(tmp_path / "lm", base="nowhere/at-all", seed=seed)
    kept = seed.codebook.weight.data.clone()
    seed.codebook.weight.data.neg_()
    try:
        with pytest.raises(CheckpointError, match="another codebook"):
            SeedLM.from_pretrained(tmp_path / "lm", seed=seed)
    finally:
        seed.codebook.weight.data.copy_(kept)
    record = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps(record | {"format": "else"}))
    with pytest.raises(CheckpointError, match="not a SEED language model"):
        SeedLM.from_pretrained(tmp_path / "lm", seed=seed)


@pytest.mark.parametrize("seed_lm", ["opt"], indirect=True)
def test_saved_over_an_older_save_it_is_itself_and_other_files_stay(seed_lm, ids, tmp_path, seed):
    expected = logits(seed_lm, ids)
    folder = tmp_path / "lm"
    seed_lm.save_pretrained(folder)
    (folder / "adapter" / "notes.md").write_text("mine")
    seed_lm.save_pretrained(folder, merged=True)
    assert (folder / "adapter" / "notes.md").read_text() == "mine"
    assert not list(folder.glob("adapter/adapter_*"))  # it is in the base now, and not applied twice
    for _ in range(2):  # and again in place, where its base is
        again = SeedLM.from_pretrained(folder, seed=seed)
        torch.testing.assert_close(logits(again, ids), expected, rtol=1e-3, atol=1e-3)
        again.save_pretrained(folder)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_template_is_kept_and_says_how_short_a_caption_may_be(seed_lm, monkeypatch, tmp_path):
    seed_lm.save_pretrained(tmp_path / "plain")
    assert "template" not in json.loads((tmp_path / "plain" / "config.json").read_text())
    seed_lm.template = replace(seed_lm.template, caption="Here is", caption_tokens=3)
    seed_lm.save_pretrained(tmp_path / "lm")
    least: list[int | None] = []
    monkeypatch.setattr(texts, "complete", lambda joint, prompts, given, size: least.append(given.min_new_tokens) or [])
    for folder, expected in (("plain", 8), ("lm", 3)):
        again = SeedLM.from_pretrained(tmp_path / folder, seed=seed_lm.seed)
        again.caption(torch.arange(32)[None])
        assert least.pop() == expected
        again.caption(torch.arange(32)[None], max_new_tokens=2)
        assert least.pop() == 2
        again.caption(torch.arange(32)[None], min_new_tokens=5)
        assert least.pop() == 5
    assert again.template == seed_lm.template
    config = json.loads((tmp_path / "lm" / "config.json").read_text())
    (tmp_path / "lm" / "config.json").write_text(json.dumps(config | {"template": {"caption": 3}}))
    with pytest.raises(CheckpointError, match="a template"):
        SeedLM.from_pretrained(tmp_path / "lm", seed=seed_lm.seed)
