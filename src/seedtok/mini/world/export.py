"""Scenes as the field's data sets are published: picture files, and annotations that `seedtok data prepare` reads."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from seedtok.core.atomic import hidden_folder, is_empty, move_into
from seedtok.core.errors import DataError
from seedtok.core.locks import locked
from seedtok.mini.world.balanced import Question
from seedtok.mini.world.blind import blind_answers, blind_prior
from seedtok.mini.world.published import (
    PEOPLE,
    captions_of,
    domain_of,
    gqa_key,
    jpeg,
    question_type,
    questions_of,
    structure_of,
)
from seedtok.mini.world.questions import answer_type
from seedtok.mini.world.scene import Scene
from seedtok.mini.world.scenes import CLASSIC, VARIED, scene_stream

_BLIND_SCENES = 2000  # training scenes whose answers a blind guesser knows


@dataclass(frozen=True)
class Publication:
    """A data set as its publisher gives it.

    `annotations`, `images` and `split` are what `data prepare` is given, the paths relative to the folder; `pictures`
    the scenes' files in the folder, `files` the JSON beside them, `asked` the questions, where it has any.
    """

    annotations: str
    images: str
    split: str
    pictures: list[str]
    files: dict[str, Any]
    captions: int = 0
    asked: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class Exported:
    """What was written, and the percentage of its questions that a blind guesser gets right, by kind."""

    published: Publication
    prior: dict[str, float]


def export_scenes(
    scenes: Sequence[Scene],
    out: Path,
    dataset: str,
    split: str,
    *,
    size: int = 128,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Exported:
    """Writes scenes of a split (or set) of the mini world as one of FORMATS, with JPEGs of size x size pixels.

    The same arguments give the same files. Raises DataError for an unknown format, and for a folder that is not empty
    or cannot be written to; on any error, nothing is left in it.
    """
    if dataset not in FORMATS:
        raise DataError(f"no format {dataset!r}: choose {', '.join(FORMATS)}")
    published = FORMATS[dataset](scenes, split.partition("-")[0], seed, size)
    try:
        with locked(out):
            if not is_empty(out):
                raise DataError(f"{out} is not empty: choose an empty or a new folder")
            with hidden_folder(out) as hidden:
                for number, (scene, name) in enumerate(zip(scenes, published.pictures, strict=True)):
                    _new(hidden / name).write_bytes(jpeg(scene, size))
                    if progress:
                        progress(number + 1)
                for name, content in published.files.items():
                    _new(hidden / name).write_text(json.dumps(content), encoding="utf-8")
                move_into(hidden, out)
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror or error}") from error
    guesses = _blind_answers(classic=all(scene.look is None for scene in scenes)) if published.asked else {}
    return Exported(published, blind_prior(published.asked, guesses))


def _new(path: Path) -> Path:
    """A path whose folder exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@lru_cache(maxsize=2)
def _blind_answers(classic: bool) -> dict[str, str]:
    """The most frequent answers about training scenes."""
    scenes = islice(scene_stream("train", 0, world=CLASSIC if classic else VARIED), _BLIND_SCENES)
    return blind_answers(question for i, scene in enumerate(scenes) for question in questions_of("vqav2", scene, 0, i))


# ---------------------------------------------------------------- captions


