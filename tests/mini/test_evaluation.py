"""The mini world as a data set to evaluate on, and what it finds right."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import publishers
from seedtok.core.errors import CheckpointError
from seedtok.evaluation.clip_scores import ClipImages
from seedtok.evaluation.retrieval import evaluate_retrieval
from seedtok.evaluation.run import Run
from seedtok.mini.evaluation import MiniSet, SceneFeatures, SceneScorer, blind_accuracy, load_features
from seedtok.mini.judge import SceneJudge
from seedtok.mini.scene_clip import SceneClip, SceneClipConfig
from seedtok.mini.world.blind import wording
from seedtok.mini.world.grammar import parse_caption
from seedtok.mini.world.scenes import PHRASINGS, WORDINGS, caption, render, unique_scenes
from seedtok.mini.world.sets import scene_set
from seedtok.mini.world.source import to_batch
from seedtok.stages.pixels import clip_normalize
from seedtok.tokenizer.vision import VisionConfig


def test_a_set_is_scenes_with_captions_and_a_question():
    data, scenes = MiniSet(12, 4), unique_scenes("test", 12, 4)
    assert len(data) == 12
    assert [entry.captions for entry in data] == [(caption(scene),) for scene in scenes]
    assert all(np.array_equal(np.asarray(data.picture(i)), render(scene)) for i, scene in enumerate(scenes))
    for entry in data:
        (question,) = entry.questions
        assert question.id == entry.id
        assert len(question.answers) == 10
        assert len(set(question.answers)) == 1
        assert question.answer_type == {"exists": "yes/no", "count": "number"}.get(question.kind, "other")
    assert data.info.counts == {"pictures": 12, "captions": 12, "questions": 12}


def test_with_every_wording_a_picture_has_each_once():
    data = MiniSet(6, 4, every_wording=True)
    for entry, scene in zip(data, data.scenes, strict=True):
        assert entry.captions[0] == caption(scene)
        assert set(entry.captions) == {caption(scene, wording) for wording in range(PHRASINGS)}
        assert len(set(entry.captions)) == len(entry.captions)


def test_sets_of_the_varied_world_are_read_by_their_names():
    data = MiniSet(6, 4, True, "test-unseen-hands", classic=False)
    assert data.scenes == scene_set("test-unseen-hands", 6, 4)
    assert (data.info.name, data.info.split) == ("mini", "test-unseen-hands")
    for entry, scene in zip(data, data.scenes, strict=True):
        assert set(entry.captions) == {caption(scene, wording) for wording in range(WORDINGS)}
        (question,) = entry.questions
        assert question.answer_type == {"verify": "yes/no", "count": "number"}.get(question.kind, "other")


@pytest.mark.parametrize("name", ["test", "test-unseen-hands"])
def test_near_misses_are_candidates_that_ask_nothing(name):
    data = MiniSet(40, 4, name=f"{name}+near-misses", classic=False)
    scenes, misses = scene_set(name, 40, 4), scene_set(f"{name}-near-misses", 40, 4)
    assert data.scenes[:40] == scenes
    assert 60 < len(data) <= 80
    assert set(map(str, data.scenes[40:])) <= set(map(str, misses))
    assert [entry.is_query for entry in data] == [True] * 40 + [False] * (len(data) - 40)
    captions = [entry.captions[0] for entry in data]
    assert len(set(captions)) == len(captions)
    assert len(data.info.counts) == 3
    assert data.info.counts["captions"] == len(data)


class AllAlike:
    """Embeds a picture and its caption alike, and a near miss as its scene, but a little off."""

    row, settings, device = "alike", {}, torch.device("cpu")

    def __init__(self, off: float) -> None:
        self.off, self.seen = off, 0

    def embed(self, pictures, texts):
        count = len(pictures)
        rows = torch.nn.functional.one_hot(torch.arange(count) % 6, 8).float()
        rows[torch.arange(count) >= 6, 7] = self.off
        rows = torch.nn.functional.normalize(rows, dim=-1)
        return {"": rows}, rows.clone()


def test_near_misses_are_in_the_way_of_a_model_that_does_not_see_them():
    data = MiniSet(6, 4, name="test+near-misses", classic=False)
    assert len(data) == 12
    plain = MiniSet(6, 4, name="test", classic=False)
    found = {off: evaluate_retrieval({"alike": AllAlike(off)}, data, Run(batch_size=12))["alike"] for off in (0.0, 0.5)}
    assert evaluate_retrieval({"alike": AllAlike(0.0)}, plain, Run(batch_size=12))["alike"]["r_mean"] == 100
    assert (found[0.5]["i2t_r1"], found[0.5]["t2i_r1"]) == (100, 100)
    assert (found[0.0]["i2t_r1"], found[0.0]["t2i_r1"], found[0.0]["t2i_r5"]) == (0, 0, 100)


def test_sets_are_told_apart():
    prints = [MiniSet(*given).info.fingerprint for given in ((5, 0), (5, 1), (6, 0), (5, 0, True), (5, 0))]
    assert len(set(prints)) == 4
    assert prints[0] == prints[-1]


def test_captions_are_right_in_any_wording():
    data = MiniSet(5, 2)
    scorer = SceneScorer(data)
    said = [caption(scene, number) for number, scene in enumerate(data.scenes)]
    things = sum(len(scene.things) for scene in data.scenes)
    fields = dict.fromkeys(("exact", "backgrounds", "counts", "places"), (5, 5))
    right = fields | {"things": (things, things), "in_place": (things, things)}
    assert scorer.score_captions(said, range(5)) == right
    assert scorer.score_captions(said, [1, 2, 3, 4, 0])["exact"] == (0, 5)
    assert parse_caption(said[0]) is not None


@pytest.mark.parametrize("classic", [True, False])
def test_one_who_sees_nothing_guesses_by_the_wording(classic):
    """By hand: each question's wording has one guess, that of most training questions of that wording."""
    data, training = MiniSet(60, 4, classic=classic), MiniSet(500, 4, name="train", classic=classic)
    answers: dict[str, Counter[str]] = {}
    for question in training.asked:
        answers.setdefault(wording(question.text), Counter())[question.answer] += 1
    guessed = [answers.get(wording(q.text), Counter([""])).most_common(1)[0][0] == q.answer for q in data.asked]
    found = blind_accuracy(data, 500)
    assert found["accuracy"] == pytest.approx(100 * sum(guessed) / len(guessed))
    assert 0 < found["accuracy"] < 60


