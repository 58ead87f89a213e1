"""Questions about scenes: what is asked has the answer that the scene gives."""

import hashlib
import re
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from seedtok.mini.world.balanced import yes_or_no
from seedtok.mini.world.blind import blind_answers, blind_prior, wording
from seedtok.mini.world.concepts import PLACES, PLURALS
from seedtok.mini.world.questions import Question, questions
from seedtok.mini.world.scenes import VARIED, Scene, Thing, scene_stream

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


def test_questions_about_classic_scenes_are_what_they_always_were():
    """As when the shipped weights were trained."""
    asked = (questions(s, np.random.default_rng(i), 5) for i, s in enumerate(islice(scene_stream("test", 0), 400)))
    digest = hashlib.sha256("".join(map(repr, asked)).encode()).hexdigest()
    assert digest == "95ad6af5434961648d75e5e03dbde0bed3ad76c763a379d1ba27a246e6be4ed5"


# ---------------------------------------------------------------- about scenes with a look


@pytest.fixture(scope="module")
def balanced() -> list[tuple[Scene, Question]]:
    """Every question about many scenes of the varied world."""
    scenes = islice(scene_stream("train", 1, world=VARIED), 2000)
    return [(s, q) for i, s in enumerate(scenes) for q in questions(s, np.random.default_rng(i), 30)]


def true_answer(scene: Scene, text: str) -> str:
    """The answer to a question, found by other means: the positions of things, as numbers."""
    spots = [(t.concept, *divmod(3 * PLACES[t.place][0] + PLACES[t.place][1], 3)) for t in scene.things]
    names = {"in the middle": "middle", "on the left": "left", "on the right": "right"}
    stands = {
        "to the left of": lambda a, b: a[1] == b[1] and a[2] < b[2],
        "to the right of": lambda a, b: a[1] == b[1] and a[2] > b[2],
        "above": lambda a, b: a[1] < b[1] and abs(a[2] - b[2]) <= 1,
        "below": lambda a, b: a[1] > b[1] and abs(a[2] - b[2]) <= 1,
    }

    def said(right: bool) -> str:
        return "yes" if right else "no"

    def only(found: list[str]) -> str:
        assert len(found) == 1, text
        return found[0]

    singular = {plural: noun for noun, plural in PLURALS.items()}
    if text == "What color is the background?":
        return scene.background
    if text == "How many things are there?":
        return str(len(spots))
    if match := re.fullmatch("How many (.*) are there[?]", text):
        return str(sum(name == singular[match[1]] for name, *_ in spots))
    if match := re.fullmatch("Is there an? (.*)[?]", text):
        return said(match[1] in [name for name, *_ in spots])
    if match := re.fullmatch("Is the background (.*)[?]", text):
        return said(match[1] == scene.background)
    if match := re.fullmatch("Where is the (.*)[?]", text):
        return only([t.place for t in scene.things if t.concept == match[1]])
    if match := re.fullmatch(f"(?:What is|Is the (.*)) ({'|'.join(stands)}) the ([a-z]+)[?]", text):
        other = next(spot for spot in spots if spot[0] == match[3])
        there = [spot[0] for spot in spots if stands[match[2]](spot, other)]
        return said(match[1] in there) if match[1] else only(there)
    match = re.fullmatch("(?:What is|Is the ([a-z]+)) (.*)[?]", text)
    assert match, text
    place = names.get(match[2], match[2].removeprefix("at the "))
    there = [t.concept for t in scene.things if t.place == place]
    return said(match[1] in there) if match[1] else only(there)


def test_every_answer_is_right(balanced):
    assert {q.kind for _, q in balanced} == {"color", "count", "verify", "what", "where", "relation"}
    for scene, question in balanced:
        assert question.answer == true_answer(scene, question.text), (scene, question)


def test_questions_of_yes_or_no_alone_are_right_and_as_often_yes_in_each_wording():
    answers: dict[str, Counter] = {}
    for i, scene in enumerate(islice(scene_stream("train", 3, world=VARIED), 500)):
        asked = yes_or_no(scene, np.random.default_rng(i), 6)
        assert len(asked) == 6
        assert all(question.answer == true_answer(scene, question.text) for question in asked)
        for question in asked:
            answers.setdefault(" ".join(question.text.split()[:2]), Counter())[question.answer] += 1
    assert set(answers) == {"Is there", "Is the"}
    assert all(0.45 < counts["yes"] / counts.total() < 0.55 for counts in answers.values())


def test_no_wording_gives_its_answer_away(balanced):
    answers: dict[str, Counter[str]] = {}
    for _, question in balanced:
        answers.setdefault(wording(question.text), Counter())[question.answer] += 1
    assert len(answers) == 9 + 4 + 1 + 1 + 2 + 1 + 8 + 9 + 4
    for text, counts in answers.items():
        share = counts.most_common(1)[0][1] / counts.total()
        if text.startswith("Is "):
            assert share < 0.5 + 2.5 / counts.total() ** 0.5, text
        elif text.startswith("How many"):
            assert share < 1 / len(counts) + 0.05, text
        else:
            assert share < 0.16, text


def test_one_question_a_scene_has_a_low_blind_prior():
    asked, others = (
        [
            question
            for i, scene in enumerate(islice(scene_stream("train", seed, world=VARIED), 1500))
            for question in questions(scene, np.random.default_rng(i), 1)
        ]
        for seed in (2, 3)
    )
    assert len(asked) == 1500
    prior = blind_prior(asked, blind_answers(others))
    assert prior["all"] < 25
    assert prior["verify"] < 58
    assert prior["count"] < 42
    assert prior["where"] < 20
    assert max(prior["what"], prior["relation"]) < 4
    assert set(prior) == {"all", "color", "count", "verify", "what", "where", "relation"}


def test_a_blind_guesser_says_what_is_said_most():
    asked = [Question("count", "How many bees are there?", answer) for answer in ("2", "2", "1")]
    asked += [Question("verify", "Is there an owl?", "no"), Question("verify", "Is there a fox?", "no")]
    assert blind_answers(asked) == {"How many # are there?": "2", "Is there a #?": "no"}
    seen = [Question("count", "How many foxes are there?", "1"), Question("verify", "Is there a bee?", "no")]
    assert blind_prior(seen, blind_answers(asked)) == {"all": 50.0, "count": 0.0, "verify": 100.0}


def test_questions_of_varied_scenes_are_a_function_of_their_seed():
    for i, scene in enumerate(islice(scene_stream("test", 0, world=VARIED), 50)):
        some = questions(scene, np.random.default_rng(i), 3)
        assert some == questions(scene, np.random.default_rng(i), 3)
        assert len(some) == 3
        assert len({q.text for q in questions(scene, np.random.default_rng(i), 30)}) >= 5
