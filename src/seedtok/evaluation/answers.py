"""Scores of answers: VQAv2's accuracy as its official evaluation counts it, and GQA's exact match."""

import re
from collections.abc import Sequence

from seedtok.core.errors import DataError

_ARTICLES = {"a", "an", "the"}
_DIGITS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
_DIGITS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
# contractions that are mended where one apostrophe is missing: "dont", "couldnt've" and "couldn'tve"
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at, mark in enumerate(word) if mark == "'"
}
_CONTRACTIONS["somebody'd"] = "somebodyd"  # the official table has this one the wrong way round
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_MOST_STOPS = 32  # the official evaluation removes no more full stops than this from one answer


def without_punctuation(text: str) -> str:
    """Punctuation as VQAv2 has it: removed where it stands beside a space, a space where it joins two words.

    A full stop goes unless a digit follows it. In a text with a comma between digits, all punctuation is removed.
    """
    digits_grouped = re.search(r"\d,\d", text) is not None
    plain = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside_space or digits_grouped else " ")
    return re.sub(r"\.(?!\d)", "", plain, count=_MOST_STOPS)


def normalized_answer(text: str) -> str:
    """A given answer as VQAv2 compares it.

    Punctuation as in `without_punctuation`; then lower case, number words as digits, no articles, and contractions
    with their apostrophes.
    """
    plain = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = (_DIGITS.get(word, word) for word in plain.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, truths: Sequence[str]) -> float:
    """0..1: the mean, leaving one person out at a time, of min(1, others who gave this answer / 3).

    `truths` are the people's answers, ten in VQAv2. As in the official evaluation, the given answer is normalised in
    full; the people's lose their punctuation, and that only where they are not all equal. Raises DataError where there
    are fewer than two.
    """
    if len(truths) < 2:
        raise DataError(f"{len(truths)} people's answers; the accuracy leaves one out at a time: give at least two")
    said = list(truths) if len(set(truths)) == 1 else [without_punctuation(truth) for truth in truths]
    given = normalized_answer(answer)
    same = sum(truth == given for truth in said)
    return sum(min(1.0, (same - (truth == given)) / 3) for truth in said) / len(said)


def exact_match(answer: str, truth: str) -> float:
    """1.0 or 0.0: whether the normalised answers are equal, as GQA counts."""
    return float(normalized_answer(answer) == normalized_answer(truth))
