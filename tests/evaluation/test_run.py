"""Predictions as they are made: stopped and gone on with, shared by processes, refused where they are others."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import warnings
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from PIL import Image
from typer.testing import CliRunner

from evaluation_sets import StubReader, StubRetrieval
from seedtok.cli.app import app
from seedtok.core.errors import ConfigError, DataError, SeedTokWarning
from seedtok.data.entries import Entry
from seedtok.data.prepared import PreparedSet, ShardSet
from seedtok.data.stored import png_bytes
from seedtok.evaluation.captioning import evaluate_captioning
from seedtok.evaluation.predictions import records_of
from seedtok.evaluation.readers import SeedReader
from seedtok.evaluation.retrieval import evaluate_retrieval
from seedtok.evaluation.run import Run
from seedtok.evaluation.score import Judges, score_predictions
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm.prompts import TextSettings
from seedtok.lm.seed_lm import SeedLM


def say(size: tuple[int, int], prompt: str) -> str:
    return f"{prompt[-7:]} of {size[0]}"


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)  # else each score starts it


# ---------------------------------------------------------------- stopped


@pytest.mark.parametrize("stop_after", range(1, 5))
def test_stopped_and_resumed_it_is_as_unstopped(sets, tmp_path, stop_after):
    whole = evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(tmp_path / "whole", batch_size=1))
    run = Run(tmp_path / "stopped", batch_size=1)
    first, second = StubReader(say, stop_after), StubReader(say)
    with pytest.raises(KeyboardInterrupt):
        evaluate_captioning({"stub": first}, sets["coco"], run)
    assert not (run.out / "result.json").exists()
    assert len(list((run.out / "parts/stub").iterdir())) == stop_after
    assert evaluate_captioning({"stub": second}, sets["coco"], run) == whole
    assert len(first.asked) == stop_after
    assert len(second.asked) == 5 - stop_after  # none is asked for twice
    assert contents(run.out) == contents(tmp_path / "whole")


class Stopping(SeedReader):
    """A SEED language model whose evaluation is stopped before it reads that many batches more."""

    def __init__(self, model: SeedLM, batches: int) -> None:
        super().__init__(model)
        self.batches = batches

    def write(self, *asked: Any) -> list[str]:
        if self.batches == 0:
            raise KeyboardInterrupt
        self.batches -= 1
        return super().write(*asked)


@pytest.mark.parametrize(
    ("name", "evaluate", "batches"), [("coco", evaluate_captioning, 3), ("vqav2", evaluate_vqa, 2)]
)
def test_a_language_model_goes_on_where_it_was_stopped(sets, tiny_lm, tmp_path, name, evaluate, batches):
    lm, decoding = SeedLM.from_pretrained(tiny_lm), TextSettings(2, 5)

    def evaluated(folder: str, batches: int) -> dict[str, Any]:
        run = Run(tmp_path / folder, batch_size=2)
        return evaluate({"stub": Stopping(lm, batches)}, sets[name], run, decoding=decoding)

    whole = evaluated("whole", batches)
    for attempt in range(batches):  # stopped at once, and then after one batch more each time
        with pytest.raises(KeyboardInterrupt):
            evaluated("stopped", min(attempt, 1))
    assert evaluated("stopped", 1) == whole
    said = {text for record in json.loads((tmp_path / "whole/stub.json").read_text()) for text in record.values()}
    assert len(said) > 4  # it does not say the same of every picture
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_what_is_complete_is_only_scored_again(sets, tmp_path):
    run = Run(tmp_path / "out", batch_size=2)
    found = evaluate_vqa({"stub": StubReader(say)}, sets["vqav2"], run)
    model = StubReader(say)
    assert evaluate_vqa({"stub": model}, sets["vqav2"], run) == found
    assert model.asked == []
    assert json.loads((run.out / "result.json").read_text()) == json.loads(json.dumps(found))


def test_without_a_folder_the_scores_are_the_same(sets, tmp_path):
    kept = evaluate_retrieval({"stub": StubRetrieval()}, sets["coco"], Run(tmp_path / "out", batch_size=2))
    assert evaluate_retrieval({"stub": StubRetrieval()}, sets["coco"], Run(batch_size=2)) == kept


def test_a_part_cut_off_by_a_kill_does_not_count(sets, tmp_path):
    """A part is under a temporary name until it is whole, so what a kill leaves is not taken for one."""
    run = Run(tmp_path / "out", batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        evaluate_captioning({"stub": StubReader(say, 2)}, sets["coco"], run)
    (run.out / "parts/stub/.seedtok.host-1.99999999.1.0.tmp.jsonl").write_text('{"image_id": 5')
    whole = evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(batch_size=1))
    assert evaluate_captioning({"stub": StubReader(say)}, sets["coco"], run) == whole


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 3}, "made with batch_size 2, not 3"),
        ({"seed": 1}, "made with seed 0, not 1"),
        ({"made_by": {"model": {"hub": "b/b"}}}, 'made with model {"hub": "a/a"}, not {"hub": "b/b"}'),
    ],
)
def test_predictions_by_other_settings_are_not_gone_on_with(sets, tmp_path, change, words):
    given = {"out": tmp_path / "out", "batch_size": 2, "made_by": {"model": {"hub": "a/a"}}}
    evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(**given))
    with pytest.raises(DataError) as caught:
        evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(**{**given, **change}))
    assert words in str(caught.value)
    with pytest.raises(DataError, match="made with data"):
        evaluate_captioning({"stub": StubReader(say)}, sets["flickr30k"], Run(**given))
    with pytest.raises(DataError, match='made with task "captioning", not "vqa"'):
        evaluate_vqa({"stub": StubReader(say)}, sets["vqav2"], Run(**given))


def test_a_folder_of_something_else_is_not_written_into(sets, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(DataError, match="is not empty and holds no predictions"):
        evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(tmp_path))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.txt"]


def test_a_set_of_another_task_is_refused(sets):
    with pytest.raises(
        DataError, match=r"vqav2 val has no captions, which captioning needs.*coco, flickr30k or nocaps"
    ):
        evaluate_captioning({"stub": StubReader(say)}, sets["vqav2"], Run())
    with pytest.raises(DataError, match="gqa testdev_balanced has no captions, which retrieval needs"):
        evaluate_retrieval({"stub": StubRetrieval()}, sets["gqa"], Run())
    with pytest.raises(DataError, match=r"coco test has no questions, which vqa needs.*vqav2 or gqa"):
        evaluate_vqa({"stub": StubReader(say)}, sets["coco"], Run())


def test_several_processes_need_a_folder(sets, monkeypatch):
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    with pytest.raises(ConfigError, match="name one with --out"):
        evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run())


# ---------------------------------------------------------------- pictures that cannot be read


def broken(data: PreparedSet, index: int, tmp_path: Path, contents: bytes | None) -> PreparedSet:
    """The same set with its pictures in another folder, one of them broken or, of None, missing."""
    for entry in data:
        path = tmp_path / "images" / entry.image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((data.images / entry.image).read_bytes())
    data.images = tmp_path / "images"
    path = data.images / data[index].image
    path.unlink() if contents is None else path.write_bytes(contents)
    return data


@pytest.mark.parametrize(("contents", "words"), [(b"\xff\xd8\xff no JPEG", "not an image"), (None, "no such image")])
def test_a_picture_that_cannot_be_read_is_counted_and_named(sets, tmp_path, contents, words):
    data = broken(sets["coco"], 2, tmp_path, contents)
    number = data[2].id
    said = f"1 of 5 pictures cannot be used, and are in no score: {number}: .*{words}"
    with pytest.warns(SeedTokWarning, match=said):
        found = evaluate_captioning({"stub": StubReader(say)}, data, Run(tmp_path / "out", batch_size=2))
    assert found["counts"]["unreadable"] == 1
    assert found["not_predicted"] == {"stub": 1}
    made = json.loads((tmp_path / "out/stub.json").read_text())
    assert [record["image_id"] for record in made] == [entry.id for i, entry in enumerate(data) if i != 2]
    (left,) = json.loads((tmp_path / "out/unreadable.json").read_text())
    assert left["image_id"] == number
    with pytest.warns(SeedTokWarning):
        recalls = evaluate_retrieval({"stub": StubRetrieval()}, data, Run(batch_size=2))
    assert recalls["counts"]["unreadable"] == 1


def test_where_no_picture_can_be_read_that_is_said(sets, tmp_path):
    sets["coco"].images = tmp_path / "moved"
    with pytest.raises(DataError, match="none of 5 pictures can be read; the first: no such image"):
        evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(batch_size=2))


def test_a_picture_without_a_caption_is_left_out_and_counted(tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as file:
        for number, caption in enumerate(["a dog", " \n", "a cat"]):
            for name, contents in ((f"{number}.png", png_bytes(Image.new("RGB", (8, 8)))), (f"{number}.txt", caption)):
                data = contents if isinstance(contents, bytes) else contents.encode()
                (member := tarfile.TarInfo(name)).size = len(data)
                file.addfile(member, BytesIO(data))
    data = ShardSet(tmp_path / "0.tar")
    with pytest.warns(SeedTokWarning, match="1 of 3 pictures cannot be used, and are in no score: 1: no caption"):
        found = evaluate_captioning({"stub": StubReader(say)}, data, Run(tmp_path / "out", batch_size=2))
    assert [record["image_id"] for record in json.loads((tmp_path / "out/stub.json").read_text())] == ["0", "2"]
    assert found["stub"]["bleu4"] is not None
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps([{"image_id": str(number), "caption": "a dog"} for number in range(3)]))
    assert "not_predicted" not in score_predictions(theirs, data, Judges())


@pytest.mark.parametrize(("captions", "expected"), [('"a dog"', "a dog"), ("7", "a cat"), ('["x", "y"]', "x")])
def test_captions_of_a_shard_that_are_no_list(tmp_path, captions, expected):
    with tarfile.open(tmp_path / "0.tar", "w") as file:
        record = f'{{"captions": {captions}}}'.encode()
        for name, data in (("0.png", png_bytes(Image.new("RGB", (8, 8)))), ("0.txt", b"a cat"), ("0.json", record)):
            (member := tarfile.TarInfo(name)).size = len(data)
            file.addfile(member, BytesIO(data))
    assert ShardSet(tmp_path / "0.tar")[0].captions[0] == expected


def test_two_pictures_of_one_id_are_refused_before_anything_is_made(sets, tmp_path):
    one = sets["coco"]

    class Twice:
        info, picture = one.info, one.picture

        def __len__(self) -> int:
            return len(one)

        def __getitem__(self, index: int) -> Entry:
            return one[min(index, 1)]

        def __iter__(self) -> Iterator[Entry]:
            return (self[index] for index in range(len(self)))

    with pytest.raises(DataError, match=f"pictures have the id {one[1].id}: give each a key of its own"):
        evaluate_captioning({"stub": StubReader(say)}, Twice(), Run(tmp_path / "out", batch_size=2))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["/a/model", "runs/lm", "..", ".", "", "settings", "result", "unreadable", "a\\b"])
def test_a_model_is_not_named_as_a_folder_or_as_another_file(sets, tmp_path, name):
    with pytest.raises(DataError, match="no name for predictions"):
        evaluate_captioning({name: StubReader(say)}, sets["coco"], Run(tmp_path / "out"))
    assert not (tmp_path / "out").exists() or not any(p for p in (tmp_path / "out").iterdir() if p.name[0] != ".")


def test_separators_of_lines_in_a_text_stay_in_it(sets, tmp_path):
    text = "a dog\u2028and\u2029a\x85cat"
    evaluate_captioning({"stub": StubReader(lambda *_: text)}, sets["coco"], Run(tmp_path / "out", batch_size=2))
    assert {record["caption"] for record in records_of(tmp_path / "out/stub.json")} == {text}
    lines = tmp_path / "lines.jsonl"
    lines.write_text(json.dumps({"image_id": 1, "caption": text}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert records_of(lines) == [{"image_id": 1, "caption": text}]


# ---------------------------------------------------------------- what a result says of itself


def test_a_result_says_what_it_is_of(sets, tmp_path):
    found = evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(tmp_path / "a", batch_size=2))
    assert found["counts"] == {
        "pictures": 5, "captions": 25, "questions": 0, "published": {"pictures": 5000, "captions": 25_010},
        "missing": 0, "unreadable": 0,
    }  # fmt: skip
    settings = found["settings"]
    assert settings["prompt"] == "A photo of"
    assert settings["decoding"] == {
        "do_sample": False, "num_beams": 5, "min_new_tokens": 8, "max_new_tokens": 30,
    }  # fmt: skip
    assert settings["models"] == {"stub": {"preprocessing": "none"}}
    again = evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(batch_size=2))
    assert again["hash"] == found["hash"]
    assert again["hash"] != evaluate_captioning({"stub": StubReader(say)}, sets["coco"], Run(batch_size=3))["hash"]


# ---------------------------------------------------------------- several processes


def commands(data: dict[str, str], tokenizer: str, lm: str, clip: str, out: str) -> list[list[str]]:
    """Evaluations of each kind of predictions: tensors, pictures, codes, texts."""
    model, reader = (["--model", name, "--batch-size", "2"] for name in (tokenizer, lm))
    coco = ["--data", data["coco"]]
    return [
        ["evaluate", "retrieval", *model, *coco, "--out", f"{out}/retrieval"],
        ["evaluate", "generation", *model, *coco, "--clip", clip, "--out", f"{out}/generation"],
        ["evaluate", "codebook", *model, *coco, "--out", f"{out}/codebook"],
        ["evaluate", "vqa", *reader, "--data", data["vqav2"], "--beams", "2", "--out", f"{out}/vqa"],
        ["evaluate", "captioning", *reader, *coco, "--beams", "2", "--out", f"{out}/captioning"],
    ]


def begin(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the evaluation of a language model until its second batch, where it is stopped."""
    left, write = iter([True]), SeedReader.write

    def stopped(self: SeedReader, *asked: Any) -> list[str]:
        if not next(left, False):
            raise KeyboardInterrupt
        return write(self, *asked)

    with monkeypatch.context() as patch:
        patch.setattr(SeedReader, "write", stopped)
        assert CliRunner().invoke(app, command).exit_code != 0
    assert len(list(Path(command[-1], "parts/seed_opt").iterdir())) == 1


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(prepared, tiny_tokenizer, tiny_lm, small_clip, tmp_path, monkeypatch):
    """Also where one process began, was stopped, and two go on."""
    data = {name: str(folder) for name, folder in prepared.items()}
    models = str(tiny_tokenizer), str(tiny_lm), str(small_clip)
    for command in commands(data, *models, str(tmp_path / "one")):
        assert CliRunner().invoke(app, command).exit_code == 0
    shared_out = commands(data, *models, str(tmp_path / "two"))
    begin(shared_out[-1], monkeypatch)
    (tmp_path / "jobs.json").write_text(json.dumps(shared_out))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    shared |= {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    started = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / "jobs.json")], text=True,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=250) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    assert ended[1][0] == ""  # the first shows the results
    assert contents(tmp_path / "one").keys() == contents(tmp_path / "two").keys()
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


