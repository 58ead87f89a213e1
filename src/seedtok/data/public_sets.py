"""The field's data sets from the files that their publishers give: pairs to train on, lists to evaluate on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seedtok.core.errors import DataError
from seedtok.core.writing import whole_file
from seedtok.data.pairs import Pair, parse_json, read_text

Record = dict[str, Any]  # a line of an evaluation list: id, image, and captions or question and answers
Read = Callable[[Path, Path, str], Iterator[Record]]  # annotations, folder of images, split


@dataclass(frozen=True)
class PublicSet:
    """Splits with the publisher's counts of entries, what the annotations are called, and how to read them."""

    splits: dict[str, int]
    annotations: str
    read: Read
    training: tuple[str, ...] = ()  # splits that become shards; the others become lists


@dataclass(frozen=True)
class Prepared:
    """`found` entries, where the publisher has `published`; `missing` are without their picture."""

    written: Path
    found: int
    published: int
    missing: tuple[str, ...] = ()


def read_public(name: str, annotations: Path, images: Path, split: str) -> Iterator[Record]:
    """The entries of a split, in the publisher's order.

    Raises DataError for an unknown set or split, a file that is missing or not what it should be, or no entry at all.
    """
    public = public_set(name, split)
    if not annotations.exists():
        raise DataError(f"no such file or folder: {annotations}; {name} needs {public.annotations}")
    with _reading(annotations, public):
        for record in public.read(annotations, images, split):
            yield _checked(record)


@contextmanager
def _reading(annotations: Path, public: PublicSet) -> Iterator[None]:
    """Within, a publisher's file is read; raises DataError for one that is not as the publisher's."""
    try:
        yield
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{annotations}: not {public.annotations}; an entry lacks {error}") from None
    except (TypeError, AttributeError, IndexError, ValueError) as error:
        raise DataError(f"{annotations}: not {public.annotations} ({error})") from None


def _checked(record: Record) -> Record:
    """An entry as it is; raises TypeError for one with another value where a text belongs."""
    texts = [record["question"], *record["answers"]] if "question" in record else record["captions"]
    for text in (*texts, *filter(None, [record.get("domain")])):
        if not isinstance(text, str):
            raise TypeError(f"{str(text)[:40]} where a text belongs")
    if not isinstance(record["id"], str | int):
        raise TypeError(f"the id {str(record['id'])[:40]} is no text or integer")
    return record


def public_set(name: str, split: str) -> PublicSet:
    """Raises DataError for an unknown set or split."""
    if name not in SETS:
        raise DataError(f"no data set {name!r}: known are {', '.join(SETS)}")
    if split not in SETS[name].splits:
        raise DataError(f"{name} has no split {split!r}: choose {', '.join(SETS[name].splits)}")
    return SETS[name]


def as_pairs(records: Iterable[Record]) -> Iterator[Pair]:
    """Entries with captions, as what `shards.pack_pairs` takes."""
    for record in records:
        yield Pair(str(record["id"]), Path(record["image"]), tuple(record["captions"]))


def write_list(name: str, annotations: Path, images: Path, split: str, out: Path) -> Prepared:
    """Writes an evaluation list, JSONL; entries whose picture is missing are left out and named.

    Raises DataError as `read_public` does, and where no entry is left.
    """
    missing: list[str] = []
    found = 0
    out.parent.mkdir(parents=True, exist_ok=True)
    there: dict[str, bool] = {}  # a picture may have many questions
    with whole_file(out) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        for record in read_public(name, annotations, images, split):
            image = record["image"]
            if not there.setdefault(image, Path(image).is_file()):
                missing.append(image)
                continue
            record["image"] = os.path.abspath(image)  # so that it is found from anywhere
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            found += 1
        if not found:
            raise DataError(f"{annotations}: nothing of {split} has its picture in {images}")
    return Prepared(out, found, SETS[name].splits[split], tuple(dict.fromkeys(missing)))


def url_list(name: str, annotations: Path, out: Path) -> int:
    """Writes addresses and captions as a TSV with a header, as img2dataset takes it; returns how many.

    Raises DataError for a set that is not published as addresses.
    """
    if name not in URLS:
        raise DataError(f"{name} is not published as a list of addresses: give a folder of its images")
    count = 0
    public = SETS[name]
    with (
        whole_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file,
        _reading(annotations, public),
    ):  # fmt: skip
        rows = csv.writer(file, delimiter="\t")
        rows.writerow(("url", "caption"))
        for url, caption in URLS[name](annotations):
            rows.writerow((url, caption))
            count += 1
    if not count:
        raise DataError(f"{annotations}: no address in it")
    return count


# ---------------------------------------------------------------- captions


