"""The mini world as a data source: scenes rendered while training, or read back from shards and codes."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from seedtok.core.errors import ConfigError, DataError
from seedtok.data.batches import ALL_SAMPLES, Batch, Stride
from seedtok.mini.world.balanced import yes_or_no
from seedtok.mini.world.grammar import same_scene
from seedtok.mini.world.questions import questions
from seedtok.mini.world.scenes import CLASSIC, VARIED, Scene, Split, World, caption, render, scene_stream, wordings
from seedtok.mini.world.telling import Telling, telling
from seedtok.training.source import Data

REPLAYED = Telling(scenes=1)  # 96 % of such texts are shorter than a packed row of 128 tokens
# share of the samples with several questions whose questions are all answered by yes or no: what is learnt last
VERIFYING = 0.5


class SceneBatch(Batch):
    """A batch of whose metadata some, or all, hold a scene, as JSON under "scene"."""

    def right_captions(self, said: Sequence[str]) -> list[bool]:
        """Which captions of the first images are right: of a scene, those that say all of it in any wording."""
        scenes = [self._scene(i) for i in range(len(said))]
        plain = super().right_captions(said)
        return [same if s is None else same_scene(t, s) for t, s, same in zip(said, scenes, plain, strict=True)]

    def questions(self, index: int, rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
        """Up to `count` questions about a scene and their answers; of another image, stored ones.

        They are of random kinds or, in a share of the cases where there are several, of yes or no alone.
        """
        scene = self._scene(index)
        if scene is None:
            return super().questions(index, rng, count)
        asks = yes_or_no if count > 1 and rng.random() < VERIFYING else questions
        return [(asked.text, asked.answer) for asked in asks(scene, rng, count)]

    def replayed(self, index: int, rng: np.random.Generator) -> list[tuple[str, bool]]:
        """Of a scene, a text as the mini OPT was pretrained on, about that scene alone, without its picture."""
        scene = self._scene(index)
        return super().replayed(index, rng) if scene is None else telling(scene, rng, REPLAYED)

    def _scene(self, index: int) -> Scene | None:
        return scene_of(self.metadata[index]) if self.metadata else None


def scene_of(metadata: dict[str, Any]) -> Scene | None:
    """The scene that a sample's metadata holds as JSON under "scene"; None where it holds none."""
    record = metadata.get("scene")
    try:
        return None if record is None else Scene.from_json(record)
    except DataError:
        return None  # another data set's own field of that name


def scenes_of(batch: Batch) -> list[Scene] | None:
    """The scenes of a batch; None where a sample has none."""
    scenes = [scene for known in batch.metadata or [] if (scene := scene_of(known)) is not None]
    return scenes if scenes and len(scenes) == len(batch.captions) else None


def with_scenes(batch: Batch) -> Batch:
    """A batch as a SceneBatch, with the canonical wordings of its scenes; as it is where no sample has one."""
    scenes = [scene_of(known) for known in batch.metadata or []]
    if not any(scenes):
        return batch
    canonical = [text if scene is None else caption(scene) for text, scene in zip(batch.canonical, scenes, strict=True)]
    fields: dict[str, Any] = vars(batch) | {"canonical": canonical}
    return SceneBatch(**fields)


def to_batch(scenes: list[Scene], size: int, phrasings: list[int] | None = None) -> SceneBatch:
    """Renders scenes at size x size pixels, with captions in these wordings; None: in the canonical ones."""
    pixels = torch.from_numpy(np.stack([render(scene, size) for scene in scenes])).permute(0, 3, 1, 2)
    canonical = [caption(scene) for scene in scenes]
    captions = canonical if phrasings is None else [caption(s, p) for s, p in zip(scenes, phrasings, strict=True)]
    return SceneBatch(pixels, captions, canonical, [{"scene": scene.to_json()} for scene in scenes])


class SceneData(Data):
    """Scenes rendered while training; shards or codes, where they are given, are read as any other data.

    The scenes of such shards are found again in their metadata. Scenes are validated on scenes of the validation split,
    and so are shards and codes with `validation` "scenes".
    """

    validation: Annotated[float, Field(gt=0, lt=1)] | Literal["scenes"] | Path | None = None
    world: Literal["classic", "varied"] = "classic"  # OpenMoji's drawings on a grid, or many hands in varied looks
    hands: tuple[str, ...] = ()  # that draw varied scenes; none: all but those held out
    tidy: bool = False  # whether varied scenes are drawn upright, of one size, on whole cells
    crowded: float = Field(default=0.0, ge=0, le=1)  # share of varied training scenes with four things
    restyled: float = Field(default=0.0, ge=0, le=1)  # share of their things in other colours and proportions
    group: int = Field(default=1, ge=1)  # scenes in a row that are near copies of one another: hard negatives
    phrasing: Literal["random", "canonical"] = "random"

    def check(self) -> None:
        if self.world == "classic" and (self.crowded or self.restyled or self.hands or self.tidy):
            raise ConfigError(
                "data.hands, data.tidy, data.crowded and data.restyled are of varied scenes: set data.world=varied"
            )
        if self.tidy and self.restyled:
            raise ConfigError("things are restyled or, with data.tidy, as their artist draws them: set one of both")
        if self.shards is not None or self.codes is not None:
            super().check()
        elif isinstance(self.validation, float):
            raise ConfigError(
                "data.validation is a share, and there are no data.shards or data.codes to hold it out of"
            )

    def outline(self, batch_size: int, seed: int) -> Batch:
        batch = super().outline(batch_size, seed)
        if self.shards is not None or self.codes is not None:
            return batch
        scenes = islice(scene_stream("train", seed, world=self._world("train")), batch_size)
        return SceneBatch(batch.pixels, batch.captions, batch.canonical, [{"scene": s.to_json()} for s in scenes])

    def batches(
        self, batch_size: int, seed: int, stride: Stride = ALL_SAMPLES, skipped: Path | None = None
    ) -> Iterator[Batch]:
        if self.shards is not None or self.codes is not None:
            return map(with_scenes, super().batches(batch_size, seed, stride, skipped))
        return self._rendered("train", batch_size, seed, stride)

    def held_out(self, batch_size: int, count: int, seed: int, stride: Stride = ALL_SAMPLES) -> list[Batch]:
        if self.validation is None or self.validation == "scenes":
            return list(islice(self._rendered("validation", batch_size, seed, stride), count))
        return list(map(with_scenes, super().held_out(batch_size, count, seed, stride)))

    def _rendered(self, split: Split, batch_size: int, seed: int, stride: Stride) -> Iterator[Batch]:
        """Endless batches of scenes, each sample a function of (split, seed, its number in the stream) alone."""
        stream = scene_stream(split, seed, stride.first, stride.world_size, self.group, self._world(split))
        index = stride.first
        while True:
            scenes = [next(stream) for _ in range(batch_size)]
            phrasings = None
            if self.phrasing == "random":
                phrasings = [
                    int(np.random.default_rng([7, seed, index + i * stride.world_size]).integers(wordings(scene)))
                    for i, scene in enumerate(scenes)
                ]
            index += batch_size * stride.world_size
            yield to_batch(scenes, self.size, phrasings)

    def _world(self, split: Split) -> World:
        if self.world == "classic":
            return CLASSIC
        hands = self.hands or VARIED.hands
        return (
            World(hands, self.crowded, self.restyled, self.tidy) if split == "train" else World(hands, tidy=self.tidy)
        )
