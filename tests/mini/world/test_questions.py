"""Questions about scenes: what is asked has the answer that the scene gives."""

from collections import Counter

import numpy as np

from seedtok.mini.world.questions import questions
from seedtok.mini.world.scenes import Scene, Thing, scene_stream

FOX_AND_CAKE = Scene("blue", (Thing("fox", "left"), Thing("cake", "right")))


def asked(scene: Scene, count: int = 100) -> dict[str, str]:
    return {q.text: q.answer for q in questions(scene, np.random.default_rng(0), count)}


def test_all_that_can_be_asked():
    got = asked(FOX_AND_CAKE)
    no = next(text for text, answer in got.items() if answer == "no")
    assert no.startswith("Is there a")
    assert not {"Is there a fox?", "Is there a cake?"} <= {no}
    yes = next(text for text, answer in got.items() if answer == "yes")
    assert yes in ("Is there a fox?", "Is there a cake?")
    assert {k: v for k, v in got.items() if v not in ("yes", "no")} == {
        "What color is the background?": "blue",
        "How many foxes are there?": "1",
        "How many cakes are there?": "1",
        "How many things are there?": "2",
        "What is on the left?": "fox",
        "What is on the right?": "cake",
        "Where is the fox?": "left",
        "Where is the cake?": "right",
        "What is to the left of the cake?": "fox",
        "What is to the right of the fox?": "cake",
    }


def test_no_question_has_two_answers():
    twins = Scene("red", (Thing("bee", "left"), Thing("bee", "right")))
    got = asked(twins)
    assert not any(text.startswith(("Where is", "What is to the")) for text in got)
    assert got["How many bees are there?"] == "2"
    assert got["What is on the left?"] == "bee"


def test_the_same_seed_asks_the_same_and_kinds_are_even():
    stream = scene_stream("test", 0)
    scenes = [next(stream) for _ in range(300)]
    kinds, answers = Counter(), Counter()
    for i, scene in enumerate(scenes):
        some = questions(scene, np.random.default_rng(i), 2)
        assert some == questions(scene, np.random.default_rng(i), 2)
        assert len(some) == 2
        assert some[0].kind != some[1].kind
        kinds.update(q.kind for q in some)
        answers.update(q.answer for q in some if q.kind == "exists")
    assert min(kinds[k] for k in ("color", "count", "exists", "what", "where")) > 60
    assert 0.6 < answers["yes"] / answers["no"] < 1.7