def _karpathy(annotations: Path, images: Path, split: str) -> Iterator[Record]:
    """Karpathy's dataset_coco.json and dataset_flickr30k.json; COCO's "restval" is for training."""
    wanted = ("train", "restval") if split == "train" else (split,)
    for image in parse_json(read_text(annotations), str(annotations))["images"]:
        if image["split"] in wanted:
            path = images / image.get("filepath", "") / image["filename"]
            captions = [sentence["raw"] for sentence in image["sentences"]]
            yield {"id": image.get("cocoid", image["imgid"]), "image": str(path), "captions": captions}


def _nocaps(annotations: Path, images: Path, split: str) -> Iterator[Record]:
    content = parse_json(read_text(annotations), str(annotations))
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in content["images"]:
        path = str(images / image["file_name"])
        yield {"id": image["id"], "image": path, "captions": captions[image["id"]], "domain": image["domain"]}


def _cc3m_rows(annotations: Path) -> Iterator[tuple[str, str]]:
    """Google's TSV, without a header: caption, address."""
    for row in _lines(annotations):
        if len(row) != 2:
            raise DataError(f"{annotations}: {len(row)} fields in a line; expected a caption and an address")
        caption, url = row
        yield url, caption


def _cc3m(annotations: Path, images: Path, split: str) -> Iterator[Record]:
    """Images named by their line, from 0 on: 000000000.jpg."""
    for number, (_, caption) in enumerate(_cc3m_rows(annotations)):
        yield {"id": number, "image": str(images / f"{number:09}.jpg"), "captions": [caption]}


def _unsplash_rows(annotations: Path) -> Iterator[dict[str, str]]:
    """photos.tsv000 and its like, or the folder that has them: a header in each; those without words are left out."""
    files = sorted(annotations.glob("photos.tsv*")) if annotations.is_dir() else [annotations]
    for path in files:
        rows = _lines(path)
        header = next(rows, [])
        for row in rows:
            record = dict(zip(header, row, strict=True))
            record["caption"] = record["photo_description"].strip() or record["ai_description"].strip()
            if record["caption"]:
                yield record


def _unsplash(annotations: Path, images: Path, split: str) -> Iterator[Record]:
    for row in _unsplash_rows(annotations):
        path = images / f"{row['photo_id']}.jpg"
        yield {"id": row["photo_id"], "image": str(path), "captions": [row["caption"]]}


def _lines(path: Path) -> Iterator[list[str]]:
    """The rows of a TSV in which nothing is quoted; DataError for one with more or fewer fields than the first."""
    width = None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
                width = len(row) if width is None else width
                if len(row) != width:
                    raise DataError(f"{path}, line {number}: {len(row)} fields; the first line has {width}")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


# ---------------------------------------------------------------- questions


def _vqav2(annotations: Path, images: Path, split: str) -> Iterator[Record]:
    """A folder of both official files of a split, questions and annotations."""
    questions, answers = (
        parse_json(read_text(annotations / name), str(annotations / name))
        for name in (f"v2_OpenEnded_mscoco_{split}2014_questions.json", f"v2_mscoco_{split}2014_annotations.json")
    )
    known = {a["question_id"]: [given["answer"] for given in a["answers"]] for a in answers["annotations"]}
    for question in questions["questions"]:
        path = images / f"{split}2014" / f"COCO_{split}2014_{question['image_id']:012}.jpg"
        number = question["question_id"]
        yield {"id": number, "image": str(path), "question": question["question"], "answers": known[number]}


def _gqa(annotations: Path, images: Path, split: str) -> Iterator[Record]:
    for number, question in parse_json(read_text(annotations), str(annotations)).items():
        path = str(images / f"{question['imageId']}.jpg")
        yield {"id": number, "image": path, "question": question["question"], "answers": [question["answer"]]}


SETS: dict[str, PublicSet] = {
    "coco": PublicSet(
        {"train": 113_287, "val": 5000, "test": 5000}, "Karpathy's dataset_coco.json", _karpathy, ("train",)
    ),
    "flickr30k": PublicSet(
        {"train": 29_000, "val": 1014, "test": 1000}, "Karpathy's dataset_flickr30k.json", _karpathy, ("train",)
    ),
    "cc3m": PublicSet(
        {"train": 3_318_333, "validation": 15_840}, "Train_GCC-training.tsv or its validation", _cc3m,
        ("train", "validation"),
    ),
    "unsplash": PublicSet({"lite": 25_000}, "photos.tsv000 or the folder of such", _unsplash, ("lite",)),
    "nocaps": PublicSet({"val": 4500}, "nocaps_val_4500_captions.json", _nocaps),
    "vqav2": PublicSet(
        {"train": 443_757, "val": 214_354}, "the folder of the v2_OpenEnded questions and v2_mscoco annotations", _vqav2
    ),
    "gqa": PublicSet(
        {"testdev_balanced": 12_578, "val_balanced": 132_062, "train_balanced": 943_000},
        "SPLIT_questions.json", _gqa,
    ),
}  # fmt: skip
URLS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "cc3m": _cc3m_rows,
    "unsplash": lambda annotations: ((r["photo_image_url"], r["caption"]) for r in _unsplash_rows(annotations)),
}
