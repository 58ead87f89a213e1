"""Public data sets: readers of the annotation files as published, and the table `SETS` of all sets."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError
from seedtok.data.entries import Entry, Question
from seedtok.data.pairs import Pair, parse_json, read_text

Read = Callable[[Path, str], Iterator[Entry]]  # annotations and split; pictures by their paths in the folder of images


@dataclass(frozen=True)
class PublicSet:
    """Splits with what their publisher counts in them, what the annotations are called, and how to read them.

    `answer_keys` as in `SetInfo`.
    """

    splits: dict[str, dict[str, int]]  # each with its pictures, and captions or questions where that is known
    annotations: str
    read: Read
    training: tuple[str, ...] = ()  # splits that become shards; the others are to evaluate on
    answer_keys: tuple[str, str] = ("question_id", "answer")


def read_public(name: str, annotations: Path, split: str) -> Iterator[Entry]:
    """The pictures of a split in the publisher's order, each once, with all that is said of it.

    Raises DataError for an unknown set or split, and for a file that is missing or not what it should be.
    """
    public = public_set(name, split)
    if not annotations.exists():
        raise DataError(f"no such file or folder: {annotations}; {name} needs {public.annotations}")
    with _reading(annotations, public):
        for entry in public.read(annotations, split):
            yield _checked(entry)


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


def _checked(entry: Entry) -> Entry:
    """An entry as it is; raises TypeError for one with another value where a text belongs."""
    texts = [entry.image, *entry.captions, entry.domain]
    for question in entry.questions:
        texts += [question.text, *question.answers, question.answer_type, question.kind]
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"expected a text, got {str(text)[:40]}")
    for number in (entry.id, *(question.id for question in entry.questions)):
        if not isinstance(number, str | int):
            raise TypeError(f"expected an id that is a text or an integer, got {str(number)[:40]}")
    return entry


def public_set(name: str, split: str) -> PublicSet:
    """Raises DataError for an unknown set or split."""
    if name not in SETS:
        raise DataError(f"no data set {name!r}: known are {', '.join(SETS)}")
    if split not in SETS[name].splits:
        raise DataError(f"{name} has no split {split!r}: choose {', '.join(SETS[name].splits)}")
    return SETS[name]


def as_pairs(entries: Iterable[Entry], images: Path) -> Iterator[Pair]:
    """Entries with captions, as what `pack.pack_pairs` takes; `images` is the folder of the pictures."""
    for entry in entries:
        yield Pair(str(entry.id), images / entry.image, entry.captions)


def url_list(name: str, annotations: Path, out: Path) -> int:
    """Writes addresses and captions as a TSV with a header, as img2dataset takes it; returns how many.

    Raises DataError for a set that is not published as addresses.
    """
    if name not in URLS:
        raise DataError(f"{name} is not published as a list of addresses: give a folder of its images")
    count = 0
    public = SETS[name]
    with (
        atomic_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file,
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


def _karpathy(annotations: Path, split: str) -> Iterator[Entry]:
    """Karpathy's dataset_coco.json and dataset_flickr30k.json; COCO's "restval" is for training."""
    wanted = ("train", "restval") if split == "train" else (split,)
    for image in parse_json(read_text(annotations), str(annotations))["images"]:
        if image["split"] in wanted:
            path = Path(image.get("filepath", "")) / image["filename"]
            captions = tuple(sentence["raw"] for sentence in image["sentences"])
            yield Entry(image.get("cocoid", image["imgid"]), path.as_posix(), captions)


def _nocaps(annotations: Path, split: str) -> Iterator[Entry]:
    content = parse_json(read_text(annotations), str(annotations))
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    for image in content["images"]:
        yield Entry(image["id"], image["file_name"], tuple(captions[image["id"]]), domain=image["domain"])


def _cc3m_rows(annotations: Path) -> Iterator[tuple[str, str]]:
    """Google's TSV, without a header: caption, address."""
    for row in _lines(annotations):
        if len(row) != 2:
            raise DataError(f"{annotations}: {len(row)} fields in a line; expected a caption and an address")
        caption, url = row
        yield url, caption


def _cc3m(annotations: Path, split: str) -> Iterator[Entry]:
    """Images named by their line, from 0 on: 000000000.jpg."""
    for number, (_, caption) in enumerate(_cc3m_rows(annotations)):
        yield Entry(number, f"{number:09}.jpg", (caption,))


def _unsplash_rows(annotations: Path) -> Iterator[dict[str, str]]:
    """photos.tsv000 or photos.csv000 and its like, or the folder that has them: tabs, and a header in each.

    Those without words are left out. Raises DataError for a folder without such files.
    """
    files = sorted(annotations.glob("photos.[tc]sv*")) if annotations.is_dir() else [annotations]
    if not files:
        raise DataError(f"{annotations}: expected files named photos.tsv000 or photos.csv000 and so on")
    for path in files:
        rows = _lines(path, csv.QUOTE_MINIMAL if ".csv" in path.name else csv.QUOTE_NONE)
        header = next(rows, [])
        for row in rows:
            record = dict(zip(header, row, strict=True))
            record["caption"] = record["photo_description"].strip() or record["ai_description"].strip()
            if record["caption"]:
                yield record


