"""Caption scores: what can run runs, and what cannot says why."""

import shutil

import pytest

from seedtok.evaluation import captions

RIGHT = [["a fox on a red background", "on red, a fox"], ["two bees side by side on a blue background"]]


def test_the_truth_scores_best_and_something_else_worse(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    best, missing = captions.caption_scores([texts[0] for texts in RIGHT], RIGHT)
    worse, _ = captions.caption_scores(["a fox on a red hill", "two bees on a blue background"], RIGHT)
    assert best["bleu4"] == pytest.approx(100, abs=1e-3)
    assert best["rouge_l"] == pytest.approx(100)
    assert all(worse[name] < best[name] for name in ("bleu4", "rouge_l", "cider"))
    assert best["meteor"] is None
    assert best["spice"] is None
    assert missing == {"meteor": "needs Java", "spice": "needs Java"}


def test_a_program_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name != "java" else "/no/such/java")
    monkeypatch.setattr(captions, "_tokenized", lambda said, right: ({0: ["a fox"]}, {0: ["a fox"]}))

    def fail(name, truth, given):
        raise captions._Unavailable(f"{name} has no models")

    monkeypatch.setattr(captions, "_java_score", fail)
    scores, missing = captions.caption_scores(["a fox"], [["a fox"]])
    assert scores["cider"] is not None
    assert missing == {"meteor": "meteor has no models", "spice": "spice has no models"}


def test_captions_are_tokenised_as_words_in_lower_case():
    assert captions._words("A fox, on red.") == "a fox on red"
