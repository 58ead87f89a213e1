"""Table 1 on sets with several captions a picture, by every kind of model, against the libraries called directly."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Blip2ForImageTextRetrieval, BlipImageProcessorPil, CLIPModel, CLIPProcessor

import publishers
from evaluation_sets import StubRetrieval
from seedtok.core.errors import CheckpointError, SeedTokWarning
from seedtok.core.recalls import retrieval_recalls
from seedtok.core.text import clean_caption
from seedtok.evaluation.retrieval import evaluate_retrieval, warn_of_ties
from seedtok.evaluation.retrieval_models import EmbedderRetrieval, TokenizerRetrieval, load_retrieval_model
from seedtok.evaluation.run import Run
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer

OWNERS = torch.tensor([i for i, captions in enumerate(publishers.KARPATHY) for _ in captions])
CAPTIONS = [text for captions in publishers.KARPATHY for text in captions]
RECALLS = ("i2t_r1", "i2t_r5", "i2t_r10", "t2i_r1", "t2i_r5", "t2i_r10", "r_mean")


def pictures(data) -> list[Image.Image]:
    return [data.picture(i) for i in range(len(data))]


@pytest.mark.parametrize("queries", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_picture_has_all_its_captions(sets, queries, batch_size):
    model = StubRetrieval(queries)
    found = evaluate_retrieval({"stub": model}, sets["coco"], Run(batch_size=batch_size))
    images, texts = model.embed(pictures(sets["coco"]), CAPTIONS)
    cosines = torch.einsum("iqd,td->itq", images[""].view(5, -1, 4), texts).amax(-1)
    assert {name: found["stub"][name] for name in RECALLS} == retrieval_recalls(cosines, OWNERS)
    assert found["counts"]["captions"] == 25


def test_the_same_caption_of_two_pictures_counts_against_both(sets):
    """Pictures 1 and 2 share "A bus.": where that is the best of both, neither is found by its first caption."""

    class Alike(StubRetrieval):
        def embed(self, pictures, texts):
            bus = torch.tensor([1.0, 0, 0, 0])
            return {"": bus.expand(len(pictures), 4)}, torch.stack([bus * (text == "A bus.") for text in texts])

    with pytest.warns(SeedTokWarning, match="2 of 24 captions"):
        warn_of_ties(sets["coco"])
    found = evaluate_retrieval({"stub": Alike()}, sets["coco"], Run())["stub"]
    assert found["i2t_r1"] == 0
    assert found["i2t_r5"] == 40  # the two of them, each second to the other's


def test_a_tokenizer_by_its_embeddings_and_by_its_codes(sets, tiny_tokenizer, tmp_path):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    run = Run(tmp_path / "out", batch_size=2)
    found = evaluate_retrieval({"seed": TokenizerRetrieval(tokenizer)}, sets["coco"], run)
    texts = tokenizer.embed_texts([clean_caption(text) for text in CAPTIONS])
    for name, from_codes in (("causal_embedding", False), ("causal_code", True)):
        images = tokenizer.embed_images(pictures(sets["coco"]), from_codes)
        assert found[name] == retrieval_recalls(images @ texts.T, OWNERS)
    settings = json.loads((run.out / "settings.json").read_text())
    assert settings["models"]["seed"]["codebook"] == tokenizer.codebook_id
    assert settings["models"]["seed"]["preprocessing"]["size"] == [32, 32]


@pytest.fixture(scope="module")
def blip2(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blip2") / "blip2"
    publishers.blip2(folder)
    BlipImageProcessorPil(size={"height": 28, "width": 28}).save_pretrained(folder)
    return folder


def test_blip2_through_the_converter_is_blip2_of_transformers(sets, blip2, tmp_path, cli):
    assert cli("convert", blip2, "--out", tmp_path / "converted")[0] == 0
    models = {"theirs": load_retrieval_model(blip2), "ours": load_retrieval_model(tmp_path / "converted")}
    embedded = {name: model.embed(pictures(sets["coco"]), CAPTIONS) for name, model in models.items()}
    for name in ("theirs", "ours"):
        assert embedded[name][0][""].shape == (5, 32, 16)
    torch.testing.assert_close(embedded["ours"][0][""], embedded["theirs"][0][""], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedded["ours"][1], embedded["theirs"][1], rtol=1e-4, atol=1e-5)
    found = evaluate_retrieval(models, sets["coco"], Run(batch_size=2))
    model = Blip2ForImageTextRetrieval.from_pretrained(blip2).eval()
    pixels = BlipImageProcessorPil.from_pretrained(blip2)(pictures(sets["coco"]), return_tensors="pt").pixel_values
    tokens = AutoTokenizer.from_pretrained(blip2)(
        [clean_caption(text) for text in CAPTIONS], padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        out = model(pixel_values=pixels, input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
    expected = retrieval_recalls(out.logits_per_image, OWNERS)
    assert found["theirs"] == found["ours"] == expected


def test_a_token_that_stands_for_a_picture_changes_nothing(sets, blip2):
    plain, marked = load_retrieval_model(blip2), load_retrieval_model(blip2)
    marked.model.config.image_token_index = 5
    few = pictures(sets["coco"])[:2]
    for one, other in zip(plain.embed(few, CAPTIONS[:3]), marked.embed(few, CAPTIONS[:3]), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coco", "flickr30k"])
def test_a_clip_with_its_own_preprocessing(sets, small_clip, name):
    found = evaluate_retrieval({"clip": load_retrieval_model(small_clip)}, sets[name], Run(batch_size=2))
    model, processor = CLIPModel.from_pretrained(small_clip).eval(), CLIPProcessor.from_pretrained(small_clip)
    inputs = processor(text=CAPTIONS, images=pictures(sets[name]), padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits_per_image
    assert found["clip"] == retrieval_recalls(logits, OWNERS)
    assert found["settings"]["models"]["clip"]["preprocessing"]["crop_size"] == {"height": 28, "width": 28}


@pytest.mark.slow
def test_without_an_image_processor_pictures_are_stretched(sets, tmp_path):
    publishers.clip(tmp_path / "clip", processor=False)
    model = load_retrieval_model(tmp_path / "clip")
    assert model.settings["preprocessing"]["resize"] == "stretched, bicubic"
    assert model.preprocessing(pictures(sets["coco"])).shape == (5, 3, 28, 28)


# ---------------------------------------------------------------- models that lack what it takes


def test_what_has_no_text_branch_is_refused(tiny_tokenizer, tmp_path):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    tokenizer.embedder._text_tokenizer = None
    with pytest.raises(CheckpointError, match="has no text branch, so it embeds nothing for retrieval"):
        TokenizerRetrieval(tokenizer)
    embedder = tokenizer.embedder
    embedder.save_pretrained(tmp_path / "embedder")
    with pytest.raises(CheckpointError, match="no text branch"):
        EmbedderRetrieval(ImageTextEmbedder.from_pretrained(tmp_path / "embedder"))


def test_models_of_one_kind_stand_beside_each_other(cli, tiny_tokenizer, tmp_path, monkeypatch):
    """Each by a name of its own, that no other file has; and no model's folder is touched."""
    monkeypatch.chdir(tmp_path)
    for name in ("runs/other/final", "more/other", "settings"):
        shutil.copytree(tiny_tokenizer, tmp_path / name)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    others = [tmp_path / "runs/other/final", "more/other", "settings"]
    arguments = ("evaluate", "retrieval", "--model", tiny_tokenizer, "--data", "mini:test", "--count", 4, "--out", "o")
    code, out, error = cli(*arguments, *(part for name in others for part in ("--beside", name)), "--json")
    assert (code, error) == (0, "")
    found = json.loads(out)
    assert list(found["settings"]["models"]) == ["seed", "other", "other-2", "settings-2"]
    rows = [name for name, value in found.items() if isinstance(value, dict) and "r_mean" in value]
    assert sorted(rows[:2]) == ["causal_code", "causal_embedding"]
    assert rows[2:] == [*(f"{name} {row}" for name in ("other", "other-2", "settings-2") for row in rows[:2]), "layout"]
    assert {p: p.read_bytes() for p in before} == before


