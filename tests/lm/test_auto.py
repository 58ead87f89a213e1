"""A SEED language model as classes of transformers: the texts and codes of `SeedLM`, also through pipelines."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessor,
    pipeline,
)

from seedtok.core.errors import CheckpointError, InputError, SeedTokWarning
from seedtok.core.kinds import kind_of
from seedtok.evaluation.readers import load_reader
from seedtok.lm import interleaved
from seedtok.lm.auto import SeedLMConfig, SeedLMForConditionalGeneration, SeedProcessor
from seedtok.lm.auto.spans import ImageSpans
from seedtok.lm.chat_template import chat_template_of
from seedtok.lm.native import ANYGPT, INSTRUCTED_8B
from seedtok.lm.prompts import CAPTIONING
from seedtok.lm.seed_lm import SeedLM
from seedtok.lm.vocabulary import Vocabulary
from seedtok.mini.world.scenes import render, unique_scenes
from seedtok.tokenizer.seed import SeedTokenizer
from tiny_lms import native

PROMPT = "A photo of"


def loaded(folder: Path) -> tuple[SeedLMForConditionalGeneration, SeedProcessor]:
    return AutoModelForMultimodalLM.from_pretrained(folder), AutoProcessor.from_pretrained(folder)


def pictures(count: int) -> list[Image.Image]:
    noise = torch.randint(0, 256, (count, 40, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return [Image.fromarray(one.numpy()) for one in noise]


def asked(picture: object, text: str) -> list[dict]:
    """A chat of one turn: a picture and a text."""
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]


@pytest.fixture
def folder(seed_lm: SeedLM, tmp_path: Path) -> Path:
    """A folder of `seed_lm` for transformers."""
    seed_lm.save_transformers(tmp_path / "auto")
    return tmp_path / "auto"


# ------------------------------------------------------------ the same as SeedLM


@pytest.mark.slow
def test_texts_and_codes_are_those_of_seed_lm(seed_lm, folder):
    model, processor = loaded(folder)
    images = pictures(2)
    inputs = processor(text=[f"<image>{PROMPT}", f"<image>{PROMPT} a red"], images=images)
    for beams in (1, 3):
        out = model.generate(**inputs, num_beams=beams, max_new_tokens=6)
        new = processor.post_process_multimodal_output(out[:, inputs["input_ids"].shape[1] :], generation_mode="text")
        expected = [
            seed_lm.caption([image], beams, max_new_tokens=6, min_new_tokens=0, prompt=prompt)[0]
            for image, prompt in zip(images, [PROMPT, f"{PROMPT} a red"], strict=True)
        ]
        assert [text.strip() for text in new] == expected
    prompts = ["a fox", "a cake on a red background"]
    ids = model.generate(**processor(text=[f"Generate an image {one}" for one in prompts]), generation_mode="image")
    assert torch.equal(ids - seed_lm.vocabulary.first_code, seed_lm.draw_codes(prompts))


@pytest.mark.slow
@pytest.mark.parametrize("seed_lm", ["llama", "opt"], indirect=True)
def test_mixtures_are_those_of_seed_lm(seed_lm, tmp_path):
    """Up to the end of the context, with as many images as fit, and with one."""
    with torch.no_grad():
        seed_lm.joint.adapter.visual_head.weight[-2] *= 40  # of begin-of-image: likely, or unlikely
    seed_lm.save_transformers(tmp_path / "auto")
    model, processor = loaded(tmp_path / "auto")
    (image,) = pictures(1)
    inputs = processor(text="<image>a fox", images=image)
    kinds = set()
    for images in (4, 1):
        expected = interleaved.generate(seed_lm.joint, [seed_lm.seed.encode(image)[0], "a fox"], 200, images)
        out = model.generate(**inputs, generation_mode=None, max_new_tokens=200, max_images=images)
        found = processor.segments(out[0, inputs["input_ids"].shape[1] :])
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            kinds.add(type(other))
            if isinstance(other, str):
                assert one == other
            else:
                assert torch.equal(one - seed_lm.vocabulary.first_code, other)
    assert torch.Tensor in kinds


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_the_pipeline_gives_what_the_model_does(seed_lm, folder):
    made = pipeline("any-to-any", model=str(folder))
    (image,) = pictures(1)
    expected = seed_lm.caption([image], 1, max_new_tokens=6, min_new_tokens=0)
    (out,) = made(text=asked(image, PROMPT), max_new_tokens=6, return_full_text=False)
    assert out["generated_text"].strip() == expected[0]
    (out,) = made(text=f"<image>{PROMPT}", images=image, max_new_tokens=6)
    assert out["generated_text"].removeprefix(f"<image>{PROMPT}").strip() == expected[0]
    drawn: list[torch.Tensor] = []
    decode = made.model.decode_image_tokens
    made.model.decode_image_tokens = lambda ids: drawn.append(ids) or decode(ids)
    (out,) = made(text="Generate an image a fox", generation_mode="image")
    assert isinstance(out["generated_image"], Image.Image)
    assert torch.equal(drawn[0] - seed_lm.vocabulary.first_code, seed_lm.draw_codes("a fox"))


@pytest.mark.slow
def test_the_shipped_model_does_as_seed_lm(tmp_path):
    model = SeedLM.from_pretrained()
    model.save_transformers(tmp_path / "auto")
    assert not (tmp_path / "auto" / "tokenizer").exists()
    assert str(tmp_path) not in (tmp_path / "auto" / "config.json").read_text()
    made = pipeline("any-to-any", model=str(tmp_path / "auto"))
    scenes = [render(scene) for scene in unique_scenes("test", 2)]
    for scene, caption in zip(scenes, model.caption(scenes), strict=True):
        options = {"generate_kwargs": {"num_beams": 5, "min_new_tokens": 8}, "max_new_tokens": 30}
        (out,) = made(text=asked(scene, PROMPT), return_full_text=False, **options)
        assert out["generated_text"].strip() == caption
    network = AutoModelForImageTextToText.from_pretrained(tmp_path / "auto")
    inputs = made.processor(text=["Generate an image a cake", "Generate an image two birds"])
    ids = network.generate(**inputs, generation_mode="image")
    codes = model.draw_codes(["a cake", "two birds"])
    assert torch.equal(ids - model.vocabulary.first_code, codes)
    noise = [torch.Generator().manual_seed(5) for _ in range(2)]
    drawn = network.decode_image_tokens(ids, generator=noise[:1] * 2)
    expected = model.seed.decode(codes, generator=noise[1:] * 2)
    assert [image.tobytes() for image in drawn] == [image.tobytes() for image in expected]
    inputs = made.processor(text="Generate an image a cake")
    out = network.generate(**inputs, generation_mode=None, max_new_tokens=60)
    (part,) = made.processor.segments(out[0, inputs["input_ids"].shape[1] :])
    assert torch.equal(part - model.vocabulary.first_code, model.draw_codes("a cake")[0])


# ------------------------------------------------------------ image spans


def test_spans_are_whole_whatever_the_logits_are():
    """Random logits, rows of every state: 32 codes and an end follow a begin, which comes only where they fit."""
    vocabulary = Vocabulary.after_text(5, codes=7, span=4)
    generator = torch.Generator().manual_seed(0)
    for room in range(1, 30):
        rule, ids = ImageSpans(vocabulary, 2, room, 3), torch.full((40, 2), vocabulary.begin)
        for _ in range(room):
            scores = torch.randn(40, vocabulary.size + 2, generator=generator)
            scores[:, vocabulary.begin] += 1
            allowed = rule(ids, scores)
            torch.testing.assert_close(allowed.exp().sum(-1), torch.ones(40))
            ids = torch.cat([ids, allowed.argmax(-1, keepdim=True)], dim=1)
        for row in ids[:, 2:].tolist():
            text = "".join(
                "t" if i < 5 else "b" if i == vocabulary.begin else "e" if i == vocabulary.end else "c" for i in row
            )
            assert set(text.replace("bcccce", "")) <= {"t"}
            assert text.count("b") <= 3


def test_what_ends_a_text_may_lie_after_the_visual_ids():
    vocabulary = Vocabulary(6, 5, 13, codes=7, span=4)
    after, image = 14, [5, 6, 7, 8, 9, 13]
    for ends in (after, [1, after, 99]):  # 99 is none of the logits
        rule = ImageSpans(vocabulary, 0, 20, 1, ends)
        for length in range(1, 7):
            allowed = rule(torch.tensor([image[:length]]), torch.zeros(1, 16))[0].isfinite()
            assert bool(allowed[after]) == (length == 6), length
            assert not allowed[15]


def test_a_text_ends_where_the_end_lies_after_the_codes(seed, tmp_path):
    """As those of AnyGPT may."""
    seed_lm = SeedLM.from_pretrained(native(tmp_path / "anygpt", ANYGPT, len(seed.codebook.weight), True), seed=seed)
    last, head = seed_lm.joint.lm.vocab_size - 1, seed_lm.joint.lm.lm_head
    prompt = torch.tensor([seed_lm.sequence(["a fox"])])
    with torch.no_grad():
        head.weight[last] = 10 * seed_lm.joint.states(seed_lm.joint.embed(prompt))[0, -1]
    seed_lm.joint.lm.generation_config.eos_token_id = last
    assert last >= seed_lm.vocabulary.size
    seed_lm.save_transformers(tmp_path / "auto")
    model, _ = loaded(tmp_path / "auto")
    for options in ({}, {"num_beams": 2}, {"generation_mode": None}):
        assert model.generate(prompt, max_new_tokens=8, **options)[0].tolist() == [*prompt[0].tolist(), last]


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_sampling_streams_and_further_rules_go_through(seed_lm, folder):
    model, processor = loaded(folder)
    inputs = processor(text=["a fox", "Generate an image a fox"])

    class OnlyThree(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, 4:] = float("-inf")
            return scores

    out = model.generate(**inputs, max_new_tokens=4, do_sample=True, temperature=2.0, logits_processor=[OnlyThree()])
    assert int(out[:, inputs["input_ids"].shape[1] :].max()) < 4
    settings = GenerationConfig(max_new_tokens=3, do_sample=True)
    assert model.generate(**inputs, generation_config=settings).shape[1] == inputs["input_ids"].shape[1] + 3
    found = model.generate(**inputs, max_new_tokens=2, return_dict_in_generate=True)
    assert torch.equal(found.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert model.generation_config.max_new_tokens is None
    several = model.generate(**inputs, generation_mode="image", do_sample=True, num_return_sequences=2)
    assert several.shape == (4, 32)
    assert bool(seed_lm.vocabulary.is_code(several).all())


# ------------------------------------------------------------ texts and images of a prompt


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_prompts_are_those_of_seed_lm(seed_lm, folder):
    model, processor = loaded(folder)
    images = pictures(2)
    inputs = processor(text=["a<image> b", "<image>"], images=images)
    codes = seed_lm.seed.encode(images)
    ids = model.with_codes(inputs["input_ids"], inputs["pixel_values"])
    expected = [seed_lm.joint.sequence(["a", codes[0], " b"]), seed_lm.joint.sequence([codes[1]])]
    assert [row[mask.bool()].tolist() for row, mask in zip(ids, inputs["attention_mask"], strict=True)] == expected
    (images[0]).save(folder / "one.png")
    for one in (str(folder / "one.png"), folder / "one.png", images[0], [images[0]]):
        assert torch.equal(processor(text="<image>", images=one)["pixel_values"], inputs["pixel_values"][:1])
    chat = processor.apply_chat_template(
        [*asked(images[0], "what"), {"role": "assistant", "content": "a fox"}, {"role": "user", "content": "more"}],
        tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    assert torch.equal(chat["input_ids"], processor(text="<image>whata foxmore", images=images[0])["input_ids"])


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_chat_template_asks_as_its_template(seed_lm, folder):
    processor = AutoProcessor.from_pretrained(folder)
    turns = [["Look: ", "again"], ["a fox"], ["draw"]]
    chat = [
        {"role": role, "content": [{"type": "text", "text": part} for part in turn]}
        for role, turn in zip(["user", "assistant", "user"], turns, strict=True)
    ]
    found = processor.apply_chat_template(chat, chat_template=chat_template_of(INSTRUCTED_8B))
    assert found == "<s>" + "".join(INSTRUCTED_8B.wrap(turns))


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_labels_may_name_images_by_their_places(seed_lm, folder):
    model, processor = loaded(folder)
    inputs = processor(text="a fox<image>", images=pictures(1))
    ids = model.with_codes(inputs["input_ids"], inputs["pixel_values"])
    out = model(**inputs, labels=inputs["input_ids"])
    logits = seed_lm.joint.logits(seed_lm.joint.states(seed_lm.joint.embed(ids)))
    torch.testing.assert_close(out.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out.loss, torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))


@pytest.mark.parametrize("seed_lm", ["llama", "opt"], indirect=True)
def test_trainer_and_peft_give_it_what_they_give_a_causal_lm(seed_lm, folder):
    model, processor = loaded(folder)
    inputs = processor(text="a fox<image>", images=pictures(1))
    plain = model(**inputs, labels=inputs["input_ids"])
    given = {"labels": inputs["input_ids"], "return_dict": True}
    assert torch.equal(model(**inputs, inputs_embeds=None, **given).logits, plain.logits)
    count = int(plain.logits.shape[1]) - 1
    torch.testing.assert_close(model(**inputs, num_items_in_batch=2 * count, **given).loss, plain.loss / 2)
    model.gradient_checkpointing_enable()
    model = get_peft_model(
        model.train(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
    )
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "lora_B" in name)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_texts_are_cut_where_they_are_to_be(seed_lm, folder):
    processor = loaded(folder)[1]
    whole = processor(text="<image> a red fox", images=pictures(1))["input_ids"]
    cut = processor(text="<image> a red fox", images=pictures(1), truncation=True, max_length=36)["input_ids"]
    assert torch.equal(cut, whole[:, :36])
    with pytest.raises(InputError, match="an image is beyond the 20 tokens"):
        processor(text="<image> a", images=pictures(1), truncation=True, max_length=20)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_tokenizer_that_is_in_use_stays_as_it_is(seed_lm, tmp_path):
    seed_lm.joint.to(torch.bfloat16)
    before, source = seed_lm.seed.dtype, seed_lm.seed.source
    seed_lm.save_transformers(tmp_path / "auto")
    assert (seed_lm.seed.dtype, seed_lm.seed.source) == (before, source) == (torch.float32, source)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_what_does_not_fit_is_refused(seed_lm, folder):
    model, processor = loaded(folder)
    image = pictures(1)
    with pytest.raises(InputError, match="1 images for 0 of <image>"):
        processor(text="a fox", images=image)
    with pytest.raises(InputError, match="expected text"):
        processor(images=image)
    inputs = processor(text="<image>", images=image)
    with pytest.raises(InputError, match="0 codes of images for 32 places"):
        model.generate(inputs["input_ids"])
    with pytest.raises(InputError, match="generation_mode 'audio'"):
        model.generate(**inputs, generation_mode="audio")
    with pytest.raises(InputError, match="generation_mode 'audio'"):
        processor.post_process_multimodal_output(inputs["input_ids"], generation_mode="audio")
    with pytest.raises(InputError, match="32 to come; this model takes 160"):
        model.generate(**processor(text="a " * 140), generation_mode="image")
    with pytest.raises(CheckpointError, match="of version 2; this release reads version 1: upgrade it"):
        SeedLMConfig(seedtok={"version": 2})


# ------------------------------------------------------------ files


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_folder_can_be_moved_and_saved_again(seed_lm, folder, tmp_path):
    moved = folder.rename(tmp_path / "moved")
    model, processor = loaded(moved)
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    assert str(tmp_path) not in (tmp_path / "again" / "config.json").read_text()
    again, _ = loaded(tmp_path / "again")
    inputs = processor(text=f"<image>{PROMPT}", images=pictures(1))
    assert torch.equal(again.generate(**inputs, max_new_tokens=4), model.generate(**inputs, max_new_tokens=4))
    record = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(record | {"seedtok": record["seedtok"] | {"codebook": "0"}}))
    with pytest.raises(CheckpointError, match="another codebook"):
        _ = loaded(moved)[0].image_tokenizer
    with pytest.raises(CheckpointError, match="another codebook"):
        SeedLM.from_pretrained(moved)


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
@torch.no_grad()
def test_another_encoder_with_the_same_codebook_is_warned_of(folder):
    model, _ = loaded(folder)
    tuned = model.image_tokenizer
    tuned.encode_head[0].weight.mul_(1.01)
    tuned.save_pretrained(folder / "tokenizer")
    with pytest.warns(SeedTokWarning, match="codes of another encoder than this image tokenizer's"):
        _ = loaded(folder)[0].image_tokenizer
    fresh = loaded(folder)[0]
    with pytest.warns(SeedTokWarning, match="codes of another encoder than this image tokenizer's"):
        fresh.use_image_tokenizer(tuned)
    model.save_pretrained(folder)  # with the tokenizer that it has now
    assert loaded(folder)[0].image_tokenizer.encoder_fingerprint == tuned.encoder_fingerprint


@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
@torch.no_grad()
def test_an_image_tokenizer_of_another_codebook_is_refused_where_it_is_set(folder):
    model, _ = loaded(folder)
    other = SeedTokenizer.from_pretrained(folder / "tokenizer")
    other.codebook.weight.neg_()
    with pytest.raises(CheckpointError, match="another codebook"):
        model.use_image_tokenizer(other)


@pytest.mark.parametrize("seed_lm", ["llama", "qwen"], indirect=True)
def test_what_the_auto_classes_wrote_loads_as_a_seed_lm(seed_lm, folder, tmp_path):
    """As a checkpoint of `Trainer`, of which weights have changed."""
    model, processor = loaded(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight[5] += 1
    model.save_pretrained(tmp_path / "again")
    processor.save_pretrained(tmp_path / "again")
    again = SeedLM.from_pretrained(tmp_path / "again")
    ids = torch.tensor([again.sequence([torch.arange(32), "a fox"])])
    assert ids[0].tolist() == seed_lm.sequence([torch.arange(32), "a fox"])
    with torch.no_grad():
        found = again.joint.logits(again.joint.states(again.joint.embed(ids)))
        torch.testing.assert_close(found, model(input_ids=ids).logits)
    kind = kind_of(tmp_path / "again")
    assert kind is not None
    assert kind.name == "a SEED language model"
    assert len(load_reader(tmp_path / "again").write(pictures(1), [[PROMPT]], CAPTIONING)) == 1
    (tmp_path / "again" / "tokenizer.json").unlink()
    (tmp_path / "again" / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match="it has no text tokenizer"):
        SeedLM.from_pretrained(tmp_path / "again")


@pytest.mark.slow
@pytest.mark.parametrize("seed_lm", ["llama"], indirect=True)
def test_a_folder_brings_its_classes_with_trust_remote_code(seed_lm, folder, tmp_path):
    """In a process that has imported nothing of this package."""
    code = (
        "import sys; from transformers import pipeline\n"
        "made = pipeline('any-to-any', model=sys.argv[1], trust_remote_code=True)\n"
        "print(made(text='a fox', max_new_tokens=3, return_full_text=False)[0]['generated_text'])\n"
        "made.save_pretrained(sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder, tmp_path / "again"], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    model, processor = loaded(folder)
    inputs = processor(text="a fox")
    out = model.generate(**inputs, max_new_tokens=3)[:, inputs["input_ids"].shape[1] :]
    assert done.stdout == processor.post_process_multimodal_output(out)[0] + "\n"
    assert [path.name for path in (tmp_path / "again").glob("*.py")] == ["seedtok_auto.py"]
