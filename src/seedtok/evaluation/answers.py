"""Scores of answers: VQAv2's accuracy (Antol et al. 2015, by its published rules) and GQA's exact match."""

import re
from collections.abc import Sequence

_ARTICLES = {"a", "an", "the"}
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_DIGITS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# endings, and the words that take them
_SHORTENED = """
't ain aren can couldn didn doesn don hadn hasn haven isn mightn mustn needn shouldn wasn weren won wouldn
'd he how it somebody someone something that there they what when where who why you
'll how it somebody someone something that there they what when where who why you
're there they what why you
's he how let she somebody someone something that there what when where who why
've could i might must should that they we what who would you
'm i
"""
_CONTRACTIONS = {
    who + end[1:]: who + end for end, *words in map(str.split, _SHORTENED.strip().splitlines()) for who in words
}  # words that lost their apostrophe; one that is another word without it, such as "its", stays as it is
_PUNCTUATION = re.escape(';/[]"{}()=+\\_-><@`,?!')


def normalized_answer(text: str) -> str:
    """Lower case, no articles, number words as digits, contractions with their apostrophe, punctuation as VQAv2 has it.

    A full stop goes unless it is a decimal point, a comma between digits goes, a mark that stands by itself or joins
    two words leaves a space.
    """
    text = " ".join(text.lower().split())
    digits_grouped = re.search(r"\d,\d", text) is not None
    for mark in re.findall(f"[{_PUNCTUATION}]", text):
        alone = f"{mark} " in text or f" {mark}" in text
        text = text.replace(mark, "" if alone or digits_grouped else " ")
    text = re.sub(r"(?<!\d)\.|\.(?!\d)", "", text)
    words = (_DIGITS.get(word, word) for word in text.split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """0..1: the mean, leaving one person out at a time, of min(1, people who gave this answer / 3).

    `truths` are the people's answers, ten in VQAv2. Raises ValueError where there are fewer than two.
    """
    if len(truths) < 2:
        raise ValueError(f"{len(truths)} people's answers; the accuracy leaves one out at a time: give at least two")
    given, said = normalized_answer(answer), [normalized_answer(truth) for truth in truths]
    same = sum(truth == given for truth in said)
    return sum(min(1.0, (same - (truth == given)) / 3) for truth in said) / len(said)


def exact_match(answer: str, truth: str) -> float:
    """1.0 or 0.0: whether the normalised answers are equal, as GQA counts."""
    return float(normalized_answer(answer) == normalized_answer(truth))
