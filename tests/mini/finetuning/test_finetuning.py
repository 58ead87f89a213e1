"""A fine-tuning of a tiny language model on a dozen pictures: what it leaves, how it goes on, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seedtok import SeedLM, SeedTokenizer
from seedtok.core.errors import ConfigError, DataError, SeedTokError
from seedtok.data.held_out import Part
from seedtok.data.pack import pack
from seedtok.data.prepared import ShardSet
from seedtok.mini.finetuning import run
from seedtok.mini.finetuning.measures import measure_distances, measured
from seedtok.mini.finetuning.run import PARTS, SHARES, Finetuning, finetune
from seedtok.tokenizer.familiarity import FILE as FAMILIARITY
from seedtok.tokenizer.familiarity import encode_and_check, pooled_features
from seedtok.tokenizer.unknown_words import KNOWN_WORDS, unknown_words
from seedtok.training.runs import read_config, write_config
from tiny_lms import text_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:samples that are longer than a row"),  # the tiny LM reads bytes, 128 of them
]
COLORS = ("red", "green", "blue", "white", "black", "gray")
SMALL = tuple(f"{part.name}.{item}" for part in PARTS for item in ("optimization.batch_size=4", "log_every=1"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    for i in range(24):
        color = COLORS[i % len(COLORS)]
        picture = Image.new("RGB", (40, 40), color)
        picture.paste("yellow", (i, 4, i + 10, 20))
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"zebras on {color}")
    pack(folder, folder / "shards")
    return folder / "shards"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path], seed: SeedTokenizer) -> Path:
    """A SEED language model whose text tokenizer lists known words."""
    folder = tmp_path_factory.mktemp("start")
    shutil.copytree(bases["llama"], folder / "base")
    words = text_tokenizer()
    words.init_kwargs[KNOWN_WORDS] = ["a", "on"]
    words.save_pretrained(str(folder / "base"))
    torch.manual_seed(1)
    SeedLM.build(folder / "base", seed).save_pretrained(folder / "lm")
    return folder / "lm"


@pytest.fixture(scope="module")
def wanted(shards: Path, start: Path) -> Finetuning:
    return Finetuning(shards, str(start), steps=2, held_out=0.25, scenes=24, overrides=SMALL)


@pytest.fixture(scope="module")
def done(wanted: Finetuning, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a fine-tuning that was interrupted in its second stage and went on."""
    out, train = tmp_path_factory.mktemp("done") / "out", run.train

    def interrupted(config, folder, resume):
        if folder.name == "stage2":
            raise KeyboardInterrupt
        return train(config, folder, resume)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            finetune(wanted, out, print)
    said: list[str] = []
    finetune(wanted, out, said.append)
    assert "already there: stage1" in said
    assert not any(line.startswith("stage1:") for line in said)
    assert any(line.startswith("stage3: 8 pictures seen in") for line in said)
    return out


def test_the_result_is_one_folder_that_can_be_moved(done, start, tmp_path):
    shutil.copytree(done / "final", tmp_path / "moved")
    before, after = SeedLM.from_pretrained(start), SeedLM.from_pretrained(tmp_path / "moved")
    assert after.seed.codebook_id == before.seed.codebook_id
    picture = Image.new("RGB", (50, 50), "red")
    assert len(after.caption(picture, num_beams=1)) == 1
    assert SeedTokenizer.from_pretrained(tmp_path / "moved" / "tokenizer").encode(picture).shape == (1, 32)
    trained = ("embedder.vision.class_token", "embedder.qformer.query_tokens", "encode_head.0.weight")
    states = before.seed.state_dict(), after.seed.state_dict()
    assert all(not torch.equal(states[0][name], states[1][name]) for name in trained)
    assert str(done) not in (tmp_path / "moved" / "config.json").read_text()


def test_captions_may_be_as_short_as_those_learnt_from(done, wanted):
    model = SeedLM.from_pretrained(done / "final")
    captions = [text for entry in ShardSet(wanted.data, part=Part(0.25, False)) for text in entry.captions]
    shortest = min(len(model.joint.text_ids(" " + text)) for text in captions)
    assert model.template.caption_tokens == min(8, shortest)
    assert SeedLM.from_pretrained(wanted.model).template.caption_tokens == 8