if __name__ == "__main__":
    torch.set_num_threads(1)
    shutil.which = lambda name: None  # as `_no_java` has it
    dist.init_process_group("gloo")  # once for all of the commands
    warnings.simplefilter("ignore")
    for arguments in json.loads(Path(sys.argv[1]).read_text()):
        result = CliRunner().invoke(app, arguments)
        print(result.stdout, end="")
        if result.exit_code:
            raise SystemExit(f"{arguments}: {result.stderr}{result.exception!r}")
    dist.destroy_process_group()


def test_a_table_that_is_too_wide_is_turned_and_keeps_its_numbers(capsys, monkeypatch):
    from rich.console import Console

    from seedtok.cli import evaluate_support

    scores = {f"score_{i}": 90.25 + i for i in range(12)}
    for width, lines in ((40, 12), (400, 1)):
        monkeypatch.setattr(evaluate_support, "out", Console(width=width, highlight=False))
        evaluate_support.show({"seed_opt": dict(scores)})
        text = capsys.readouterr().out
        assert all(f"{value:.2f}" in text and name in text for name, value in scores.items())
        assert sum("90.25" in line or "score_5 " in line for line in text.split("\n")) >= 1
        assert sum(any(f"{v:.2f}" in line for v in scores.values()) for line in text.split("\n")) == lines
