"""Pictures far from training and words never seen are pointed out, once a call, where a checkpoint can tell."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from seedtok import SeedLM, SeedTokenizer
from seedtok.cli.app import app
from seedtok.core.errors import CheckpointError, SeedTokWarning
from seedtok.core.hub import shipped
from seedtok.mini.world.scenes import VARIED, render, unique_scenes
from seedtok.tokenizer.familiarity import FILE, Familiarity, encode_and_check, far_names
from seedtok.tokenizer.unknown_words import unknown_words


@pytest.fixture(scope="module")
def mini() -> SeedTokenizer:
    return SeedTokenizer.from_pretrained("mini")


@pytest.fixture(scope="module")
def lm(mini: SeedTokenizer) -> SeedLM:
    return SeedLM.from_pretrained("mini", seed=mini)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a scene, a black square and noise."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(render(unique_scenes("test", 1, world=VARIED)[0])).save(folder / "scene.png")
    Image.new("RGB", (128, 128)).save(folder / "black.png")
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


# ---------------------------------------------------------------- the distance


def test_it_is_what_is_outside_of_the_subspace():
    """Training pictures in a plane of a space of six: the distance is that to the plane."""
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(6, 2)).Q
    training = 3 + torch.randn(500, 2) @ plane.T + 0.01 * torch.randn(500, 6)
    found = Familiarity.fit(training[:400], training[400:], components=2)
    outside = torch.linalg.qr(torch.cat([plane, torch.randn(6, 4)], dim=1)).Q[:, 2:]
    far = 3 + torch.randn(5, 2) @ plane.T + 2 * outside[:, 0]
    assert found.squared(far) == pytest.approx(torch.full((5,), 4.0), abs=0.2)
    assert (found.squared(far) > found.threshold).all()
    assert (found.squared(training[:400]) < found.threshold).float().mean() > 0.95


@pytest.mark.slow
def test_scenes_are_near_and_other_pictures_far(mini):
    ramp = np.linspace(0, 255, 128).astype(np.uint8)
    strange = [
        np.zeros((128, 128, 3), np.uint8), np.stack([np.tile(ramp, (128, 1))] * 3, axis=2),
        np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8),
    ]  # fmt: skip
    codes, far = encode_and_check(mini, mini.pixels(strange))
    assert far.all()
    assert torch.equal(codes, mini.encode_pixels(mini.pixels(strange)))
    scenes = mini.pixels([render(scene) for scene in unique_scenes("test", 200, seed=7, world=VARIED)])
    _, far = encode_and_check(mini, scenes)
    assert int(far.sum()) <= 4  # 1 % of 200, and its spread


def test_bfloat16_agrees(mini):
    half = SeedTokenizer.from_pretrained("mini", dtype=torch.bfloat16)
    images = [np.zeros((128, 128, 3), np.uint8), render(unique_scenes("test", 1, world=VARIED)[0])]
    assert encode_and_check(half, half.pixels(images))[1].tolist() == [True, False]
    cast = SeedTokenizer.from_pretrained("mini").bfloat16()
    assert all(
        torch.equal(one, other)
        for one, other in zip(cast.familiarity.buffers(), half.familiarity.buffers(), strict=True)
    )


def test_it_is_saved_and_loaded_with_its_checkpoint(mini, tmp_path):
    mini.save_pretrained(tmp_path / "saved")
    again = Familiarity.load(tmp_path / "saved", 192)
    assert again is not None
    for name, value in again.named_buffers():
        assert torch.equal(value, getattr(mini.familiarity, name)), name
    assert not [name for name in mini.state_dict() if "familiarity" in name]
    assert (shipped("tokenizer") / FILE).stat().st_size < 200_000


@pytest.mark.parametrize("damage", ["name", "width", "nan"])
def test_a_file_that_does_not_fit_is_refused(tmp_path, damage):
    shutil.copy(shipped("tokenizer") / FILE, tmp_path)
    tensors = load_file(tmp_path / FILE)
    if damage == "name":
        tensors["more"] = torch.zeros(1)
    if damage == "nan":
        tensors["mean"] = tensors["mean"] * torch.nan
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=FILE):
        Familiarity.load(tmp_path, 64 if damage == "width" else 192)


def test_names_are_paths_or_numbers():
    far = torch.tensor([True, False, True])
    assert far_names(far, ["a.png", "b.png", Path("c.png")]) == ["a.png", "c.png"]
    assert far_names(far, torch.zeros(3, 3, 8, 8)) == ["image 1", "image 3"]
    assert far_names(far[:1], "a.png") == ["a.png"]


# ---------------------------------------------------------------- in Python


def test_python_warns_once_a_call(mini, lm, pictures):
    for call in (
        lambda: mini.encode(sorted(pictures.iterdir())),
        lambda: lm.caption(sorted(pictures.iterdir()), num_beams=1, batch_size=1),
    ):
        with pytest.warns(SeedTokWarning) as caught:
            call()
        (message,) = (str(w.message) for w in caught if w.category is SeedTokWarning)
        assert "black.png" in message
        assert "noise.png" in message
        assert "scene.png" not in message


def test_each_calling_line_warns(mini, lm):
    """By Python's own rule, which shows a message once for each line; whoever ignores torch's warnings sees ours."""
    black = np.zeros((64, 64, 3), np.uint8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        warnings.filterwarnings("ignore", module="torch")
        for _ in range(2):
            mini.encode(black)
        lm.caption(black, num_beams=1, max_new_tokens=1)
        lm.draw_codes("a zebra")
    ours = [w for w in caught if w.category is SeedTokWarning]
    assert [w.filename for w in ours] == [__file__] * 3
    assert [w.lineno - ours[0].lineno for w in ours] == [0, 1, 2]


def test_what_is_known_is_not_warned_of(lm, pictures):
    with warnings.catch_warnings():
        warnings.simplefilter("error", SeedTokWarning)
        lm.answer(pictures / "scene.png", "What color is the background?", num_beams=1)
        lm.generate([pictures / "scene.png", "A photo of"], max_images=0, max_new_tokens=2)


def test_words_never_seen_are_named(lm):
    with pytest.warns(SeedTokWarning, match=r"not trained on.*: pink, zebra$"):
        lm.draw(["a fox on a pink background", "a zebra on a pink background"])


def test_a_text_that_names_a_picture_is_pointed_out(lm, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    with pytest.warns(SeedTokWarning, match=r"'scene\.png' is read as a text"):
        lm.generate(["scene.png"], max_images=0, max_new_tokens=1)


def test_a_tokenizer_without_a_list_knows_every_word(bert_like, lm):
    assert unknown_words(bert_like, ["a pink zebra"]) == []
    assert unknown_words(lm.joint.text_tokenizer, ["a pink fox, a Zebra"]) == ["pink", "Zebra"]
    assert unknown_words(lm.joint.text_tokenizer, ["Question: How many foxes are there? Short answer."]) == []


@pytest.fixture
def bert_like(mini):
    return mini.embedder.text_tokenizer


# ---------------------------------------------------------------- commands


@pytest.mark.slow
@pytest.mark.parametrize("command", ["encode", "caption", "reconstruct", "ask", "draw", "imagine", "chat"])
def test_commands_say_it_in_a_line_on_stderr(pictures, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    arguments = {
        "encode": [pictures, "--json"], "caption": [pictures, "--beams", 1],
        "reconstruct": [pictures, "--out", "out", "--steps", 1], "ask": [pictures / "black.png", "What is this zebra?"],
        "draw": ["a pink fox", "--out", "fox.png"], "imagine": ["A pink fox", "--out", "fox.png", "--steps", 1],
    }  # fmt: skip
    if command == "chat":
        result = CliRunner().invoke(app, ["chat"], input=f'@"{pictures / "black.png"}" A photo of\n')
        code, err = result.exit_code, result.stderr
    else:
        code, _, err = run(command, *arguments[command])
    assert code == 0
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert len(lines) == (2 if command == "ask" else 1), err
    if command in ("draw", "imagine"):
        assert lines[0].endswith(": pink")
    else:
        assert "black.png" in lines[0]


def test_tokenize_counts(pictures, tmp_path):
    for path in pictures.iterdir():
        path.with_suffix(".txt").write_text("a fox")
    assert run("data", "pack", pictures, "--out", tmp_path / "shards")[0] == 0
    code, _, err = run("tokenize", tmp_path / "shards", "--out", tmp_path / "codes")
    assert code == 0
    assert err.splitlines()[-1].startswith("warning: 2 of them are far")


# ---------------------------------------------------------------- other pictures


def test_pictures_of_another_kind_can_be_taken_in():
    """Held-out pictures raise the threshold where most of them were far, and never lower it."""
    torch.manual_seed(0)
    plane = torch.linalg.qr(torch.randn(6, 2)).Q
    training = torch.randn(500, 2) @ plane.T + 0.01 * torch.randn(500, 6)
    found = Familiarity.fit(training[:400], training[400:], components=2)
    before, others = found.threshold.clone(), torch.randn(200, 6)
    found.widen(training[400:450])
    assert torch.equal(found.threshold, before)
    found.widen(others)
    assert found.threshold > before
    assert int((found.squared(others) > found.threshold).sum()) <= 1
