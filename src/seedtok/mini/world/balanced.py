"""Questions about scenes with a look, balanced: of each wording, no answer is much more frequent than another.

The shares that it balances are those of `scenes.sample_scene`: how often there are one, two or three things, how often
they are alike, and where they stand.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from seedtok.mini.world.captions import an, at
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES, PLURALS
from seedtok.mini.world.scene import Scene, Thing


class Question(NamedTuple):
    """`kind` says what is asked for: color, count, what, where, relation; verify, or exists of classic scenes."""

    kind: str
    text: str
    answer: str


# by how many of a concept there are, the share of such scenes that are asked for it, where no larger number was
_COUNT_RATES = {3: 1.0, 2: 0.57, 1: 0.13, 0: 0.14}
_TOTAL_RATES = {1: 0.7, 2: 0.62, 3: 1.0}  # the same of how many things there are in all
# how often things that come once stand in a place, to that in the middle
_PLACE_WEIGHTS = {"middle": 1.0, "left": 2.0, "right": 2.0, "top": 3.2, "bottom": 3.2}
_CORNER_WEIGHT = 2.3
OPPOSITE = {
    "to the left of": "to the right of",
    "above": "below",
    "to the right of": "to the left of",
    "below": "above",
}


def _color(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [Question("color", "What color is the background?", scene.background)]


def _count(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """How many things there are, 1 to 3, or how many of a concept, 0 to 3: each as often."""
    if rng.random() < 0.5:
        total = len(scene.things)
        asked = rng.random() < _TOTAL_RATES[total]
        return [Question("count", "How many things are there?", str(total))] if asked else []
    counts = Counter(thing.concept for thing in scene.things)
    for number, rate in _COUNT_RATES.items():
        concepts = [c for c, n in counts.items() if n == number] if number else [_absent(scene, rng)]
        if concepts and rng.random() < rate:
            return [Question("count", f"How many {PLURALS[_one(concepts, rng)]} are there?", str(number))]
    return []


def _verify(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Yes or no by a toss: is there such a thing, is the background so, does a thing stand there, or so to another."""
    yes = rng.random(4) < 0.5
    concept = _one([t.concept for t in scene.things], rng) if yes[0] else _absent(scene, rng)
    others = [color for color in BACKGROUNDS if color != scene.background]
    asked = [
        (f"Is there {an(concept)}?", yes[0]),
        (f"Is the background {scene.background if yes[1] else _one(others, rng)}?", yes[1]),
    ]
    if single := _singles(scene):
        thing = _one(single, rng)
        asked.append((f"Is the {thing.concept} {at(thing.place if yes[2] else _elsewhere(thing.place, rng))}?", yes[2]))
    related = [(a, words, b) for a, words, b in _relations(scene) if a in single and b in single]
    if related:
        thing, words, other = _one(related, rng)
        asked.append((f"Is the {thing.concept} {words if yes[3] else OPPOSITE[words]} the {other.concept}?", yes[3]))
    return [Question("verify", text, "yes" if right else "no") for text, right in asked]


def _what(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [Question("what", f"What is {at(t.place)}?", t.concept) for t in scene.things]


def _where(scene: Scene, rng: np.random.Generator) -> list[Question]:
    asked = [Question("where", f"Where is the {thing.concept}?", thing.place) for thing in _singles(scene)]
    return [q for q in asked if rng.random() * _weight(q.answer) < _CORNER_WEIGHT]


def _relation(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """Where one thing alone stands so to another."""
    related = _relations(scene)
    alone = Counter((words, other) for _, words, other in related)
    return [
        Question("relation", f"What is {words} the {other.concept}?", thing.concept)
        for thing, words, other in related
        if alone[words, other] == 1 and other in _singles(scene)
    ]


KINDS: tuple[Callable[[Scene, np.random.Generator], list[Question]], ...] = (
    _color, _verify, _what, _count, _where, _relation,
)  # fmt: skip
_ALWAYS = 3  # the first kinds, of which every scene has questions


def balanced_questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions about a scene: kinds in random order, one of each before a second of any.

    In place of a kind that the scene has none of, one of the first three is asked: else the answers of others would be
    more frequent in scenes that have few kinds. Fewer than `count` where the scene gives no more.
    """
    left = [[asked[i] for i in rng.permutation(len(asked))] for asked in (kind(scene, rng) for kind in KINDS)]
    chosen: list[Question] = []
    while len(chosen) < count and any(left):
        for kind in rng.permutation(len(KINDS)):
            source = left[kind] or left[int(rng.integers(_ALWAYS))]
            if source and len(chosen) < count:
                chosen.append(source.pop())
    return chosen


def yes_or_no(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions about a scene whose answer is yes or no, each as often; of a classic scene too.

    One may come twice: were those left out, "no" would be more frequent, for there is more that is not so.
    """
    asked: list[Question] = []
    while len(asked) < count:
        asked += _verify(scene, rng)
    return [asked[i] for i in rng.permutation(len(asked))[:count]]


def _singles(scene: Scene) -> list[Thing]:
    """The things of which there are no two."""
    counts = Counter(thing.concept for thing in scene.things)
    return [thing for thing in scene.things if counts[thing.concept] == 1]


def _absent(scene: Scene, rng: np.random.Generator) -> str:
    return _one([c for c in CONCEPTS if c not in {thing.concept for thing in scene.things}], rng)


def _relations(scene: Scene) -> list[tuple[Thing, str, Thing]]:
    """How things stand to each other: beside each other in a row; above where columns are at most one apart."""
    related = []
    for one, other in permutations(scene.things, 2):
        (row, column), (other_row, other_column) = PLACES[one.place], PLACES[other.place]
        if row == other_row:
            related.append((one, "to the left of" if column < other_column else "to the right of", other))
        elif abs(column - other_column) <= 1:
            related.append((one, "above" if row < other_row else "below", other))
    return related


def _weight(place: str) -> float:
    return _PLACE_WEIGHTS.get(place, _CORNER_WEIGHT)


def _elsewhere(place: str, rng: np.random.Generator) -> str:
    """Another place, each as often as things stand there."""
    others = [other for other in PLACES if other != place]
    weights = np.array([_weight(other) for other in others])
    return others[int(rng.choice(len(others), p=weights / weights.sum()))]


def _one(options: Sequence[Any], rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]