def test_drawings_are_judged_as_the_scenes_of_their_pictures():
    data, judge = MiniSet(4, 2), SceneJudge()
    scorer, pictures = SceneScorer(data, judge), [Image.new("RGB", (64, 64), "red") for _ in range(3)]
    found = scorer.score_drawings(pictures, [0, 2, 3])
    assert found["background"][1] == 3
    assert found["things"][1] == sum(len(data.scenes[i].things) for i in (0, 2, 3))


SMALL_CLIP = SceneClipConfig(
    VisionConfig(image_size=64, patch_size=8, width=16, layers=1, heads=2, mlp_width=32, stem=(4, 8, 8)),
    text_width=16, text_layers=1, projection=12,
)  # fmt: skip


def test_drawings_of_scenes_are_compared_by_a_clip_of_scenes_or_of_transformers(tmp_path):
    torch.manual_seed(0)
    clip = SceneClip(SMALL_CLIP).eval()
    clip.save_pretrained(tmp_path / "scenes")
    publishers.clip(tmp_path / "clip")
    (tmp_path / "judge").mkdir()
    SceneJudge().save_pretrained(tmp_path / "judge")
    data = MiniSet(3, 5, name="test", classic=False)
    pictures = [data.picture(i).resize((64, 64), Image.Resampling.BICUBIC) for i in range(3)]
    found = load_features(tmp_path / "scenes")
    assert isinstance(found, SceneFeatures)
    pixels = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = clip.embed_images(clip.image_states(clip_normalize(pixels)))
    torch.testing.assert_close(found.features(pictures), expected, rtol=1e-4, atol=1e-5)
    assert set(found.settings) == {"files", "preprocessing"}
    assert isinstance(load_features(tmp_path / "clip"), ClipImages)
    with pytest.raises(CheckpointError, match="is a scene judge: for comparing pictures, give a CLIP of"):
        load_features(tmp_path / "judge")


def test_an_embedding_is_of_its_picture_or_caption_alone():
    torch.manual_seed(0)
    clip = SceneClip(SMALL_CLIP).eval()
    batch = to_batch(unique_scenes("test", 6), 64)
    with torch.no_grad():
        images = clip.embed_images(clip.image_states(clip_normalize(batch.pixels)))
        texts = clip.embed_texts(clip.text_states(batch.captions))
        torch.testing.assert_close(images[3:4], clip.embed_images(clip.image_states(clip_normalize(batch.pixels[3:4]))))
        torch.testing.assert_close(texts[3:4], clip.embed_texts(clip.text_states(batch.captions[3:4])))
    assert images.shape == texts.shape == (6, 12)
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(6))
    longest = " ".join(["an elephant on the left"] * 30)
    assert clip.text_states([longest, "a cat"]).shape == (2, 10, 16)
