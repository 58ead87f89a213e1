"""Scores of answers, on cases worked by hand from the published rules."""

import pytest

from seedtok.evaluation.answers import exact_match, normalized_answer, vqa_accuracy


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
