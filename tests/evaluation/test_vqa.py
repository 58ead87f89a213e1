"""Answers to whole sets of questions: their results files, and scores worked by hand."""

import json

import pytest

import publishers
from evaluation_sets import StubReader
from seedtok.core.errors import ConfigError, DataError
from seedtok.evaluation.prompts import LAVIS, PAPER, prompts_named
from seedtok.evaluation.run import Run
from seedtok.evaluation.score import Judges, score_predictions
from seedtok.evaluation.vqa import evaluate_vqa
from seedtok.lm.prompts import TextSettings

ANSWERS = {
    "Is it sunny?": "Yes.",  # all ten say so: 1
    "How many dogs are there?": "three",  # normalised to 3: of three, 2 see two others and 7 see three: 0.9
    "What is he wearing?": "t-shirt",  # loses its hyphen, and so do theirs, of four: 1
    "Is this a cat?": "yes",  # two of ten: (2 * 1/3 + 8 * 2/3) / 10 = 0.6
    "What color is the bus?": "green",  # nobody: 0
    "Is it overcast?": "No",
    "What is on the table?": "a plate",
    "Is the plate left or right of the cup?": "right",
}


def say(size: tuple[int, int], prompt: str) -> str:
    return ANSWERS[prompt.removeprefix("Question: ").removesuffix(" Short answer.")]


def test_vqav2_by_type_of_answer(sets, tmp_path):
    found = evaluate_vqa({"stub": StubReader(say)}, sets["vqav2"], Run(tmp_path / "out", batch_size=2))
    assert found["stub"] == pytest.approx(
        {"accuracy": 70, "yes/no": 80, "number": 90, "other": 50}  # of 1, 0.9, 1, 0.6, 0
    )
    assert found["counts"]["questions"] == 5
    assert found["counts"]["published"] == {"pictures": 40_504, "questions": 214_354}
    said = json.loads((tmp_path / "out/stub.json").read_text())
    assert {tuple(record) for record in said} == {("question_id", "answer")}
    assert {r["question_id"] for r in said} == {image * 1000 + i for i, (image, *_) in enumerate(publishers.VQA)}


def test_a_pictures_questions_are_asked_together_and_of_it(sets):
    model = StubReader(say)
    evaluate_vqa({"stub": model}, sets["vqav2"], Run(batch_size=2))
    sizes = {entry.id: sets["vqav2"].picture(i).size for i, entry in enumerate(sets["vqav2"])}
    expected = {(sizes[image], PAPER.asked(text)) for image, text, *_ in publishers.VQA}
    assert set(model.asked) == expected
    assert len(model.asked) == 5


def test_gqa_by_exact_match(sets, tmp_path):
    found = evaluate_vqa({"stub": StubReader(say)}, sets["gqa"], Run(tmp_path / "out"))
    assert found["stub"] == pytest.approx({"exact_match": 200 / 3})
    said = json.loads((tmp_path / "out/stub.json").read_text())
    assert {tuple(record) for record in said} == {("questionId", "prediction")}


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("paper", "Question: Is it Sunny? Short answer."),
        ("lavis", "Question: is it sunny? Short answer:"),
        ("Q: {} A:", "Q: Is it Sunny? A:"),
    ],
)
def test_prompts_by_name_or_as_a_text(name, asked):
    assert prompts_named(name).asked(" Is it Sunny? ") == asked


def test_a_prompt_without_a_question_is_refused(sets):
    with pytest.raises(ConfigError, match="has no place for the question"):
        evaluate_vqa({"stub": StubReader(say)}, sets["gqa"], Run(), prompts_named("What?"))
    with pytest.raises(ConfigError, match="an empty prompt"):
        prompts_named(" ")


def test_decoding_is_the_papers(sets):
    model = StubReader(lambda size, prompt: "x")
    found = evaluate_vqa({"stub": model}, sets["gqa"], Run(), LAVIS)
    assert model.decoding == TextSettings(5, 10, length_penalty=0.0)
    assert (found["settings"]["prompt"], found["settings"]["lower_case"]) == (LAVIS.question, True)


@pytest.mark.parametrize("name", ["vqav2", "gqa"])
def test_answers_of_other_programs_are_scored_alike(sets, tmp_path, name):
    found = evaluate_vqa({"stub": StubReader(say)}, sets[name], Run(tmp_path / "out"))
    assert score_predictions(tmp_path / "out", sets[name], Judges()) == found
    records = json.loads((tmp_path / "out/stub.json").read_text())
    for keys in (("question_id", "answer"), ("questionId", "prediction")):  # of either format
        renamed = [dict(zip(keys, record.values(), strict=True)) for record in records]
        (tmp_path / "theirs.json").write_text(json.dumps(renamed))
        assert score_predictions(tmp_path / "theirs.json", sets[name], Judges())["theirs"] == found["stub"]


def test_answers_to_other_questions_are_refused(sets, tmp_path):
    (tmp_path / "said.json").write_text(json.dumps([{"question_id": 5, "answer": "yes"}]))
    with pytest.raises(DataError, match="of questions that gqa testdev_balanced does not have, the first of 5"):
        score_predictions(tmp_path / "said.json", sets["gqa"], Judges())
