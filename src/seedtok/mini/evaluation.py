"""The mini world as an evaluation takes it: test scenes with exact captions and questions, and a scorer that knows."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from seedtok.core.errors import DataError
from seedtok.core.images import load_image
from seedtok.core.kinds import SCENE_CLIP
from seedtok.data.entries import Entry, Question, SetInfo
from seedtok.data.public_sets import SETS
from seedtok.evaluation.clip_scores import ClipImages, ImageFeatures
from seedtok.evaluation.dataset import Counts, added
from seedtok.evaluation.foreign import identity_of, loader_for
from seedtok.evaluation.preprocessing import Preprocessing
from seedtok.evaluation.retrieval import near_miss_row
from seedtok.mini.judge import SceneJudge
from seedtok.mini.scene_clip import SceneClip
from seedtok.mini.world import questions
from seedtok.mini.world.blind import blind_answers, blind_prior
from seedtok.mini.world.layouts import layout_choices, layout_recalls, told_layout
from seedtok.mini.world.near_misses import changed, near_misses
from seedtok.mini.world.published import PEOPLE, PUBLISHED, entry_of, jpeg, questions_of
from seedtok.mini.world.scenes import Scene, Thing, caption, render, wordings
from seedtok.mini.world.sets import WITH_NEAR_MISSES, scene_set
from seedtok.mini.world.told import told_right

SIZE = 128  # pixels a side


class MiniSet:
    """`count` scenes of one of the world's sets, each with a question about it; by default test scenes.

    `name` and `classic` as for `sets.scene_set`. NAME+near-misses has after the scenes of NAME one for each with one
    thing, place, count or colour changed, but for those that are there already: in retrieval, candidates alone.
    A picture has its canonical caption, or with `every_wording` all of them, the canonical one first.
    """

    def __init__(
        self, count: int, seed: int = 0, every_wording: bool = False, name: str = "test", classic: bool = True
    ) -> None:
        self.scenes = scene_set(name.removesuffix(WITH_NEAR_MISSES), count, seed, classic)
        self.queries = len(self.scenes)
        self.near: list[tuple[int, str]] = []  # of each query: which scene is its near miss, and what it differs in
        if name.endswith(WITH_NEAR_MISSES):
            queries, misses = self.scenes, near_misses(self.scenes, seed)
            every = {_content(scene): scene for scene in queries}
            for scene in misses:
                every.setdefault(_content(scene), scene)
            self.scenes = list(every.values())
            places = {content: place for place, content in enumerate(every)}
            self.near = [
                (places[_content(miss)], changed(scene, miss)) for scene, miss in zip(queries, misses, strict=True)
            ]
        self.seed, self.every_wording, self.name = seed, every_wording, name

    @property
    def info(self) -> SetInfo:
        return self._info

    @cached_property
    def _info(self) -> SetInfo:
        record = [[scene.to_json() for scene in self.scenes], self.seed, self.every_wording]
        counts = {"pictures": len(self), "captions": sum(len(self._captions(i)) for i in range(len(self)))}
        fingerprint = hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
        return SetInfo("mini", self.name, fingerprint, counts | {"questions": len(self)})

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Entry:
        entry = replace(self._entry(index), is_query=index < self.queries)
        if index >= len(self.near):
            return entry
        place, what = self.near[index]
        return replace(entry, near_miss=(self._entry(place).id, what))

    def _entry(self, index: int) -> Entry:
        """A scene as it is, without what it is among others."""
        return Entry(index, f"{index}.png", self._captions(index), (self._questions[index],))

    def __iter__(self) -> Iterator[Entry]:
        return (self[index] for index in range(len(self)))

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(render(self.scenes[index], SIZE))

    def _captions(self, index: int) -> tuple[str, ...]:
        scene = self.scenes[index]
        count = wordings(scene) if self.every_wording else 1
        return tuple(dict.fromkeys(caption(scene, wording) for wording in range(count)))

    @cached_property
    def asked_of(self) -> list[tuple[Scene, questions.Question]]:
        """One question a scene, all kinds in turn."""
        rng = np.random.default_rng([self.seed, 3])
        return [(scene, questions.questions(scene, rng, 1)[0]) for scene in self.scenes]

    @property
    def asked(self) -> list[questions.Question]:
        """The questions of all scenes."""
        return [question for _, question in self.asked_of]

    @cached_property
    def _questions(self) -> list[Question]:
        return [
            Question(i, q.text, (q.answer,) * PEOPLE, questions.answer_type(q.answer), q.kind)
            for i, q in enumerate(self.asked)
        ]


class PublishedSet(MiniSet):
    """Scenes as a public data set would have them: what `data scenes --format FORM` writes and `data prepare` reads."""

    def __init__(self, form: str, count: int, seed: int = 0, name: str = "test") -> None:
        if form not in PUBLISHED:
            raise DataError(f"no format {form!r}: choose {', '.join(PUBLISHED)}")
        super().__init__(count, seed, name=name, classic=False)
        self.form = form

    @cached_property
    def _info(self) -> SetInfo:
        record = [self.form, [scene.to_json() for scene in self.scenes], self.seed]
        fingerprint = hashlib.sha256(json.dumps(record).encode()).hexdigest()[:16]
        counts = {"pictures": len(self), "captions": 0, "questions": 0}
        for entry in self:
            counts["captions"] += len(entry.captions)
            counts["questions"] += len(entry.questions)
        keys = SETS[self.form].answer_keys
        return SetInfo("mini", f"{self.name}={self.form}", fingerprint, counts, answer_keys=keys)

    def _entry(self, index: int) -> Entry:
        return entry_of(self.form, self.scenes[index], self.seed, index)

    def picture(self, index: int) -> Image.Image:
        return load_image(jpeg(self.scenes[index], SIZE))

    @cached_property
    def asked_of(self) -> list[tuple[Scene, questions.Question]]:
        """The questions of each scene, as many as the data set has of a picture."""
        numbered = enumerate(self.scenes)
        return [(scene, question) for i, scene in numbered for question in questions_of(self.form, scene, self.seed, i)]


def _content(scene: Scene) -> tuple[str, frozenset[Thing]]:
    """What captions say of a scene."""
    return scene.background, frozenset(scene.things)


def blind_accuracy(data: MiniSet, told: int = 4000) -> dict[str, float]:
    """What a set's questions are answered right, in percent, by one who has seen no picture.

    That is the most frequent answer to each wording, counted over the questions of `told` training scenes.
    """
    return _accuracy(data.asked, _training(data, told).asked)


def layout_accuracy(data: MiniSet, told: int = 10_000) -> dict[str, float]:
    """What a set's questions are answered right, in percent, by one who sees background and taken places, but no thing.

    That is the most frequent answer to each wording among the questions of `told` training scenes: of that background
    where the question is about it, or else of things in the same places.
    """
    training = _training(data, told)
    return _accuracy(
        *([told_layout(question, scene) for scene, question in some.asked_of] for some in (data, training))
    )


def answer_floors(data: MiniSet) -> dict[str, dict[str, float]]:
    """How many of a set's questions are answered right, in percent: blindly, and by their layout alone."""
    return {"blind_prior": blind_accuracy(data), "layout": layout_accuracy(data)}


