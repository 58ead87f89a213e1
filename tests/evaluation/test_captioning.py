"""Captions of whole sets: their results file, and their scores against pycocoevalcap called directly."""

import json

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from evaluation_sets import StubReader
from seedtok.core.errors import ConfigError, DataError, SeedTokWarning
from seedtok.evaluation.captioning import evaluate_captioning, score_captions
from seedtok.evaluation.captions import _words
from seedtok.evaluation.prompts import LAVIS, prompts_named
from seedtok.evaluation.run import Run
from seedtok.evaluation.score import Judges, score_predictions
from seedtok.lm.prompts import TextSettings

SAID = {
    48 + 20 + i: text
    for i, text in enumerate(
        ["A dog seen from the left.", "a cat, seen from above", "A BOAT seen from the top", "trees", "a cake from the"]
    )
}


def say(size: tuple[int, int], prompt: str) -> str:
    return SAID.get(size[0], "a robot seen from the west")


def library(said: dict, right: dict, tokenize) -> dict[str, float]:
    """BLEU-4, ROUGE-L and CIDEr, x100, as pycocoevalcap's own evaluation computes them."""
    truth, given = tokenize(right), tokenize(said)
    return {
        "bleu4": 100 * Bleu(4).compute_score(truth, given, verbose=0)[0][3],
        "rouge_l": 100 * Rouge().compute_score(truth, given)[0],
        "cider": 100 * Cider().compute_score(truth, given)[0],
    }


def test_nocaps_by_domain_and_overall(sets, no_java, tmp_path):
    data = sets["nocaps"]
    found = evaluate_captioning({"stub": StubReader(say)}, data, Run(tmp_path / "out", batch_size=4))
    assert [name for name in found if name.startswith("stub")] == [
        "stub", "stub near-domain", "stub in-domain", "stub out-domain",
    ]  # fmt: skip

    def plain(texts):
        return {i: [_words(text) for text in own] for i, own in texts.items()}

    for name, domain in ((n, n.removeprefix("stub ")) for n in found if n.startswith("stub")):
        chosen = {i: entry for i, entry in enumerate(data) if domain in ("stub", entry.domain)}
        assert len(chosen) == (6 if name == "stub" else 2)
        said = {i: [say(data.picture(i).size, "")] for i in chosen}
        expected = library(said, {i: list(entry.captions) for i, entry in chosen.items()}, plain)
        assert {key: found[name][key] for key in expected} == pytest.approx(expected)
    assert json.loads((tmp_path / "out/stub.json").read_text()) == [
        {"image_id": entry.id, "caption": say(data.picture(i).size, "")} for i, entry in enumerate(data)
    ]


@pytest.mark.slow
def test_as_coco_is_tokenised_and_scored(sets):
    """With the Stanford tokenizer and METEOR, which need Java."""
    pytest.importorskip("pycocoevalcap")
    import shutil

    if shutil.which("java") is None:
        pytest.skip("needs Java")
    data = sets["coco"]
    words = ["a wave (big)!", "the bus", "two cats", "dogs in snow", "food"]
    predictions = [{"image_id": entry.id, "caption": text} for entry, text in zip(data, words, strict=True)]
    found = score_captions({"x": predictions}, data)

    def tokenize(texts):
        return PTBTokenizer().tokenize({i: [{"caption": text} for text in own] for i, own in texts.items()})

    said = {i: [text] for i, text in enumerate(words)}
    right = {i: list(entry.captions) for i, entry in enumerate(data)}
    expected = library(said, right, tokenize)
    expected["meteor"] = 100 * Meteor().compute_score(tokenize(right), tokenize(said))[0]
    assert {key: found["x"][key] for key in expected} == pytest.approx(expected)
    if found["x"]["spice"] is None:
        assert "spice" in found["missing"]


