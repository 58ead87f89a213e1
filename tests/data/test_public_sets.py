"""Public data sets, from small files in their publishers' exact formats."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from typer.testing import CliRunner

from seedtok.cli.app import app
from seedtok.core.errors import DataError
from seedtok.data.entries import Entry, Question
from seedtok.data.prepared import open_set
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
    assert "2 pictures here; its publisher has 113,287" in out
    samples = ShardSamples(tmp_path / "shards", shuffle=False)
    assert samples.epoch_size == 2
    captions = [next(iter(samples)).metadata["captions"]]
    assert captions == [["a train picture", "another"]]


def test_coco_test_is_a_set_to_evaluate_on_with_captions_as_written(coco, tmp_path, monkeypatch):
    out = tmp_path / "sets" / "coco"
    code, said, _ = run("coco", *options(coco, "test", out, tmp_path / "images"))
    assert code == 0
    assert "1 pictures, 2 captions written" in said
    assert "1 pictures here; its publisher has 5,000" in said
    assert "2 captions here; its publisher has 25,010" in said
    found = open_set(out)
    (entry,) = found
    assert entry == Entry(103, "val2014/COCO_val2014_000000000003.jpg", ("A test picture.", "Another."))
    assert found.picture(0).size == (8, 6)
    assert (found.info.name, found.info.split) == ("coco", "test")
    assert found.info.published == {"pictures": 5000, "captions": 25_010}
    monkeypatch.chdir(tmp_path)  # made of relative paths, it is read from anywhere, and packed
    assert run("coco", *options(coco, "test", Path("other"), Path("images")))[0] == 0
    monkeypatch.chdir("/")
    assert open_set(tmp_path / "other").picture(0).size == (8, 6)
    assert open_set(tmp_path / "other").info.fingerprint == found.info.fingerprint
    pack = ["data", "pack", out / "entries.jsonl", "--images", tmp_path / "images", "--out", tmp_path / "packed"]
    assert CliRunner().invoke(app, list(map(str, pack))).exit_code == 0
    sample = next(iter(ShardSamples(tmp_path / "packed", shuffle=False)))
    assert sample.metadata["captions"] == ["a test picture", "another"]
    code, _, err = run("coco", *options(coco, "train", out, tmp_path / "images"))
    assert code == 2
    assert "has an evaluation set" in err
    code, _, err = run("coco", *options(coco, "test", out, tmp_path / "images"))
    assert code == 2
    assert "--overwrite" in err


def test_shards_are_a_set_with_captions_as_written(coco, tmp_path):
    assert run("coco", *options(coco, "train", tmp_path / "shards", tmp_path / "images"))[0] == 0
    found = open_set(tmp_path / "shards")
    assert [entry.captions for entry in found] == [("A train picture.", "Another."), ("A restval picture.", "Another.")]
    assert found.info.counts == {"pictures": 2, "captions": 4, "questions": 0}
    assert found.picture(1).size == (8, 6)
    assert len(open_set(tmp_path / "shards", 1)) == 1


def test_missing_pictures_are_counted_and_named(coco, tmp_path):
    (tmp_path / "images/val2014/COCO_val2014_000000000002.jpg").unlink()
    code, _, err = run("coco", *options(coco, "val", tmp_path / "set", tmp_path / "images"))
    assert code == 2
    assert "nothing of val has its picture" in err
    content = json.loads(coco.read_text())
    content["images"][2]["split"] = "test"
    coco.write_text(json.dumps(content))
    code, said, err = run("coco", *options(coco, "test", tmp_path / "set", tmp_path / "images"))
    assert code == 0
    assert "1 pictures missing" in said
    assert "missing: val2014/COCO_val2014_000000000002.jpg" in err
    assert open_set(tmp_path / "set").info.missing == 1


def test_flickr30k_has_no_folders(tmp_path):
    record = {"filename": "1000092795.jpg", "imgid": 0, "split": "test", **sentences(0, "Two young guys .")}
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps({"images": [record], "dataset": "flickr30k"}))
    (entry,) = read_public("flickr30k", path, "test")
    assert entry == Entry(0, "1000092795.jpg", ("Two young guys .",))


def test_nocaps_keeps_the_domain(tmp_path):
    picture(tmp_path / "images" / "0013ea2087020901.jpg")
    image = {
        "license": 0, "open_images_id": "0013ea2087020901", "id": 0, "file_name": "0013ea2087020901.jpg", "width": 8,
        "height": 6, "coco_url": "https://example.org/a.jpg", "date_captured": "2018-11-06", "domain": "in-domain",
    }  # fmt: skip
    captions = [{"image_id": 0, "id": i, "caption": f"A baby {i}."} for i in range(10)]
    path = tmp_path / "nocaps_val_4500_captions.json"
    path.write_text(json.dumps({"licenses": [], "info": {}, "images": [image], "annotations": captions}))
    (entry,) = read_public("nocaps", path, "val")
    assert entry.domain == "in-domain"
    assert len(entry.captions) == 10
    assert run("nocaps", *options(path, "val", tmp_path / "set", tmp_path / "images"))[0] == 0
    assert list(open_set(tmp_path / "set")) == [entry]


def test_vqav2_joins_questions_and_ten_answers(tmp_path):
    picture(tmp_path / "images" / "val2014" / "COCO_val2014_000000262148.jpg")
    asked = [(262148000, "Where is he looking?", "other"), (262148001, "Is it cold?", "yes/no")]
    questions = [{"image_id": 262148, "question": text, "question_id": number} for number, text, _ in asked]
    answers = [{"answer": "down", "answer_confidence": "yes", "answer_id": i} for i in range(1, 11)]
    annotations = [
        {"question_type": "where is the", "multiple_choice_answer": "down", "answers": answers, "image_id": 262148,
         "answer_type": kind, "question_id": number}
        for number, _, kind in asked
    ]  # fmt: skip
    head = {"info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014"}
    (tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json").write_text(
        json.dumps({**head, "task_type": "Open-Ended", "questions": questions})
    )
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({**head, "annotations": annotations}))
    assert run("vqav2", *options(tmp_path, "val", tmp_path / "set", tmp_path / "images"))[0] == 0
    found = open_set(tmp_path / "set")
    (entry,) = found
    assert (entry.id, entry.captions) == (262148, ())
    assert entry.questions == tuple(
        Question(number, text, ("down",) * 10, kind, "where is the") for number, text, kind in asked
    )
    assert found.info.counts == {"pictures": 1, "captions": 0, "questions": 2}
    assert found.picture(0).size == (8, 6)


def test_gqa_has_one_answer(tmp_path):
    question = {
        "semantic": [], "entailed": [], "equivalent": ["201307251"], "question": "Is it overcast?",
        "imageId": "n161313", "isBalanced": True, "groups": {"global": None, "local": "13-weather"},
        "answer": "no", "semanticStr": "", "annotations": {},
        "types": {"detailed": "weatherVerify", "semantic": "global", "structural": "verify"},
        "fullAnswer": "No, it is clear.",
    }  # fmt: skip
    path = tmp_path / "testdev_balanced_questions.json"
    path.write_text(json.dumps({"201307251": question}))
    (entry,) = read_public("gqa", path, "testdev_balanced")
    asked = Question("201307251", "Is it overcast?", ("no",), kind="verify")
    assert entry == Entry("n161313", "n161313.jpg", questions=(asked,))
    code, _, err = run("gqa", *options(path, "testdev_balanced", tmp_path / "gqa", tmp_path))
    assert code == 2
    assert "has its picture" in err
    assert not list((tmp_path / "gqa").glob("*"))
    picture(tmp_path / "n161313.jpg")
    assert run("gqa", *options(path, "testdev_balanced", tmp_path / "gqa", tmp_path))[0] == 0
    assert open_set(tmp_path / "gqa").info.answer_keys == ("questionId", "prediction")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "entries.jsonl").write_bytes((f / "entries.jsonl").read_bytes()[:-20]), "prepare it again"),
        (lambda f: (f / "entries.jsonl").unlink(), "cannot read"),
        (lambda f: (f / "dataset.json").write_text("{"), "not of an evaluation set"),
        (lambda f: (f / "dataset.json").unlink(), "no evaluation set: expected dataset.json"),
        (lambda f: shutil.rmtree(f), "no such folder"),
    ],
)
def test_a_set_that_is_not_whole_is_refused(coco, tmp_path, damage, words):
    assert run("coco", *options(coco, "test", tmp_path / "set", tmp_path / "images"))[0] == 0
    damage(tmp_path / "set")
    with pytest.raises(DataError, match=words):
        open_set(tmp_path / "set")


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
    assert list(read_public("cc3m", cc3m, "train")) == [
        Entry(0, "000000000.jpg", ("one",)), Entry(1, "000000001.jpg", ("two",)),
    ]  # fmt: skip
    (entry,) = read_public("unsplash", tmp_path / "photos.tsv000", "lite")
    assert entry.image == "x.jpg"
    (recent := tmp_path / "recent").mkdir()
    (recent / "photos.csv000").write_text(UNSPLASH + 'x\tu\thttp://x\t"A lake\nat night"\t\n')
    (entry,) = read_public("unsplash", recent, "lite")
    assert entry.captions == ("A lake\nat night",)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"expected files named photos\.tsv000"):
        list(read_public("unsplash", empty, "lite"))


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
    code, _, err = run(name, *options(path, split, tmp_path / "out", tmp_path))
    assert code == 2
    assert words in err
    assert not list((tmp_path / "out").glob("*"))