def test_its_words_are_known(done):
    words = SeedLM.from_pretrained(done / "final").joint.text_tokenizer
    assert unknown_words(words, ["a zebras on red", "a unicorn"]) == ["unicorn"]


def test_its_own_pictures_are_near_and_others_far(done, wanted):
    """By the tokenizer's own measure, of which that of before knows nothing."""
    seed, own = SeedLM.from_pretrained(done / "final").seed, ShardSet(wanted.data)
    distances = seed.familiarity.squared(pooled_features(seed, [own.picture(i) for i in range(len(own))]))
    assert int((distances > seed.familiarity.threshold).sum()) <= 2
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    assert (seed.familiarity.squared(pooled_features(seed, list(noise))) > seed.familiarity.threshold).all()
    assert SeedLM.from_pretrained(wanted.model).seed.familiarity is None


def test_distances_that_cannot_be_written_leave_no_broken_file(done, wanted, tmp_path, monkeypatch):
    shutil.copytree(done / "runs" / "stage2" / "final", tmp_path / "runs" / "stage2" / "final")
    folder = tmp_path / "runs" / "stage2" / "final"
    shutil.copytree(done / "runs" / "stage1", tmp_path / "runs" / "stage1")
    (folder / FAMILIARITY).unlink()

    def full(_: object, path: Path, *__: object, **___: object) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seedtok.core.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        measure_distances(folder, [wanted.data], wanted.held_out)
    assert not (folder / FAMILIARITY).exists()
    monkeypatch.undo()
    measure_distances(folder, [wanted.data], wanted.held_out)
    assert SeedTokenizer.from_pretrained(folder).familiarity is not None


def test_its_result_is_served(done, wanted):
    """The server answers as the library, has the page, and knows the pictures and the words that were learnt."""
    pytest.importorskip("fastapi")
    pytest.importorskip("gradio")
    from starlette.testclient import TestClient

    from seedtok.serving.app import create_app
    from serving.helpers import asked, data_url

    lm = SeedLM.from_pretrained(done / "final")
    picture = ShardSet(wanted.data).picture(0)
    codes, far = encode_and_check(lm.seed, lm.seed.pixels([picture]))
    with TestClient(create_app(lm, "own", with_page=True)) as client:
        assert client.get("/").status_code == 200
        encoded = client.post("/v1/seed/encode", json={"images": [data_url(picture)]}).json()["data"][0]
        assert encoded == {"index": 0, "codes": codes[0].tolist(), "is_far": bool(far[0])}
        answer = client.post("/v1/chat/completions", json={"messages": asked("", picture)}).json()
        assert answer["choices"][0]["message"]["content"] == lm.caption(picture)[0]
        drawn = client.post("/v1/images/generations", json={"prompt": "zebras on red", "seed": 0}).json()
        assert "warnings" not in drawn


def test_what_was_measured_is_written_and_the_held_out_pictures_are_apart(done, wanted):
    found = json.loads((done / "finetuned.json").read_text())
    learnt, measured = (ShardSet(wanted.data, part=Part(0.25, side)) for side in (False, True))
    assert (found["pictures"], found["held_out"]) == (len(learnt), len(measured))
    assert len(learnt) + len(measured) == 24
    assert not {entry.image for entry in learnt} & {entry.image for entry in measured}
    for when in ("before", "after"):
        lines = [json.loads(line) for line in (done / f"{when}.jsonl").read_text(encoding="utf-8").splitlines()]
        assert [line["image"] for line in lines] == [entry.image for entry in measured]
        assert found[when]["exact"] == 100 * sum(line["caption"] in line["own"] for line in lines) / len(lines)


