"""What one who does not see the picture would answer, and how often that is right."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

from seedtok.mini.world.balanced import Question
from seedtok.mini.world.concepts import NOUNS


def wording(question: str) -> str:
    """A question with # for the things that it names."""
    return re.sub("[a-z]+", lambda m: "#" if m[0] in NOUNS else m[0], re.sub(r"\ban\b", "a", question))


def blind_answers(asked: Iterable[Question]) -> dict[str, str]:
    """The most frequent answer to each wording."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for question in asked:
        answers[wording(question.text)][question.answer] += 1
    return {text: counts.most_common(1)[0][0] for text, counts in answers.items()}


def blind_prior(asked: Iterable[Question], guesses: dict[str, str]) -> dict[str, float]:
    """How many of the questions such answers get right, in percent: by kind, and of "all"."""
    right: defaultdict[str, list[bool]] = defaultdict(list)
    for question in asked:
        for kind in (question.kind, "all"):
            right[kind].append(guesses.get(wording(question.text)) == question.answer)
    return {kind: 100 * sum(found) / len(found) for kind, found in sorted(right.items())}