def test_prompts_and_decoding_are_what_is_asked_for(sets, no_java):
    model = StubReader(say)
    found = evaluate_captioning({"stub": model}, sets["coco"], Run(), LAVIS, TextSettings(3, 12))
    assert {prompt for _, prompt in model.asked} == {"a photo of"}
    assert model.decoding == TextSettings(3, 12)
    assert found["settings"]["decoding"] == {"do_sample": False, "num_beams": 3, "max_new_tokens": 12}
    assert found["settings"]["prompt"] == "a photo of"
    with pytest.raises(ConfigError, match=r"the prompt 'Describe: \{\}' is for questions, and captioning has none"):
        evaluate_captioning({"stub": model}, sets["coco"], Run(), prompts_named("Describe: {}"))


# ---------------------------------------------------------------- captions that other programs made


def write(path, records) -> None:
    path.write_text(json.dumps(records))


def test_what_other_programs_said_is_scored_alike(sets, no_java, tmp_path):
    data = sets["nocaps"]
    found = evaluate_captioning({"stub": StubReader(say)}, data, Run(tmp_path / "out", batch_size=4))
    again = score_predictions(tmp_path / "out", data, Judges())
    assert again == found
    records = json.loads((tmp_path / "out/stub.json").read_text())
    write(tmp_path / "theirs.json", [{**r, "image_id": str(r["image_id"])} for r in reversed(records)])
    theirs = score_predictions(tmp_path / "theirs.json", data, Judges())
    assert theirs["theirs"] == found["stub"]
    assert theirs["theirs in-domain"] == found["stub in-domain"]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert score_predictions(tmp_path / "lines.jsonl", data, Judges())["lines"] == found["stub"]


def test_captions_that_are_missing_are_counted(sets, no_java, tmp_path):
    write(tmp_path / "few.json", [{"image_id": entry.id, "caption": "a dog"} for entry in list(sets["nocaps"])[:4]])
    with pytest.warns(SeedTokWarning, match="predictions are missing, and in no score: 2 of few"):
        found = score_predictions(tmp_path / "few.json", sets["nocaps"], Judges())
    assert found["not_predicted"] == {"few": 2}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [{"image_id": 77, "caption": "a"}],
            "1 predictions are of pictures that nocaps val does not have, the first of 77",
        ),
        ([{"image_id": 1, "caption": "a"}] * 2, "two for image_id 1"),
        ([{"image_id": 1, "caption": 5}], "expected image_id and caption in each"),
        ([{"picture": 1}], "expected image_id and caption, question_id and answer, or questionId and prediction"),
        ([{"question_id": 1, "answer": "a"}], "nocaps val has no questions, which scoring answers needs"),
        ([], "expected a list of predictions"),
        ({"image_id": 1}, "expected image_id and caption, question_id"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_line(sets, no_java, tmp_path, records, words):
    write(tmp_path / "said.json", records)
    with pytest.raises(DataError) as caught:
        score_predictions(tmp_path / "said.json", sets["nocaps"], Judges())
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_results_file_that_is_cut_off_is_said(sets, tmp_path):
    (tmp_path / "said.json").write_text('[{"image_id": 1, "caption": "a d')
    with pytest.raises(DataError, match=r"not JSON .*is it cut off\?"):
        score_predictions(tmp_path / "said.json", sets["nocaps"], Judges())
    with pytest.raises(DataError, match="no such predictions"):
        score_predictions(tmp_path / "none.json", sets["nocaps"], Judges())


def test_predictions_of_another_set_or_not_complete_are_refused(sets, no_java, tmp_path):
    run = Run(tmp_path / "out", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_captioning({"stub": StubReader(say, 2)}, sets["nocaps"], run)
    with pytest.raises(DataError, match="was stopped; run it again to go on"):
        score_predictions(run.out, sets["nocaps"], Judges())
    with pytest.raises(DataError, match=r"predictions of 6 pictures of nocaps val .*not of 5 pictures of coco test"):
        score_predictions(run.out, sets["coco"], Judges())
