"""Questions about a scene of the mini world, each with its one right answer, in the style of VQA and GQA.

About classic scenes they are those that the shipped weights were trained on. About scenes with a look they are
balanced, so that one who does not see the picture is seldom right: see `balanced_questions`.
"""

from collections import Counter
from collections.abc import Callable

import numpy as np

from seedtok.mini.world.balanced import Question, balanced_questions
from seedtok.mini.world.captions import an, at
from seedtok.mini.world.concepts import CONCEPTS, PLURALS
from seedtok.mini.world.scene import Scene

__all__ = ["KINDS", "Question", "answer_type", "questions"]
BESIDE = {("left", "right"): ("to the left of", "to the right of"), ("top", "bottom"): ("above", "below")}


def _color(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [Question("color", "What color is the background?", scene.background)]


def _count(scene: Scene, rng: np.random.Generator) -> list[Question]:
    counts = Counter(t.concept for t in scene.things)
    asked = [Question("count", f"How many {PLURALS[c]} are there?", str(n)) for c, n in counts.items()]
    return [*asked, Question("count", "How many things are there?", str(len(scene.things)))]


def _exists(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One with yes for an answer and one with no."""
    there = [t.concept for t in scene.things]
    other = [c for c in CONCEPTS if c not in there]
    yes, no = there[int(rng.integers(len(there)))], other[int(rng.integers(len(other)))]
    return [Question("exists", f"Is there {an(c)}?", word) for c, word in ((yes, "yes"), (no, "no"))]


def _what(scene: Scene, rng: np.random.Generator) -> list[Question]:
    return [Question("what", f"What is {at(t.place)}?", t.concept) for t in scene.things]


def _where(scene: Scene, rng: np.random.Generator) -> list[Question]:
    counts = Counter(t.concept for t in scene.things)
    return [Question("where", f"Where is the {t.concept}?", t.place) for t in scene.things if counts[t.concept] == 1]


def _relation(scene: Scene, rng: np.random.Generator) -> list[Question]:
    words = BESIDE.get(tuple(t.place for t in scene.things))  # type: ignore[arg-type]
    if words is None or scene.things[0].concept == scene.things[1].concept:
        return []
    first, second = (t.concept for t in scene.things)
    return [
        Question("relation", f"What is {words[0]} the {second}?", first),
        Question("relation", f"What is {words[1]} the {first}?", second),
    ]


KINDS: tuple[Callable[[Scene, np.random.Generator], list[Question]], ...] = (
    _color, _count, _exists, _what, _where, _relation,
)  # fmt: skip


def questions(scene: Scene, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions about a scene: kinds in random order, one of each before a second of any.

    Fewer where the scene gives no more.
    """
    if scene.look is not None:
        return balanced_questions(scene, rng, count)
    asked = [kind(scene, rng) for kind in KINDS]
    left = [list(rng.permutation(len(made))) for made in asked]
    chosen: list[Question] = []
    while len(chosen) < count and any(left):
        for kind in rng.permutation(len(KINDS)):
            if left[kind] and len(chosen) < count:
                chosen.append(asked[kind][int(left[kind].pop())])
    return chosen


def answer_type(answer: str) -> str:
    """VQAv2's: "yes/no", "number" or "other"."""
    return "yes/no" if answer in ("yes", "no") else "number" if answer.isdigit() else "other"
