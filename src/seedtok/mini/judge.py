"""The scene judge: an independent classifier that says what stands where in a picture of the mini world."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seedtok.core.checkpoint import WEIGHTS, checkpoint_folder, load_model, read_config, write_checkpoint
from seedtok.core.kinds import JUDGE
from seedtok.core.records import from_record
from seedtok.mini.world.concepts import BACKGROUNDS, CONCEPTS, PLACES
from seedtok.mini.world.scenes import GRID, Scene
from seedtok.tokenizer.vision import VisionConfig, VisionTransformer

VERSION = 1
NOTHING = 0  # the class of an empty place; concepts follow in their order


@dataclass(frozen=True)
class JudgeConfig:
    vision: VisionConfig = field(
        default_factory=lambda: VisionConfig(
            image_size=128, patch_size=16, width=192, layers=3, heads=3, mlp_width=768, patch_bias=True
        )
    )
    concepts: tuple[str, ...] = CONCEPTS
    backgrounds: tuple[str, ...] = tuple(BACKGROUNDS)


class SceneJudge(nn.Module):
    """Pixels in -1..1 -> what stands in each of the nine places, and the background."""

    def __init__(self, config: JudgeConfig | None = None):
        super().__init__()
        self.config = config or JudgeConfig()
        width = self.config.vision.width
        self.vision = VisionTransformer(self.config.vision)
        self.norm = nn.LayerNorm(width)
        self.thing = nn.Linear(width, 1 + len(self.config.concepts))
        self.background = nn.Linear(width, len(self.config.backgrounds))

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 9 c"], Float[Tensor, "b k"]]:
        """Logits of (nothing or a concept) by place, in the order of `PLACES`, and of backgrounds."""
        states = self.norm(self.vision(images))
        return self.thing(places_of(states[:, 1:])), self.background(states[:, 0])

    @torch.no_grad()
    def seen(self, images: Float[Tensor, "b 3 h w"], scenes: list[Scene]) -> tuple[list[list[bool]], list[str]]:
        """Of pictures, which things of the scenes that they should show are there, and which background each has."""
        things, backgrounds = (logits.argmax(-1).cpu() for logits in self(images))
        found = [
            [int(seen[places.index(t.place)]) == 1 + self.config.concepts.index(t.concept) for t in scene.things]
            for places in [list(PLACES)]
            for seen, scene in zip(things, scenes, strict=True)
        ]
        return found, [self.config.backgrounds[int(b)] for b in backgrounds]

    def verdict(self, images: Float[Tensor, "b 3 h w"], scenes: list[Scene]) -> Verdict:
        """Compares pictures with the scenes they should show."""
        found, backgrounds = self.seen(images, scenes)
        right = [color == scene.background for color, scene in zip(backgrounds, scenes, strict=True)]
        return Verdict(sum(map(sum, found)), sum(map(len, found)), sum(right), len(right))

    def save_pretrained(self, folder: str | Path) -> None:
        with checkpoint_folder(Path(folder)) as new:
            write_checkpoint(new, JUDGE, VERSION, asdict(self.config), self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SceneJudge:
        """Reads what `save_pretrained` wrote; raises CheckpointError for anything else."""
        folder = Path(folder)
        config = read_config(folder, JUDGE, VERSION)
        return load_model(lambda: cls(from_record(JudgeConfig, config, "a scene judge")), config, folder / WEIGHTS)


def places_of(patches: Float[Tensor, "b n d"]) -> Float[Tensor, "b 9 d"]:
    """Mean state of the patches that each place may cover, on the 8 x 8 grid of a scene's cells."""
    rows = patches.unflatten(1, (GRID, GRID))
    return torch.stack([rows[:, 2 * r : 2 * r + 4, 2 * c : 2 * c + 4].mean((1, 2)) for r, c in PLACES.values()], 1)


@dataclass(frozen=True)
class Verdict:
    """Counts of things found where they should be, and of backgrounds of the right colour."""

    things_right: int
    things: int
    backgrounds_right: int
    backgrounds: int

    def __add__(self, other: Verdict) -> Verdict:
        return Verdict(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def thing_share(self) -> float:
        """In percent."""
        return 100 * self.things_right / max(1, self.things)

    @property
    def background_share(self) -> float:
        """In percent."""
        return 100 * self.backgrounds_right / max(1, self.backgrounds)


def labels(scenes: list[Scene]) -> tuple[Tensor, Tensor]:
    """The right answers: (B, 9) classes by place, (B,) backgrounds."""
    places, colors = list(PLACES), list(BACKGROUNDS)
    things = torch.full((len(scenes), len(places)), NOTHING)
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            things[i, places.index(thing.place)] = 1 + CONCEPTS.index(thing.concept)
    return things, torch.tensor([colors.index(s.background) for s in scenes])