def test_what_was_measured_counts_for_the_same_pictures_alone(done, wanted, tmp_path):
    pictures, file = ShardSet(wanted.data, part=Part(0.25, True)), done / "before.jsonl"
    assert measured(file, pictures) == json.loads((done / "finetuned.json").read_text())["before"]
    assert measured(tmp_path / "none.jsonl", pictures) is None
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for others in (lines[1:], [*lines[:-1], lines[-1] | {"own": ["a fox"]}], [{**line, "far": None} for line in lines]):
        kept = [{name: value for name, value in line.items() if value is not None} for line in others]
        (tmp_path / "other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        assert measured(tmp_path / "other.jsonl", pictures) is None


def test_another_call_changes_nothing_and_other_settings_are_refused(done, wanted):
    written = (done / "final" / "config.json").stat().st_mtime_ns
    before = (done / "before.jsonl").stat().st_mtime_ns
    said: list[str] = []
    finetune(wanted, done, said.append)
    assert [line for line in said if line.startswith("already")] == [f"already there: {part.name}" for part in PARTS]
    assert (done / "final" / "config.json").stat().st_mtime_ns >= written
    assert (done / "before.jsonl").stat().st_mtime_ns == before  # not measured again
    other = Finetuning(wanted.data, wanted.model, steps=3, held_out=0.25, scenes=24, overrides=SMALL)
    with pytest.raises(ConfigError, match=r"was begun with steps 2, not 3: go on like that"):
        finetune(other, done, print)


def test_minutes_become_steps(wanted, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "seconds_per_step", lambda config: 0.5)
    timed = Finetuning(wanted.data, wanted.model, minutes=10.0, held_out=0.25, overrides=SMALL)
    given = run.Start({part.name: [] for part in PARTS}, 3)
    for part in PARTS:
        config = run.configured(part, timed, given, tmp_path)
        assert config.optimization.steps == round(600 * SHARES[part.name] / 0.5)
    assert sum(SHARES.values()) < 1


def test_later_stages_have_the_precision_of_the_first(wanted, tmp_path):
    """As on a GPU, and gone on with on a CPU."""
    first, second, _ = PARTS
    given = run.Start({part.name: [] for part in PARTS}, 3)
    assert run.configured(second, wanted, given, tmp_path).precision == "auto"
    (folder := tmp_path / "runs" / first.name).mkdir(parents=True)
    write_config(run.configured(first, wanted, given, tmp_path).model_copy(update={"precision": "bf16"}), folder)
    assert run.configured(second, wanted, given, tmp_path).precision == "bf16"
    own = replace(wanted, overrides=("stage2.precision=no",))
    assert run.configured(second, own, given, tmp_path).precision == "no"


def test_a_stage_goes_on_in_a_folder_that_was_moved(done, wanted, tmp_path):
    shutil.copytree(done, tmp_path / "moved", ignore=shutil.ignore_patterns("final", "after.jsonl"))
    shutil.copytree(done / "runs" / "stage1" / "final", tmp_path / "moved" / "runs" / "stage1" / "final")
    config = read_config(done / "runs" / "stage2", [PARTS[1].recipe()])
    assert config.stage.embedder == done / "runs" / "stage1" / "final"
    finetune(wanted, tmp_path / "moved", print)
    for name in ("stage1", "stage2", "stage3"):
        text = (tmp_path / "moved" / "runs" / name / "config.json").read_text()
        assert (str(done) in text) == (name == "stage1")  # that was finished


def test_a_second_of_training_is_timed(done, wanted, tmp_path):
    config = run.read_config(done / "runs" / "stage1", [PARTS[0].recipe()])
    assert 0 < run.seconds_per_step(config, steps=2) < 60
    assert not list(tmp_path.iterdir())


def test_bad_input_is_refused_before_anything_is_trained(wanted, tmp_path, cli):
    for setting in ("stage4.optimization.lr=1", "optimization.lr=1", "stage1"):
        with pytest.raises(ConfigError, match="no stage"):
            finetune(Finetuning(wanted.data, wanted.model, overrides=(setting,)), tmp_path / "out", print)
    with pytest.raises(DataError, match="--held-out"):
        finetune(Finetuning(wanted.data, wanted.model, held_out=1e-9), tmp_path / "none", print)
    for wrong in ({"model": str(tmp_path / "nosuch")}, {"overrides": ("stage3.stage.rnak=4",)}, {"held_out": 1e-9}):
        with pytest.raises(SeedTokError):
            finetune(replace(wanted, **wrong), tmp_path / "wrong", print)
        assert not (tmp_path / "wrong").exists(), "it can be begun with other settings"
    code, _, err = cli("finetune", tmp_path, "--out", tmp_path / "x")
    assert (code, err.count("\n")) == (2, 1)
    assert "seedtok data pack" in err
    code, _, err = cli("finetune", wanted.data, "--out", tmp_path / "x", "--held-out", 1.5)
    assert code == 2
    assert "above 0 and below 1" in err