def _training(data: MiniSet, count: int) -> MiniSet:
    return MiniSet(count, data.seed, name="train", classic=data.scenes[0].look is None)


def _accuracy(asked: list[questions.Question], known: list[questions.Question]) -> dict[str, float]:
    prior = blind_prior(asked, blind_answers(known))
    return {"accuracy": prior.pop("all"), **prior}


def recall_floors(data: MiniSet) -> dict[str, dict[str, float]]:
    """What `evaluate_retrieval` would give one who sees the layout of pictures alone, with its rows of near misses."""
    pairs: dict[str, list[tuple[Scene, Scene]]] = {}
    for scene, (place, what) in zip(data.scenes, data.near, strict=False):
        pairs.setdefault(what, []).append((scene, data.scenes[place]))
    near = {near_miss_row("layout", what): layout_choices(some) for what, some in sorted(pairs.items())}
    return {"layout": layout_recalls(data.scenes, data.queries, len(data[0].captions)), **near}


class SceneScorer:
    """Counts things and backgrounds that the scene judge finds in drawings, and captions that say all of a scene."""

    def __init__(self, data: MiniSet, judge: SceneJudge | None = None) -> None:
        self.data, self.judge = data, judge

    def score_drawings(self, drawings: Sequence[Image.Image], indices: Sequence[int]) -> Counts:
        assert self.judge is not None, "a scorer of drawings has a judge"
        side = self.judge.config.vision.image_size
        square = [picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for picture in drawings]
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in square])).permute(0, 3, 1, 2)
        device = self.judge.thing.weight.device
        seen = self.judge.verdict(pixels.to(device).float() / 127.5 - 1, [self.data.scenes[i] for i in indices])
        return {
            "things": (seen.things_right, seen.things),
            "background": (seen.backgrounds_right, seen.backgrounds),
        }

    def score_captions(self, captions: Sequence[str], indices: Sequence[int]) -> Counts:
        counts: Counts = {}
        for text, i in zip(captions, indices, strict=True):
            counts = added(counts, told_right(text, self.data.scenes[i]))
        return counts


class SceneFeatures:
    """Image features of a CLIP of scenes, of unit length."""

    def __init__(self, clip: SceneClip, identity: dict[str, str] | None = None) -> None:
        self.clip, self.identity = clip.eval(), identity or {}
        self.preprocessing = Preprocessing(clip.config.vision.image_size)

    @property
    def settings(self) -> dict[str, Any]:
        """For the record."""
        return {**self.identity, "preprocessing": self.preprocessing.settings}

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Features of pictures, on the CPU."""
        pixels = self.preprocessing(pictures).to(self.clip.positions.device)
        return self.clip.embed_images(self.clip.image_states(pixels)).cpu()


def load_features(name: str | Path, device: torch.device | str = "cpu") -> ImageFeatures:
    """What drawings of scenes are compared by: a CLIP of scenes, or a CLIP of transformers, by its folder or hub id.

    Raises CheckpointError for anything else.
    """

    def of_scenes() -> ImageFeatures:
        return SceneFeatures(SceneClip.from_pretrained(name).to(device), identity_of(name))

    loaders = {SCENE_CLIP: of_scenes, "clip": lambda: ClipImages.from_pretrained(name, device)}
    return loader_for(name, loaders, "comparing pictures")()
