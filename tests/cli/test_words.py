"""caption, ask, draw and chat on a tiny model, and what a user can get wrong with them."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from seedtok.cli.app import app
from seedtok.cli.chat import _segments
from seedtok.core.errors import DataError
from seedtok.lm.decoding import Sampling
from seedtok.lm.prompts import question_prompt
from seedtok.lm.seed_lm import SeedLM


@pytest.fixture(scope="module")
def lm(bases, seed, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("lm") / "lm"
    SeedLM.build(bases["opt"], seed).save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path) -> Path:
    path = tmp_path / "my fox.png"
    Image.new("RGB", (40, 40), "red").save(path)
    return path


@pytest.fixture
def cli(lm):
    """Runs a command on the tiny model; gives (exit code, stdout, stderr)."""

    def run(*arguments: object, stdin: str | None = None, model: object = lm) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*map(str, arguments), "--model", str(model)], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


def test_caption_says_a_line_a_picture_and_goes_past_a_broken_one(cli, picture, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    code, out, err = cli("caption", picture, tmp_path / "broken.png", "--json", "--beams", 2)
    assert code == 1
    record = json.loads(out)
    assert record["image"] == str(picture)
    assert isinstance(record["caption"], str)
    assert "broken.png" in err


def test_reranked_it_says_what_the_library_says(cli, lm, picture):
    code, out, _ = cli("caption", picture, "--beams", 3, "--rerank")
    assert code == 0
    assert out == f"{picture}\t{SeedLM.from_pretrained(lm).caption(picture, 3, rerank=True)[0]}\n"
    code, _, err = cli("caption", picture, "--beams", 1, "--rerank")
    assert (code, "give more beams" in " ".join(err.split())) == (2, True)


def test_ask_gives_an_answer_a_question(cli, picture):
    code, out, _ = cli("ask", picture, "What is it?", "Where is it?", "--beams", 1)
    assert code == 0
    assert len(out.split("\n")) >= 2


def test_draw_writes_as_many_pictures_as_asked_for_and_the_same_again(cli, tmp_path):
    for folder in ("one", "two"):
        code, out, _ = cli("draw", "a fox", "--out", tmp_path / folder / "fox.png", "--count", 2, "--seed", 3)
        assert code == 0
        assert "fox-2.png" in out
    for name in ("fox.png", "fox-2.png"):
        one, two = (tmp_path / folder / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("command", ["caption", "ask", "draw", "chat"])
def test_every_command_runs_in_bfloat16(cli, picture, tmp_path, command):
    arguments = {
        "caption": [picture], "ask": [picture, "What is this?"], "draw": ["a fox", "--out", tmp_path / "fox.png"],
        "chat": ["--out", tmp_path],
    }  # fmt: skip
    code, out, err = cli(command, *arguments[command], "--dtype", "bfloat16", stdin=f'@"{picture}" A photo of\n')
    assert code == 0, err
    assert out or command == "chat"  # a tiny random model may have nothing to say


def test_chat_takes_pictures_by_path_and_outlives_a_bad_line(cli, picture, tmp_path):
    lines = f'@"{picture}" A photo of\n@nowhere.png A photo of\nwhat @ is it\nGenerate an image of a fox\n'
    code, out, _ = cli("chat", "--out", tmp_path / "chat", "--temperature", 1, "--seed", 1, stdin=lines)
    assert code == 1
    assert "nowhere.png" in out
    assert "@ without an image" in out
    for path in (tmp_path / "chat").glob("*.png"):
        assert str(path) in out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("draw", " ", "--out", "x.png"), "an empty prompt"),
        (("draw", "fox " * 200, "--out", "x.png"), "shorten it"),
        (("draw", "a fox", "--out", "x.nothing"), "cannot write an image"),
        (("draw", "a fox", "--out", "x.png", "--top-p", 2), "top_p"),
        (("ask", "PICTURE", " "), "an empty question"),
        (("ask", "What color is it?"), "no question; expected an image and questions"),
        (("ask", "nowhere.png", "What?"), "nowhere.png"),
        (("caption", "nowhere.png"), "nowhere.png"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(cli, picture, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, err = cli(*(picture if a == "PICTURE" else a for a in arguments))
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


@pytest.mark.parametrize(("change", "words"), [({"base": "nowhere/at-all"}, "nowhere/at-all: no such folder"),
                                               ({"base_fingerprint": {"config": "0"}}, "another base"),
                                               ({"tokenizer": "mini"}, "another codebook")])  # fmt: skip
def test_a_model_whose_parts_do_not_fit_is_refused(cli, lm, picture, tmp_path, change, words):
    import shutil

    other = Path(shutil.copytree(lm, tmp_path / "other"))
    record = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(record | change))
    code, _, err = cli("caption", picture, model=other)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1


def test_the_demo_captions_answers_and_draws_as_well(lm, tiny_tokenizer, tmp_path):
    arguments = ["--out", tmp_path / "demo", "--count", 1, "--model", tiny_tokenizer, "--lm", lm]
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert "caption: " in result.stdout
    assert len(re.findall(r"^(?:What|Where|How|Is) [^?]*\?", result.stdout, re.MULTILINE)) == 2
    with Image.open(tmp_path / "demo" / "prompts.png") as picture:
        assert picture.width > picture.height


@pytest.mark.slow
@pytest.mark.parametrize("table", ["vqa", "captioning"])
def test_the_evaluation_of_a_model_loads_no_other(cli, lm, monkeypatch, table):
    """Rows of shipped models would say nothing about this one."""
    monkeypatch.setattr("seedtok.cli.evaluate_support.shipped", lambda part: pytest.fail(f"loads {part}"))
    code, out, err = cli("evaluate", table, "--count", 2, "--json")
    assert code == 0, err
    records = {"missing", "counts", "settings"}
    rows = {name for name, value in json.loads(out).items() if isinstance(value, dict)} - records
    assert rows == {"seed_opt"} | ({"blind_prior", "layout"} if table == "vqa" else set())  # floors, of no model


def test_a_chat_from_a_pipe_skips_empty_lines_and_says_at_the_end_that_one_failed(cli, tmp_path):
    lines = "\nGenerate an image a fox\n\n@missing.png A photo of\n\nGenerate an image a cake\n"
    code, out, _ = cli("chat", "--out", tmp_path / "chat", stdin=lines)
    assert (code, out.count("error: ")) == (1, 1)
    good = lines.replace("@missing.png A photo of\n", "")
    assert cli("chat", "--out", tmp_path / "again", stdin=good)[0] == 0


def test_lines_of_a_chat_ask_about_the_latest_image_and_draw(cli, lm, picture, tmp_path):
    said = ["A photo of", "What is it?", "Draw a fox", "What is it?", f'@"{picture}" @"{picture}" a fox']
    lines = "\n".join([f'@"{picture}"', *said])
    code, out, _ = cli("chat", "--out", tmp_path / "chat", "--seed", 2, stdin=lines)
    model = SeedLM.from_pretrained(lm)
    [fox] = model.draw("a fox", generator=[torch.Generator().manual_seed(2)])
    drawn = tmp_path / "chat" / "001.png"
    expected = [*model.caption([picture] * 2), *model.answer(picture, "What is it?"), f"[{drawn}]"]
    expected += model.answer(fox, "What is it?")
    assert code == 0
    unseen = dict.fromkeys(map(ord, "\a\b\v\f\r\n"))  # what a console leaves out, and ends of lines
    assert out.translate(unseen).startswith("".join(expected).translate(unseen))
    with Image.open(drawn) as image:
        assert image.convert("RGB").tobytes() == fox.tobytes()
    code, out, _ = cli("chat", "--out", tmp_path, "--temperature", 1, "--seed", 2, stdin=f'@"{picture}" What?')
    sampling = Sampling(1.0, 1.0, torch.Generator().manual_seed(2))
    asked = [picture, question_prompt("What?")]
    assert out.strip() == " ".join(model.generate(asked, max_new_tokens=10, max_images=0, sampling=sampling))


def test_what_a_chat_draws_while_it_goes_on_is_the_latest_image(cli, lm, picture, tmp_path, monkeypatch):
    with Image.open(picture) as image:
        monkeypatch.setattr(SeedLM, "generate", lambda *_, **__: ["a", image.convert("RGB")])
        code, out, _ = cli("chat", "--out", tmp_path / "chat", stdin="a fox\nWhat is it?")
    assert code == 0
    assert out.endswith(f"]\n{SeedLM.from_pretrained(lm).answer(picture, 'What is it?')[0]}\n")


@pytest.mark.parametrize(
    ("line", "segments"),
    [
        ('@"my fox.png" and  @b.png', [Path("my fox.png"), "and", Path("b.png")]),
        ('what does "red" mean in C:\\dir?  it\'s', ['what does "red" mean in C:\\dir?  it\'s']),
        ("mail me@home", ["mail me@home"]),
        ("@a.png", [Path("a.png")]),
    ],
)
def test_a_line_is_left_as_it_is_but_for_its_images(line, segments):
    assert _segments(line) == segments


@pytest.mark.parametrize("line", ['what is @"my fox.png', "what @ is it", '@"" a'])
def test_a_line_that_names_no_image_after_an_at_sign_is_refused(line):
    with pytest.raises(DataError, match=r"quote is not closed|without an image"):
        _segments(line)


def test_a_model_of_chats_gets_all_turns_that_it_has_room_for(cli, lm, picture, tmp_path, monkeypatch):
    """The first ones are forgotten; an error leaves the chat as it was."""
    asked: list[list] = []

    def reply(self: SeedLM, turns: list, *_: object, **__: object) -> list[str]:
        asked.append([turn if isinstance(turn[0], str) else ["image", *turn[1:]] for turn in turns])
        return [f"answer {len(asked)}"]

    monkeypatch.setattr(SeedLM, "chat", reply)
    monkeypatch.setattr("seedtok.lm.messages.LEAST_ROOM", 20)
    lines = f'@"{picture}" what\n@nowhere.png\ngo on\nand\nso on {"word " * 8}'
    code, out, _ = cli("chat", "--template", "vicuna", "--out", tmp_path, stdin=lines)
    first, answers = [["image", "what"], ["answer 1"]], [[f"answer {number}"] for number in (1, 2, 3)]
    assert asked[:2] == [first[:1], [*first, ["go on"]]]
    assert asked[2] == [*first, ["go on"], answers[1], ["and"]]
    assert asked[3] == [["go on"], answers[1], ["and"], answers[2], [lines.splitlines()[-1].strip()]]
    assert (code, out.count("error: "), out.count("answer")) == (1, 1, 4)
