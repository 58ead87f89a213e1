"""Scores of answers, on cases worked by hand from the published rules and on cases scored by the official script."""

import json
from pathlib import Path

import pytest

from seedtok.evaluation.answers import exact_match, normalized_answer, vqa_accuracy

CASES = Path(__file__).parents[1] / "data" / "vqa_cases.json"  # [given answer, ten people's answers, official accuracy]


def test_the_accuracy_is_the_official_scripts():
    cases = json.loads(CASES.read_text("utf-8"))
    assert len(cases) == 400
    assert [(answer, vqa_accuracy(answer, truths)) for answer, truths, _ in cases] == [
        (answer, pytest.approx(accuracy, abs=1e-9)) for answer, _, accuracy in cases
    ]


def test_people_who_all_agree_are_taken_as_they_wrote():
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 10) == 0  # the given answer loses its hyphen, theirs do not
    assert vqa_accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1


@pytest.mark.parametrize(
    ("said", "normal"),
    [
        ("The Dogs.", "dogs"),
        ("an  apple\n", "apple"),
        ("two, three", "2 3"),
        ("None", "0"),
        ("dont", "don't"),
        ("it's", "it's"),
        ("its", "its"),
        ("1,000", "1000"),
        ("3.5 m.", "3.5 m"),
        ("red-green", "red green"),
        ("yes!", "yes"),
        ("top left", "top left"),
        ("couldnt've", "couldn't've"),
        ("y'alld've", "y'all'd've"),
        ("thatd", "thatd"),
        ("", ""),
    ],
)
def test_an_answer_is_normalised_by_the_rules(said, normal):
    assert normalized_answer(said) == normal
    assert normalized_answer(normal) == normal


@pytest.mark.parametrize(("same", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_the_accuracy_leaves_one_of_ten_people_out_at_a_time(same, accuracy):
    """With 3 alike, those 3 see 2 others (2/3 each) and the 7 see 3 (1 each): (2 + 7) / 10."""
    assert vqa_accuracy("Yes.", ["yes"] * same + ["no"] * (10 - same)) == pytest.approx(accuracy)


def test_one_person_is_too_few():
    with pytest.raises(ValueError, match="at least two"):
        vqa_accuracy("yes", ["yes"])


def test_an_exact_match_is_of_what_the_rules_leave():
    assert exact_match("A fox.", "fox") == 1
    assert exact_match("foxes", "fox") == 0
