"""Caption scores: what can run runs, and what cannot says why."""

import pytest

from seedtok.evaluation import captions

RIGHT = [["a fox on a red background", "on red, a fox"], ["two bees side by side on a blue background"]]


def test_the_truth_scores_best_and_something_else_worse(monkeypatch):
    monkeypatch.setattr(captions, "_has_java", lambda: False)
    best, missing = captions.caption_scores([texts[0] for texts in RIGHT], RIGHT)
    worse, _ = captions.caption_scores(["a fox on a red hill", "two bees on a blue background"], RIGHT)
    assert best["bleu4"] == pytest.approx(100, abs=1e-3)
    assert best["rouge_l"] == pytest.approx(100)
    assert all(worse[name] < best[name] for name in ("bleu4", "rouge_l", "cider"))
    assert best["meteor"] is None
    assert best["spice"] is None
    assert missing.pop("coco_tokenizer").startswith("needs Java; bleu4")
    assert missing == {"meteor": "needs Java", "spice": "needs Java"}


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\n"])
def test_a_caption_of_several_lines_stays_one_caption(ends):
    """The Stanford tokenizer pairs its lines with captions by their places, and ends a line at any of these."""
    if not captions._has_java():
        pytest.skip("needs Java")
    given, truth = captions._tokenized([f"a dog{ends}runs{ends}", "a cat"], [[f"a dog runs{ends}"], ["a cat", "cat"]])
    assert given == {0: ["a dog runs"], 1: ["a cat"]}
    assert truth == {0: ["a dog runs"], 1: ["a cat", "cat"]}


def test_a_program_that_fails_is_named(monkeypatch):
    monkeypatch.setattr(captions, "_has_java", lambda: True)
    monkeypatch.setattr(captions, "_tokenized", lambda said, right: ({0: ["a fox"]}, {0: ["a fox"]}))

    def fail(name, truth, given):
        raise captions._Unavailable(f"{name} has no models")

    monkeypatch.setattr(captions, "_java_score", fail)
    scores, missing = captions.caption_scores(["a fox"], [["a fox"]])
    assert scores["cider"] is not None
    assert missing == {"meteor": "meteor has no models", "spice": "spice has no models"}


def test_java_counts_where_it_runs(monkeypatch, tmp_path):
    """On some systems a command of that name only says how to install it."""
    stub = tmp_path / "java"
    monkeypatch.setenv("PATH", str(tmp_path))
    for text, runs in (("#!/bin/sh\nexit 1\n", False), ("#!/bin/sh\nexit 0\n", True), (None, False)):
        stub.unlink(missing_ok=True)
        if text is not None:
            stub.write_text(text)
            stub.chmod(0o755)
        captions._has_java.cache_clear()
        assert captions._has_java() == runs
    captions._has_java.cache_clear()


def test_captions_are_tokenised_as_words_in_lower_case():
    assert captions._words("A fox, on red.") == "a fox on red"
