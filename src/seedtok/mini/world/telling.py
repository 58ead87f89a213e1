"""Texts about scenes without a picture: captions, lists, questions and answers, which the mini OPT is pretrained on."""

from collections import Counter

import numpy as np

from seedtok.lm.prompts import question_prompt
from seedtok.mini.world.questions import Question, questions
from seedtok.mini.world.scenes import CLASSIC, VARIED, Scene, caption, sample_scene, wordings
from seedtok.training.settings import Settings


class Telling(Settings):
    """What a text holds."""

    wordings: int = 2  # captions of a scene, at most: what teaches to look back
    questions: int = 6  # that may follow
    scenes: int = 4  # at most, in one text
    listed: float = 0.5  # share of texts that also list what is where
    all_learnt: float = 0.25  # share of texts learnt word by word; of the others, what follows from what was said


def telling(scene: Scene, rng: np.random.Generator, holds: Telling) -> list[tuple[str, bool]]:
    """Some scenes, each told once or more, and questions about them with their answers: parts, and which to learn.

    Where the scenes are several, to name all that was said is a poor guess at what is said next: what teaches to tell
    which thing goes where. What is drawn by chance, the first telling and what is asked, can only be learnt as a
    distribution.
    """
    whole = bool(rng.random() < holds.all_learnt)
    world = CLASSIC if scene.look is None else VARIED
    scenes = [scene, *(sample_scene(rng, "train", world) for _ in range(int(rng.integers(holds.scenes))))]
    told = [_wordings(each, rng, int(rng.integers(1, holds.wordings + 1)), holds.listed) for each in scenes]
    parts = [(f" {first}", whole) for first, *_ in told]
    again = [text for _, *more in told for text in more]
    parts += [(f" {again[i]}", True) for i in rng.permutation(len(again))]
    for q in _asked(scenes, rng, int(rng.integers(holds.questions + 1))):
        parts += [(f" {question_prompt(q.text)}", whole), (f" {q.answer}", True)]
    if not any(learnt for _, learnt in parts):
        return telling(scene, rng, holds)
    return [(parts[0][0].lstrip(), whole), *parts[1:]]


def inventory(scene: Scene, rng: np.random.Generator) -> str:
    """What is where, as a list: each noun stands beside its place, which captions seldom have it do."""
    things = [f"{t.place}: {t.concept}" for t in rng.permutation(np.array(scene.things, dtype=object))]
    return ", ".join([*things, f"background: {scene.background}"]) + "."


def _wordings(scene: Scene, rng: np.random.Generator, count: int, listed: float) -> list[str]:
    """A scene in `count` wordings, and perhaps as a list."""
    told = [caption(scene, int(p)) for p in rng.permutation(wordings(scene))[:count]]
    if rng.random() < listed:
        told.insert(int(rng.integers(len(told) + 1)), inventory(scene, rng))
    return told


def _asked(scenes: list[Scene], rng: np.random.Generator, count: int) -> list[Question]:
    """Questions about a scene; about one of several, such as say which they mean."""
    if len(scenes) == 1:
        return questions(scenes[0], rng, count)
    things = Counter(t.concept for scene in scenes for t in scene.things)
    asked = [q for scene in scenes for q in questions(scene, rng, 20) if q.kind in ("where", "relation")]
    clear = [q for q in asked if all(n == 1 or name not in q.text.rstrip("?").split() for name, n in things.items())]
    return [clear[i] for i in rng.permutation(len(clear))[:count]]