def _unsplash(annotations: Path, split: str) -> Iterator[Entry]:
    for row in _unsplash_rows(annotations):
        yield Entry(row["photo_id"], f"{row['photo_id']}.jpg", (row["caption"],))


def _lines(path: Path, quoting: Literal[0, 3] = csv.QUOTE_NONE) -> Iterator[list[str]]:
    """The rows of a TSV, by default unquoted; DataError for one with more or fewer fields than the first."""
    width = None
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=quoting), 1):
                width = len(row) if width is None else width
                if len(row) != width:
                    raise DataError(f"{path}, line {number}: {len(row)} fields; the first line has {width}")
                yield row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None


# ---------------------------------------------------------------- questions


def _vqav2(annotations: Path, split: str) -> Iterator[Entry]:
    """A folder of both official files of a split, questions and annotations."""
    questions, answers = (
        parse_json(read_text(annotations / name), str(annotations / name))
        for name in (f"v2_OpenEnded_mscoco_{split}2014_questions.json", f"v2_mscoco_{split}2014_annotations.json")
    )
    known = {annotation["question_id"]: annotation for annotation in answers["annotations"]}

    def asked(question: Any) -> Question:
        annotation = known[question["question_id"]]
        said = tuple(given["answer"] for given in annotation["answers"])
        kinds = annotation["answer_type"], annotation["question_type"]
        return Question(question["question_id"], question["question"], said, *kinds)

    for number, own in _by_picture((question["image_id"], question) for question in questions["questions"]).items():
        yield Entry(number, f"{split}2014/COCO_{split}2014_{number:012}.jpg", questions=tuple(map(asked, own)))


def _gqa(annotations: Path, split: str) -> Iterator[Entry]:
    content = parse_json(read_text(annotations), str(annotations))
    for picture, own in _by_picture(
        (question["imageId"], (key, question)) for key, question in content.items()
    ).items():
        questions = tuple(
            Question(key, q["question"], (q["answer"],), kind=(q.get("types") or {}).get("structural", ""))
            for key, q in own
        )
        yield Entry(picture, f"{picture}.jpg", questions=questions)


def _by_picture(questions: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    """The questions of each picture, pictures in the order of their first question."""
    found: dict[Any, list[Any]] = {}
    for picture, question in questions:
        found.setdefault(picture, []).append(question)
    return found


def _captions(pictures: int, captions: int | None = None) -> dict[str, int]:
    return {"pictures": pictures} | ({} if captions is None else {"captions": captions})


def _questions(pictures: int, questions: int) -> dict[str, int]:
    return {"pictures": pictures, "questions": questions}


SETS: dict[str, PublicSet] = {
    "coco": PublicSet(
        {"train": _captions(113_287), "val": _captions(5000), "test": _captions(5000, 25_010)},
        "Karpathy's dataset_coco.json", _karpathy, ("train",),
    ),
    "flickr30k": PublicSet(
        {"train": _captions(29_000, 145_000), "val": _captions(1014, 5070), "test": _captions(1000, 5000)},
        "Karpathy's dataset_flickr30k.json", _karpathy, ("train",),
    ),
    "cc3m": PublicSet(
        {"train": _captions(3_318_333, 3_318_333), "validation": _captions(15_840, 15_840)},
        "Train_GCC-training.tsv or its validation", _cc3m, ("train", "validation"),
    ),
    "unsplash": PublicSet({"lite": _captions(25_000)}, "photos.tsv000 or the folder of such", _unsplash, ("lite",)),
    "nocaps": PublicSet({"val": _captions(4500, 45_000)}, "nocaps_val_4500_captions.json", _nocaps),
    "vqav2": PublicSet(
        {"train": _questions(82_783, 443_757), "val": _questions(40_504, 214_354)},
        "the folder of the v2_OpenEnded questions and v2_mscoco annotations", _vqav2,
    ),
    "gqa": PublicSet(
        {
            "testdev_balanced": _questions(398, 12_578),
            "val_balanced": _questions(10_234, 132_062),
            "train_balanced": _questions(72_140, 943_000),
        },
        "SPLIT_questions.json", _gqa, answer_keys=("questionId", "prediction"),
    ),
}  # fmt: skip
URLS: dict[str, Callable[[Path], Iterator[tuple[str, str]]]] = {
    "cc3m": _cc3m_rows,
    "unsplash": lambda annotations: ((r["photo_image_url"], r["caption"]) for r in _unsplash_rows(annotations)),
}