def test_without_a_code_decoder_there_is_no_row_of_codes(sets, tiny_tokenizer):
    tokenizer = SeedTokenizer.from_pretrained(tiny_tokenizer)
    tokenizer.code_decoder = None
    found = evaluate_retrieval({"seed": TokenizerRetrieval(tokenizer)}, sets["coco"], Run())
    assert "causal_embedding" in found
    assert "causal_code" not in found


@pytest.mark.slow
def test_other_checkpoints_are_named(bases, tmp_path, cli):
    code, _, error = cli("evaluate", "retrieval", "--model", bases["opt"])
    assert code == 2
    assert "is a language model of transformers: for retrieval, give a SEED tokenizer, " in error
    assert error.count("\n") == 1
    code, _, error = cli("evaluate", "retrieval", "--model", tmp_path)
    assert code == 2
    assert "is no checkpoint that can be evaluated" in error


def test_a_foreign_model_that_is_not_whole_is_refused(small_clip, tmp_path):
    from safetensors.torch import load_file, save_file

    CLIPModel.from_pretrained(small_clip).save_pretrained(tmp_path / "clip")
    tensors = load_file(tmp_path / "clip/model.safetensors")
    tensors.pop("visual_projection.weight")
    save_file(tensors, tmp_path / "clip/model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks tensor visual_projection\.weight"):
        load_retrieval_model(tmp_path / "clip")


def test_the_benchmark_at_full_counts_writes_what_is_scored(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import full_counts

    full_counts.write_embeddings(tmp_path / "out", 120, 600, 3)
    found = full_counts.score_embeddings(tmp_path / "out")
    assert set(found) == set(RECALLS)
    assert found["r_mean"] < 30  # of random embeddings
