"""Tables of captions, the public data sets' files and lines of codes: whatever they hold, they are read or refused."""

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fuzz.values import changed, damaged, json_texts, odd, quick, works_or_says_why
from seedtok.cli.inputs import codes_of_lines, typed_codes
from seedtok.cli.support import png_paths
from seedtok.core.text import clean_caption
from seedtok.data import prepared
from seedtok.data.pack import pack_pairs
from seedtok.data.pairs import read_pairs
from seedtok.data.public_sets import SETS, as_pairs, read_public, url_list

RECORDS = [{"image": "a.png", "caption": "a fox"}, {"image": "b.png", "caption": ["one", "two"]}]
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
    "annotations": [{"image_id": 1, "caption": "a fox"}, {"image_id": 2, "caption": "a bee"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with one picture, which the tables name."""
    folder = tmp_path_factory.mktemp("tables")
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    return folder


def consume(table: Path) -> None:
    for pair in read_pairs(table):
        assert isinstance(pair.name, str)
        [clean_caption(text) for text in pair.captions]


@quick(120)
@given(text=json_texts(RECORDS) | json_texts(COCO))
def test_json_tables(folder: Path, text: str):
    (folder / "table.json").write_text(text, "utf-8")
    with works_or_says_why():
        consume(folder / "table.json")


@quick(80)
@given(lines=st.lists(json_texts(RECORDS[0]) | json_texts(RECORDS[1]), max_size=3))
def test_jsonl_tables(folder: Path, lines: list[str]):
    (folder / "table.jsonl").write_text("\n".join(lines), "utf-8")
    with works_or_says_why():
        consume(folder / "table.jsonl")


@quick(120)
@given(data=damaged(b'image,caption,more\na.png,a fox,1\nb.png,"a bee, and\nmore",2\n') | st.binary(max_size=60))
def test_csv_and_tsv_tables(folder: Path, data: bytes):
    for name in ("table.csv", "table.tsv"):
        (folder / name).write_bytes(data)
        with works_or_says_why():
            consume(folder / name)


@quick(30)
@given(records=st.lists(changed(RECORDS[0]), min_size=1, max_size=3))
def test_what_is_read_is_packed_or_skipped(folder: Path, tmp_path_factory, records: list[Any]):
    table, out = folder / "list.json", tmp_path_factory.mktemp("packed") / "out"
    table.write_text(json.dumps(records))
    with works_or_says_why():
        pack_pairs(read_pairs(table), out, "the table")


# ---------------------------------------------------------------- public sets

SENTENCES = {"sentences": [{"raw": "A fox."}, {"raw": "Another."}], "imgid": 0}
KARPATHY = {"images": [{"filepath": "x", "filename": "a.png", "split": "test", "cocoid": 1, **SENTENCES}]}
NOCAPS = {
    "images": [{"id": 0, "file_name": "a.png", "domain": "in-domain"}],
    "annotations": [{"image_id": 0, "caption": "A fox."}, {"image_id": 0, "caption": "One."}],
}
GQA = {"1": {"imageId": "7", "question": "What?", "answer": "fox"}}
QUESTIONS = {"questions": [{"image_id": 5, "question": "What?", "question_id": 50}]}
ANSWERS = {
    "annotations": [
        {"question_id": 50, "question_type": "what", "answer_type": "other",
         "answers": [{"answer": "fox"}, {"answer": "bee"}]},
    ]
}  # fmt: skip
JSON_SETS = {"coco": KARPATHY, "flickr30k": KARPATHY, "nocaps": NOCAPS, "gqa": GQA}


def prepare(name: str, annotations: Path, folder: Path) -> None:
    split = "test" if "test" in SETS[name].splits else next(iter(SETS[name].splits))
    with works_or_says_why():
        for entry in read_public(name, annotations, split):
            assert isinstance(entry.image, str)
    with works_or_says_why():
        prepared.prepare(name, annotations, folder, split, folder / "set")
    if name in ("cc3m", "unsplash"):
        with works_or_says_why():
            url_list(name, annotations, folder / "urls.tsv")
    if name not in ("gqa", "vqav2"):
        with works_or_says_why():
            for pair in as_pairs(read_public(name, annotations, split), folder):
                [clean_caption(text) for text in pair.captions]


@pytest.mark.parametrize("name", JSON_SETS)
@quick(60)
@given(data=st.data())
def test_public_sets_in_json(folder: Path, name: str, data: st.DataObject):
    (folder / "set.json").write_text(data.draw(json_texts(JSON_SETS[name])), "utf-8")
    prepare(name, folder / "set.json", folder)


@quick(60)
@given(questions=json_texts(QUESTIONS), answers=json_texts(ANSWERS), which=st.integers(0, 2))
def test_vqav2(tmp_path_factory, questions: str, answers: str, which: int):
    folder = tmp_path_factory.mktemp("vqa")
    texts = [json.dumps(QUESTIONS) if which == 1 else questions, json.dumps(ANSWERS) if which == 0 else answers]
    for split in ("train", "val"):
        (folder / f"v2_OpenEnded_mscoco_{split}2014_questions.json").write_text(texts[0])
        (folder / f"v2_mscoco_{split}2014_annotations.json").write_text(texts[1])
    prepare("vqav2", folder, folder)


UNSPLASH = b"photo_id\tphoto_image_url\tphoto_description\tai_description\n1\thttp://a\ta fox\t\n2\thttp://b\t\ta bee\n"


@pytest.mark.parametrize(("name", "good"), [("cc3m", b"a fox\thttp://a\na bee\thttp://b\n"), ("unsplash", UNSPLASH)])
@quick(60)
@given(data=st.data())
def test_public_sets_in_tsv(folder: Path, name: str, good: bytes, data: st.DataObject):
    (folder / "set.tsv").write_bytes(data.draw(damaged(good) | st.binary(max_size=40)))
    prepare(name, folder / "set.tsv", folder)


@quick(60)
@given(data=st.data())
def test_prepared_sets(folder: Path, data: st.DataObject):
    (folder / "set.json").write_text(json.dumps(GQA))
    (folder / "7.jpg").write_bytes(b"no picture")
    prepared.prepare("gqa", folder / "set.json", folder, "val_balanced", folder / "set")
    name = data.draw(st.sampled_from([prepared.HEADER, prepared.ENTRIES]))
    path = folder / "set" / name
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with works_or_says_why():
        for entry in prepared.open_set(folder / "set"):
            assert isinstance(entry.image, str)


def test_a_field_longer_than_csv_allows_is_refused(folder: Path):
    text = StringIO()
    csv.writer(text, delimiter="\t").writerow(["x" * 200_000, "http://a"])
    (folder / "set.tsv").write_text(text.getvalue())
    prepare("cc3m", folder / "set.tsv", folder)


# ---------------------------------------------------------------- codes

LINE = {"image": "a.png", "codes": [1, 2, 3]}


@quick(120)
@given(lines=st.lists(json_texts(LINE), max_size=3), tail=st.binary(max_size=4))
def test_lines_of_codes(folder: Path, lines: list[str], tail: bytes):
    (folder / "codes.jsonl").write_bytes("\n".join(lines).encode() + tail)
    with works_or_says_why():
        rows = codes_of_lines(folder / "codes.jsonl")
        assert all(type(code) is int for row in rows for code in row[2])
        for path in png_paths([row[1] for row in rows], folder / "out"):
            assert path.parent == folder / "out"
            path.exists()


@quick(100)
@given(text=st.text(max_size=20) | odd.map(str) | st.lists(st.integers()).map(lambda codes: " ".join(map(str, codes))))
def test_typed_codes(text: str):
    with works_or_says_why():
        assert all(type(code) is int for code in typed_codes(text)[0][2])
