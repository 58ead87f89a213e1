"""Drawings on disk and their scores, against transformers' own features and counting one by one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel

from seedtok.core.errors import ConfigError, DataError, ImageError, SeedTokWarning
from seedtok.core.hub import shipped
from seedtok.data.prepared import PreparedSet
from seedtok.evaluation.clip_scores import ClipImages, cosine_similarity_x100, floors
from seedtok.evaluation.drawing import evaluate_drawing, is_span
from seedtok.evaluation.drawings import drawings_in
from seedtok.evaluation.generation import evaluate_generation, score_folder
from seedtok.evaluation.run import Run
from seedtok.evaluation.score import Judges, score_predictions
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.evaluation import MiniSet, SceneScorer
from seedtok.mini.judge import SceneJudge
from seedtok.tokenizer.image_decoder import ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer

pytestmark = pytest.mark.slow


def library_features(folder: Path, pictures: list[Image.Image]) -> torch.Tensor:
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        out = model.get_image_features(**processor(images=pictures, return_tensors="pt"))
    return out if isinstance(out, torch.Tensor) else out.pooler_output


def similarity(folder: Path, drawings: list[Image.Image], real: list[Image.Image]) -> float:
    a, b = (library_features(folder, pictures).numpy().astype(np.float64) for pictures in (drawings, real))
    cosines = [float(x @ y) / float(np.linalg.norm(x) * np.linalg.norm(y)) for x, y in zip(a, b, strict=True)]
    return 100 * float(np.mean(cosines))


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer) -> SeedTokenizer:
    return SeedTokenizer.from_pretrained(tiny_tokenizer)


@pytest.fixture
def clip(small_clip) -> ClipImages:
    return ClipImages.from_pretrained(small_clip)


def test_similarities_are_those_of_the_clips_own_preprocessing(sets, tokenizer, clip, small_clip, tmp_path):
    data = sets["coco"]
    found = evaluate_generation(tokenizer, data, Run(tmp_path / "out", batch_size=2, seed=3), clip)
    real = [data.picture(i) for i in range(5)]
    for way in ("caption", "seed"):
        drawn = [Image.open(tmp_path / "out" / way / f"{entry.id}.png") for entry in data]
        assert found["clip_similarity"][way] == pytest.approx(similarity(small_clip, drawn, real), abs=1e-4)
    assert found["clip"]["preprocessing"]["crop_size"] == {"height": 28, "width": 28}
    assert found["settings"]["decoding"]["steps"] == tokenizer.config.num_inference_steps
    assert "judge_on_real" not in found
    assert score_predictions(tmp_path / "out", data, Judges(clip=clip)) == found


def test_what_is_drawn_is_of_the_first_caption_and_of_the_codes(sets, tokenizer, clip, tmp_path):
    data = sets["coco"]
    evaluate_generation(tokenizer, data, Run(tmp_path / "out", batch_size=2, seed=3), clip)
    last = data[4]  # the third batch, alone
    noise = torch.Generator().manual_seed(3 * 100_003 + 2)
    features = tokenizer.image_decoder.text_features([last.captions[0]])
    config = tokenizer.config
    (drawn,) = tokenizer.image_decoder.draw(features, config.num_inference_steps, config.guidance_scale, noise)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/caption" / f"{last.id}.png")), np.asarray(drawn))
    noise = torch.Generator().manual_seed(3 * 100_003 + 2)
    (drawn,) = tokenizer.decode(tokenizer.encode(data.picture(4)), generator=noise)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out/seed" / f"{last.id}.png")), np.asarray(drawn))


def test_stopped_drawing_goes_on_as_unstopped(sets, tokenizer, clip, tmp_path, monkeypatch):
    whole = evaluate_generation(tokenizer, sets["coco"], Run(tmp_path / "whole", batch_size=2), clip)
    decoder, calls = tokenizer.image_decoder, []
    draw = decoder.draw

    def stopping(*args, **options):
        calls.append(1)
        if len(calls) == 5:  # in the second way of drawing
            raise KeyboardInterrupt
        return draw(*args, **options)

    monkeypatch.setattr(decoder, "draw", stopping)
    run = Run(tmp_path / "stopped", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_generation(tokenizer, sets["coco"], run, clip)
    assert evaluate_generation(tokenizer, sets["coco"], run, clip) == whole
    assert len(calls) == 4 + 1 + 2  # three batches twice; the one that was stopped, again
    for path in (tmp_path / "whole").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "stopped" / path.relative_to(tmp_path / "whole")).read_bytes()


def test_what_draws_from_image_embeddings_draws_no_captions(sets, tokenizer, bases, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(ImageDecoder, "draws_captions", False)
    monkeypatch.setattr(tokenizer.image_decoder, "draw", lambda rows, *_: [Image.new("RGB", (9, 9))] * len(rows))
    data = sets["coco"]
    found = evaluate_generation(tokenizer, data, Run(tmp_path / "seed", batch_size=2), clip)
    assert set(found["clip_similarity"]) == {"seed"}
    assert "unCLIP" in found["missing"]["caption"]
    assert score_predictions(tmp_path / "seed", data, Judges(clip=clip)) == found
    lm = SeedLM.build(bases["opt"], tokenizer)
    found = evaluate_drawing(lm, data, Run(tmp_path / "lm", batch_size=2), clip)
    assert "clip_similarity" in found
    assert "clip_similarity_diffusion" not in found
    assert "unCLIP" in found["missing"]["diffusion"]
    assert score_predictions(tmp_path / "lm", data, Judges(clip=clip)) == found


def test_floors_are_of_the_pictures_among_themselves():
    features = torch.randn(2500, 8, generator=torch.Generator().manual_seed(0))
    unit = (features / features.norm(dim=1, keepdim=True)).double()
    cosines = unit @ unit.T
    cosines.fill_diagonal_(-2)
    found = floors(features)
    assert found["nearest_picture"] == pytest.approx(100 * float(cosines.amax(1).mean()))
    assert abs(found["random_picture"]) < 5  # of random features
    assert found == floors(features)
    three = torch.eye(3)[[0, 0, 1]]
    assert floors(three)["random_picture"] == pytest.approx(100 / 3)  # whichever cycle through three it is
    assert floors(three)["nearest_picture"] == pytest.approx(200 / 3)
    assert floors(features[:1]) == {}


def test_the_mean_is_of_cosines():
    a, b = torch.tensor([[1.0, 0], [3, 4]]), torch.tensor([[1.0, 0], [0, 2]])
    assert cosine_similarity_x100(a, b) == pytest.approx(100 * (1 + 0.8) / 2)


# ---------------------------------------------------------------- pictures that other programs drew


def test_pictures_of_other_programs_by_id_or_by_name(sets, clip, small_clip, tmp_path):
    data = sets["coco"]
    pictures = [Image.effect_noise((30, 20 + i), 90).convert("RGB") for i in range(5)]
    (tmp_path / "gill/more").mkdir(parents=True)
    for entry, picture in zip(data, pictures, strict=True):
        picture.save(tmp_path / "gill" / f"{entry.id}.png")
    found, unreadable = score_folder(tmp_path / "gill", data, clip)
    assert unreadable == []
    real = [data.picture(i) for i in range(5)]
    assert found["clip_similarity"]["pictures"] == pytest.approx(similarity(small_clip, pictures, real), abs=1e-4)
    for entry in data:
        name = f"{entry.id}.png"
        shutil.move(tmp_path / "gill" / name, tmp_path / "gill/more" / f"{Path(entry.image).stem}.png")
    assert score_folder(tmp_path / "gill", data, clip) == (found, [])
    (tmp_path / "gill/more" / f"{Path(data[0].image).stem}.png").unlink()
    with pytest.warns(SeedTokWarning, match="1 of pictures"):
        less = score_predictions(tmp_path / "gill", data, Judges(clip=clip))
    assert less["not_predicted"] == {"pictures": 1}


def test_a_true_picture_that_cannot_be_read_is_counted_and_named(sets, clip, tmp_path, monkeypatch):
    data = sets["coco"]
    (tmp_path / "gill").mkdir()
    for number, entry in enumerate(data):
        if number:  # the first is not drawn
            Image.effect_noise((30, 20), 90).convert("RGB").save(tmp_path / "gill" / f"{entry.id}.png")
    read = PreparedSet.picture

    def broken(self: PreparedSet, index: int) -> Image.Image:
        if index == 2:
            raise ImageError("cut off")
        return read(self, index)

    monkeypatch.setattr(PreparedSet, "picture", broken)
    words = f"1 of 5 pictures cannot be used, and are in no score: {data[2].id}: cut off"
    lacking = "predictions are missing, and in no score: 1 of pictures"
    with pytest.warns(SeedTokWarning, match=words), pytest.warns(SeedTokWarning, match=lacking):
        found = score_predictions(tmp_path / "gill", data, Judges(clip=clip))
    assert found["counts"]["unreadable"] == 1
    assert found["not_predicted"] == {"pictures": 1}


def test_pictures_that_are_not_of_the_set_are_refused(sets, clip, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "cat.png")
    with pytest.raises(DataError, match=r"1 of 1 pictures, the first cat\.png, are not named by an id or a fi"):
        drawings_in(tmp_path, sets["coco"])
    (tmp_path / "cat.png").rename(tmp_path / f"{sets['coco'][0].id}.png")
    (tmp_path / "again").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "again" / f"{sets['coco'][0].id}.jpg")
    with pytest.raises(DataError, match="are of one picture"):
        drawings_in(tmp_path, sets["coco"])
    with pytest.raises(ConfigError, match="name one"):
        score_predictions(tmp_path, sets["coco"], Judges())


# ---------------------------------------------------------------- a language model that draws


@pytest.mark.parametrize("scored", [True, False])
def test_drawings_of_a_language_model(bases, tokenizer, clip, tmp_path, scored):
    torch.manual_seed(1)
    lm, data = SeedLM.build(bases["opt"], tokenizer), MiniSet(3, 1)
    scorer = SceneScorer(data, SceneJudge.from_pretrained(shipped("judge"))) if scored else None
    found = evaluate_drawing(lm, data, Run(tmp_path / "out", batch_size=2), clip, scorer)
    assert (found["invalid_spans"], found["spans"]) == (0, 33)
    assert ("things_right" in found, "things_right_diffusion" in found) == (scored, scored)
    records = json.loads((tmp_path / "out/seed_opt.json").read_text())
    codes = [record["codes"] for record in records]
    captions = [entry.captions[0] for entry in data]
    expected = torch.cat([lm.draw_codes(captions[:2]), lm.draw_codes(captions[2:])])
    assert codes == expected.tolist()
    assert {p.name for p in (tmp_path / "out/diffusion").iterdir()} == {"0.png", "1.png", "2.png"}
    assert score_predictions(tmp_path / "out", data, Judges(clip, scorer)) == found


def test_a_span_is_so_many_codes_of_the_codebook():
    assert is_span([0, 7, 8191], 3, 8192)
    assert not is_span([0, 7], 3, 8192)
    assert not is_span([0, 7, 8192], 3, 8192)
    assert not is_span([0, -1, 5], 3, 8192)
