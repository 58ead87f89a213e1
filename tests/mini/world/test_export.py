"""Scenes in the publishers' formats: what is written is what `data prepare` reads, word for word."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from seedtok.data.entries import Entry
from seedtok.data.prepared import open_set, prepare
from seedtok.data.public_sets import as_pairs, read_public
from seedtok.mini.world.blind import blind_prior
from seedtok.mini.world.drawing import render
from seedtok.mini.world.export import FORMATS, Exported, export_scenes
from seedtok.mini.world.grammar import same_scene
from seedtok.mini.world.hands import HELD_OUT_HANDS
from seedtok.mini.world.questions import questions
from seedtok.mini.world.scene import Scene
from seedtok.mini.world.sets import scene_set


def exported(out: Path, form: str, name: str = "test-all-hands", count: int = 30) -> tuple[list[Scene], Exported]:
    scenes = scene_set(name, count)
    return scenes, export_scenes(scenes, out, form, name, size=64)


def read_back(tmp_path: Path, form: str, made: Exported) -> list[Entry]:
    """What `data prepare` makes of an export, and the evaluation reads."""
    given, out = made.published, tmp_path / form
    prepared = prepare(form, out / given.annotations, out / given.images, given.split, tmp_path / "prepared")
    assert prepared.missing == ()
    read = open_set(tmp_path / "prepared")
    assert len(read) == len(given.pictures)
    for index in (0, len(read) - 1):
        assert read.picture(index).size == (64, 64)
    return list(read)


@pytest.mark.parametrize(("form", "each"), [("coco", 5), ("flickr30k", 5), ("nocaps", 10)])
def test_captions_are_read_back(tmp_path: Path, form: str, each: int):
    scenes, made = exported(tmp_path / form, form)
    entries = read_back(tmp_path, form, made)
    assert made.published.captions == each * len(scenes)
    assert made.prior == {}
    for scene, entry in zip(scenes, entries, strict=True):
        assert len(set(entry.captions)) == each
        assert all(same_scene(text, scene) for text in entry.captions)


def test_pictures_are_those_of_the_scenes(tmp_path: Path):
    scenes, made = exported(tmp_path / "gqa", "gqa", count=5)
    read_back(tmp_path, "gqa", made)
    read = open_set(tmp_path / "prepared")
    for index, scene in enumerate(scenes):
        off = np.asarray(read.picture(index)).astype(float) - render(scene, 64)
        assert np.abs(off).mean() < 3  # what JPEG loses


def test_nocaps_domains_are_by_whether_training_saw_the_hands(tmp_path: Path):
    scenes, made = exported(tmp_path / "nocaps", "nocaps", count=60)
    seen = Counter()
    for scene, entry in zip(scenes, read_back(tmp_path, "nocaps", made), strict=True):
        assert scene.look
        held_out = {look.hand in HELD_OUT_HANDS for look in scene.look.things}
        assert entry.domain == {(True,): "out-domain", (False,): "in-domain"}.get(tuple(held_out), "near-domain")
        seen[entry.domain] += 1
    assert min(seen["out-domain"], seen["near-domain"], seen["in-domain"]) >= 5


@pytest.mark.parametrize(("form", "people"), [("vqav2", 10), ("gqa", 1)])
def test_questions_are_read_back(tmp_path: Path, form: str, people: int):
    scenes, made = exported(tmp_path / form, form)
    entries = read_back(tmp_path, form, made)
    ids = [question.id for entry in entries for question in entry.questions]
    assert len(set(ids)) == len(ids) == 3 * len(scenes)
    asked = [
        q for number, scene in enumerate(scenes) for q in questions(scene, np.random.default_rng([61, 0, number]), 3)
    ]
    read = [question for entry in entries for question in entry.questions]
    for question, right in zip(read, asked, strict=True):
        assert question.text == right.text
        assert question.answers == (right.answer,) * people
        if form == "vqav2":
            kinds = {"verify": "yes/no", "count": "number"}
            assert question.answer_type == kinds.get(right.kind, "other")
            assert right.text.lower().startswith(question.kind)
        else:
            assert question.kind == ("verify" if right.kind == "verify" else "query")
    assert set(made.prior) == {"all", *(q.kind for q in asked)}
    assert blind_prior(asked, {})["all"] == 0 < made.prior["all"] < 40


def test_training_scenes_become_train_and_restval(tmp_path: Path):
    scenes, made = exported(tmp_path / "coco", "coco", "train", 8)
    content = json.loads((tmp_path / "coco" / "dataset_coco.json").read_text())
    assert [image["split"] for image in content["images"]] == 2 * ["train", "train", "train", "restval"]
    assert [image["filepath"] for image in content["images"]] == 2 * ["train2014", "train2014", "train2014", "val2014"]
    pairs = list(
        as_pairs(read_public("coco", tmp_path / "coco" / "dataset_coco.json", "train"), tmp_path / "coco" / "images")
    )
    assert all(pair.path.is_file() for pair in pairs)
    assert all(same_scene(pair.captions[0], scene) for pair, scene in zip(pairs, scenes, strict=True))
    assert made.published.split == "train"


@pytest.mark.parametrize("name", ["validation", "test-near-misses", "test-unseen-hands"])
def test_every_set_has_a_publishers_split(tmp_path: Path, name: str):
    expected = {"coco": "test", "flickr30k": "test", "nocaps": "val", "vqav2": "val", "gqa": "testdev_balanced"}
    if name == "validation":
        expected |= {"coco": "val", "flickr30k": "val", "gqa": "val_balanced"}
    for form, split in expected.items():
        _, made = exported(tmp_path / form, form, name, 2)
        assert made.published.split == split
        published = made.published
        entries = list(read_public(form, tmp_path / form / published.annotations, split))
        assert len(entries) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_arguments_give_the_same_files(tmp_path: Path, form: str):
    def digest(folder: Path) -> dict[str, str]:
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    for name in ("a", "b"):
        exported(tmp_path / name, form, count=4)
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert len(digest(tmp_path / "a")) == 4 + (2 if form == "vqav2" else 1)


def test_classic_scenes_are_exported_too(tmp_path: Path):
    scenes = scene_set("test", 10, classic=True)
    export_scenes(scenes, tmp_path / "nocaps", "nocaps", "test")
    entries = list(read_public("nocaps", tmp_path / "nocaps" / "nocaps_val_4500_captions.json", "val"))
    assert [len(entry.captions) for entry in entries] == [10] * 10
    assert {entry.domain for entry in entries} == {"in-domain"}
    assert all(same_scene(text, s) for s, entry in zip(scenes, entries, strict=True) for text in entry.captions)


def test_errors_say_what_is_possible_and_leave_nothing(tmp_path: Path):
    scenes = scene_set("test", 2)
    with pytest.raises(ValueError, match="no format 'voc': choose coco, flickr30k, nocaps, vqav2, gqa"):
        export_scenes(scenes, tmp_path / "voc", "voc", "test")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty"):
        export_scenes(scenes, tmp_path / "full", "coco", "test")
    with pytest.raises(ValueError, match="64 or 128 pixels"):
        export_scenes(scenes, tmp_path / "new", "coco", "test", size=65)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
