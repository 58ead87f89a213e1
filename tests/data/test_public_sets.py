"""Public data sets, from small files in their publishers' exact formats."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from seedtok.cli.app import app
from seedtok.data.public_sets import read_public
from seedtok.data.shards import ShardSamples


def picture(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6), color).save(path)
    return path


def sentences(number: int, *texts: str) -> dict:
    return {
        "sentids": [10 * number + i for i in range(len(texts))],
        "sentences": [
            {"tokens": text.split(), "raw": text, "imgid": number, "sentid": 10 * number + i}
            for i, text in enumerate(texts)
        ],
    }


@pytest.fixture
def coco(tmp_path) -> Path:
    """Karpathy's dataset_coco.json with an image of each split, and the images."""
    images = []
    for number, (split, folder) in enumerate(
        [("train", "train2014"), ("restval", "val2014"), ("val", "val2014"), ("test", "val2014")]
    ):
        name = f"COCO_{folder}_{number:012}.jpg"
        picture(tmp_path / "images" / folder / name)
        images.append({
            "filepath": folder, "filename": name, "imgid": number, "split": split, "cocoid": 100 + number,
            **sentences(number, f"A {split} picture.", "Another."),
        })  # fmt: skip
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["data", "prepare", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def options(annotations: Path, split: str, out: Path, images: Path | None = None) -> list[object]:
    given: list[object] = ["--annotations", annotations, "--split", split, "--out", out]
    return given if images is None else [*given, "--images", images]


def test_coco_trains_on_train_and_restval(coco, tmp_path):
    code, out, _ = run("coco", *options(coco, "train", tmp_path / "shards", tmp_path / "images"))
    assert code == 0
    assert "2 here; its publisher has 113,287" in out
    samples = ShardSamples(tmp_path / "shards", shuffle=False)
    assert samples.epoch_size == 2
    captions = [next(iter(samples)).metadata["captions"]]
    assert captions == [["a train picture", "another"]]


def test_coco_test_is_a_list_with_captions_as_written(coco, tmp_path, monkeypatch):
    out = tmp_path / "lists" / "test.jsonl"
    assert run("coco", *options(coco, "test", out, tmp_path / "images"))[0] == 0
    (line,) = map(json.loads, out.read_text().splitlines())
    assert line["id"] == 103
    assert Path(line["image"]).name == "COCO_val2014_000000000003.jpg"
    assert line["captions"] == ["A test picture.", "Another."]
    monkeypatch.chdir(tmp_path)  # a list made of relative paths is read from anywhere, and packed
    assert run("coco", *options(coco, "test", Path("list.jsonl"), Path("images")))[0] == 0
    monkeypatch.chdir("/")
    assert (
        CliRunner()
        .invoke(app, ["data", "pack", str(tmp_path / "list.jsonl"), "--out", str(tmp_path / "packed")])
        .exit_code
        == 0
    )
    sample = next(iter(ShardSamples(tmp_path / "packed", shuffle=False)))
    assert sample.metadata["captions"] == ["a test picture", "another"]
    code, _, err = run("coco", *options(coco, "test", tmp_path / "shards", tmp_path / "images"))
    assert code == 2
    assert "ends in .jsonl" in err


def test_flickr30k_has_no_folders(tmp_path):
    picture(tmp_path / "images" / "1000092795.jpg")
    record = {"filename": "1000092795.jpg", "imgid": 0, "split": "test", **sentences(0, "Two young guys .")}
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"images": [record], "dataset": "flickr30k"}))
    (entry,) = read_public("flickr30k", path, tmp_path / "images", "test")
    assert entry == {"id": 0, "image": str(tmp_path / "images" / "1000092795.jpg"), "captions": ["Two young guys ."]}


def test_nocaps_keeps_the_domain(tmp_path):
    picture(tmp_path / "images" / "0013ea2087020901.jpg")
    image = {
        "license": 0, "open_images_id": "0013ea2087020901", "id": 0, "file_name": "0013ea2087020901.jpg", "width": 8,
        "height": 6, "coco_url": "https://example.org/a.jpg", "date_captured": "2018-11-06", "domain": "in-domain",
    }  # fmt: skip
    captions = [{"image_id": 0, "id": i, "caption": f"A baby {i}."} for i in range(10)]
    path = tmp_path / "nocaps_val_4500_captions.json"
    path.write_text(json.dumps({"licenses": [], "info": {}, "images": [image], "annotations": captions}))
    (entry,) = read_public("nocaps", path, tmp_path / "images", "val")
    assert entry["domain"] == "in-domain"
    assert len(entry["captions"]) == 10


def test_vqav2_joins_questions_and_ten_answers(tmp_path):
    picture(tmp_path / "images" / "val2014" / "COCO_val2014_000000262148.jpg")
    question = {"image_id": 262148, "question": "Where is he looking?", "question_id": 262148000}
    answers = [{"answer": "down", "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]
    annotation = {
        "question_type": "where is the", "multiple_choice_answer": "down", "answers": answers, "image_id": 262148,
        "answer_type": "other", "question_id": 262148000,
    }  # fmt: skip
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({**head, "task_type": "Open-Ended", "questions": [question]})
    )
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**head, "annotations": [annotation]}))
    (entry,) = read_public("vqav2", tmp_path, tmp_path / "images", "val")
    assert entry["question"] == "Where is he looking?"
    assert entry["answers"] == ["down"] * 10
    assert Path(entry["image"]).is_file()