def _karpathy(
    scenes: Sequence[Scene], seed: int, dataset: str, file_of: Callable[[int], dict[str, Any]]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The images of Karpathy's file, with five sentences each, and all of it."""
    images = []
    for number, scene in enumerate(scenes):
        sentences = [
            {"tokens": text.replace(",", "").split(), "raw": text, "imgid": number, "sentid": 5 * number + i}
            for i, text in enumerate(captions_of(dataset, scene, seed, number))
        ]
        sentids = [sentence["sentid"] for sentence in sentences]
        images.append(file_of(number) | {"imgid": number, "sentids": sentids, "sentences": sentences})
    return images, {"images": images, "dataset": dataset}


def _coco(scenes: Sequence[Scene], split: str, seed: int, size: int) -> Publication:
    """Of training scenes, every fourth is in COCO's "restval": a picture of 2014's validation that is trained on."""
    named = {"validation": "val"}.get(split, split)

    def file_of(number: int) -> dict[str, Any]:
        part = "restval" if named == "train" and number % 4 == 3 else named
        folder = "train2014" if part == "train" else "val2014"
        name = f"COCO_{folder}_{number + 1:012}.jpg"
        return {"filepath": folder, "filename": name, "cocoid": number + 1, "split": part}

    images, content = _karpathy(scenes, seed, "coco", file_of)
    pictures = [f"images/{image['filepath']}/{image['filename']}" for image in images]
    return Publication(
        "dataset_coco.json", "images", named, pictures, {"dataset_coco.json": content}, captions=5 * len(images)
    )


def _flickr30k(scenes: Sequence[Scene], split: str, seed: int, size: int) -> Publication:
    named = {"validation": "val"}.get(split, split)
    images, content = _karpathy(
        scenes, seed, "flickr30k", lambda number: {"filename": f"{1_000_000_000 + number}.jpg", "split": named}
    )
    pictures = [f"images/{image['filename']}" for image in images]
    return Publication(
        "dataset_flickr30k.json",
        "images",
        named,
        pictures,
        {"dataset_flickr30k.json": content},
        captions=5 * len(images),
    )


def _nocaps(scenes: Sequence[Scene], split: str, seed: int, size: int) -> Publication:
    """Ten captions each; the domain is whether training saw the hands of all, some or none of a scene's things."""
    images = [
        {
            "id": number, "open_images_id": f"{number:016x}", "file_name": f"{number:016x}.jpg", "width": size,
            "height": size, "domain": domain_of(scene),
        }
        for number, scene in enumerate(scenes)
    ]  # fmt: skip
    annotations = [
        {"id": 10 * number + i, "image_id": number, "caption": text}
        for number, scene in enumerate(scenes)
        for i, text in enumerate(captions_of("nocaps", scene, seed, number))
    ]
    content = {"info": _INFO, "licenses": [], "images": images, "annotations": annotations}
    name = "nocaps_val_4500_captions.json"
    pictures = [f"images/{image['file_name']}" for image in images]
    return Publication(name, "images", "val", pictures, {name: content}, captions=len(annotations))


# ---------------------------------------------------------------- questions


def _vqav2(scenes: Sequence[Scene], split: str, seed: int, size: int) -> Publication:
    """Ten answers to a question, all the same."""
    part = "train" if split == "train" else "val"
    asked: list[Question] = []
    given, right = [], []
    for number, scene in enumerate(scenes):
        for i, question in enumerate(questions_of("vqav2", scene, seed, number)):
            asked.append(question)
            ids = {"image_id": number + 1, "question_id": 1000 * (number + 1) + i}
            given.append(ids | {"question": question.text})
            answers = [
                {"answer": question.answer, "answer_confidence": "yes", "answer_id": person + 1}
                for person in range(PEOPLE)
            ]
            kinds = {"question_type": question_type(question.text), "answer_type": answer_type(question.answer)}
            right.append(ids | kinds | {"multiple_choice_answer": question.answer, "answers": answers})
    common = {"info": _INFO, "license": {}, "data_type": "mscoco", "data_subtype": f"{part}2014"}
    files = {
        f"annotations/v2_OpenEnded_mscoco_{part}2014_questions.json": common
        | {"task_type": "Open-Ended", "questions": given},
        f"annotations/v2_mscoco_{part}2014_annotations.json": common | {"annotations": right},
    }
    pictures = [f"images/{part}2014/COCO_{part}2014_{number + 1:012}.jpg" for number in range(len(scenes))]
    return Publication("annotations", "images", part, pictures, files, asked=asked)


def _gqa(scenes: Sequence[Scene], split: str, seed: int, size: int) -> Publication:
    part = {"train": "train_balanced", "validation": "val_balanced"}.get(split, "testdev_balanced")
    asked: list[Question] = []
    content: dict[str, Any] = {}
    for number, scene in enumerate(scenes):
        for i, question in enumerate(questions_of("gqa", scene, seed, number)):
            asked.append(question)
            key = gqa_key(number, i)
            content[key] = _gqa_record(question, key, f"n{number}")
    name = f"{part}_questions.json"
    return Publication(
        name, "images", part, [f"images/n{i}.jpg" for i in range(len(scenes))], {name: content}, asked=asked
    )


def _gqa_record(question: Question, key: str, image: str) -> dict[str, Any]:
    semantic = {"color": "global", "count": "obj", "exists": "obj", "what": "cat", "where": "attr", "relation": "rel"}
    types = {
        "structural": structure_of(question), "semantic": semantic.get(question.kind, "attr"),
        "detailed": question.kind,
    }  # fmt: skip
    return {
        "semantic": [], "entailed": [], "equivalent": [key], "question": question.text, "imageId": image,
        "isBalanced": True, "groups": {"global": None, "local": None}, "answer": question.answer, "semanticStr": "",
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}}, "types": types,
        "fullAnswer": f"{question.answer.capitalize()}.",
    }  # fmt: skip


_INFO = {"description": "Scenes of seedtok's mini world", "version": "1.0"}
FORMATS: dict[str, Callable[[Sequence[Scene], str, int, int], Publication]] = {
    "coco": _coco, "flickr30k": _flickr30k, "nocaps": _nocaps, "vqav2": _vqav2, "gqa": _gqa,
}  # fmt: skip