def test_gqa_has_one_answer(tmp_path):
    question = {
        "semantic": [], "entailed": [], "equivalent": ["201307251"], "question": "Is it overcast?",
        "imageId": "n161313", "isBalanced": True, "groups": {"global": None, "local": "13-weather"},
        "answer": "no", "semanticStr": "",
        "annotations": {}, "types": {}, "fullAnswer": "No, it is clear.",
    }  # fmt: skip
    path = tmp_path / "testdev_balanced_questions.json"
    path.write_text(json.dumps({"201307251": question}))
    (entry,) = read_public("gqa", path, tmp_path, "testdev_balanced")
    assert entry == {
        "id": "201307251", "image": str(tmp_path / "n161313.jpg"), "question": "Is it overcast?", "answers": ["no"],
    }  # fmt: skip
    code, _, err = run("gqa", *options(path, "testdev_balanced", tmp_path / "gqa.jsonl", tmp_path))
    assert code == 2
    assert "has its picture" in err
    assert not (tmp_path / "gqa.jsonl").exists()


UNSPLASH = "photo_id\tphoto_url\tphoto_image_url\tphoto_description\tai_description\n"


def test_addresses_go_to_img2dataset(tmp_path, monkeypatch):
    cc3m = tmp_path / "Train_GCC-training.tsv"
    cc3m.write_text(
        'a very typical "bus station\thttp://example.org/a.jpg\nsierra looked stunning\thttp://example.org/b\n'
    )
    code, _, err = run("cc3m", *options(cc3m, "train", tmp_path / "out"))
    assert code == 2
    assert "pip install img2dataset" in err
    asked: list[tuple[str, dict]] = []
    fake = SimpleNamespace(download=lambda **kw: asked.append((Path(kw["url_list"]).read_text(), kw)))
    monkeypatch.setitem(sys.modules, "img2dataset", fake)
    assert run("cc3m", *options(cc3m, "train", tmp_path / "out"))[0] == 0
    lines = asked[0][0].splitlines()
    assert lines[0] == "url\tcaption"
    assert len(lines) == 3
    folder = tmp_path / "unsplash"
    folder.mkdir()
    (folder / "photos.tsv000").write_text(UNSPLASH + "x\tu\thttp://example.org/x\tA lake\ta lake seen by a machine\n")
    (folder / "photos.tsv001").write_text(UNSPLASH + "y\tu\thttp://example.org/y\t\ta hill\nz\tu\thttp://e.org/z\t\t\n")
    assert run("unsplash", *options(folder, "lite", tmp_path / "out"))[0] == 0
    assert asked[1][0].splitlines()[1:] == ["http://example.org/x\tA lake", "http://example.org/y\ta hill"]


def test_fetched_images_are_paired_by_line_and_by_id(tmp_path):
    cc3m = tmp_path / "Train_GCC-training.tsv"
    cc3m.write_text("one\thttp://a\ntwo\thttp://b\n")
    (tmp_path / "photos.tsv000").write_text(UNSPLASH + "x\tu\thttp://x\tA lake\t\n")
    assert [r["captions"] for r in read_public("cc3m", cc3m, tmp_path, "train")] == [["one"], ["two"]]
    (entry,) = read_public("unsplash", tmp_path / "photos.tsv000", tmp_path, "lite")
    assert Path(entry["image"]).name == "x.jpg"


@pytest.mark.parametrize(
    ("name", "split", "content", "words"),
    [
        ("cocoo", "test", "{}", "no data set 'cocoo'"),
        ("coco", "dev", "{}", "no split 'dev'"),
        ("coco", "test", "{", "not JSON"),
        ("coco", "test", '{"images": [{"split": "test"}]}', "lacks 'filename'"),
        ("nocaps", "val", "[]", "not nocaps_val_4500_captions.json"),
        ("vqav2", "val", "{}", "cannot read"),
        ("unsplash", "lite", UNSPLASH + "x\tu\thttp://x\tA\tlake\ta lake\n", "line 2: 6 fields; the first line has 5"),
        ("unsplash", "lite", UNSPLASH + "x\tu\thttp://x\tA lake\n", "line 2: 4 fields"),
        ("cc3m", "train", "one\thttp://a\ntwo\n", "line 2: 1 fields"),
    ],
)
def test_what_is_not_the_publishers_file_is_refused_in_a_line(tmp_path, name, split, content, words):
    path = tmp_path / "annotations.json"
    path.write_text(content)
    code, _, err = run(name, *options(path, split, tmp_path / "out.jsonl", tmp_path))
    assert code == 2
    assert words in err
    assert not (tmp_path / "out.jsonl").exists()
