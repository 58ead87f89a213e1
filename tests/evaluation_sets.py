"""Hand-made sets in their publishers' formats, prepared; and models that say or embed what a test wants."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import publishers
from seedtok.data.prepared import PreparedSet, prepare
from seedtok.evaluation.prompts import PAPER
from seedtok.lm.prompts import TextSettings

SPLITS = {"coco": "test", "flickr30k": "test", "nocaps": "val", "vqav2": "val", "gqa": "testdev_balanced"}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders that `data prepare` writes of each set."""
    folders = {}
    for name, split in SPLITS.items():
        source = tmp_path_factory.mktemp(name)
        write: dict[str, Callable[[Path], Path]] = {
            "coco": publishers.karpathy,
            "flickr30k": lambda folder: publishers.karpathy(folder, "flickr30k"),
            "nocaps": publishers.nocaps,
            "vqav2": publishers.vqav2,
            "gqa": publishers.gqa,
        }
        folders[name] = source / "set"
        prepare(name, write[name](source), source / "images", split, folders[name])
    return folders


@pytest.fixture
def sets(prepared: dict[str, Path]) -> dict[str, PreparedSet]:
    return {name: PreparedSet(folder) for name, folder in prepared.items()}


@pytest.fixture
def no_java(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)


class StubReader:
    """Says what a function makes of a picture's size and a prompt; notes what it was asked, and stops when told to."""

    row = "stub"
    prompts = PAPER

    def __init__(self, say: Callable[[tuple[int, int], str], str], stop_after: int | None = None) -> None:
        self.say, self.stop_after = say, stop_after
        self.asked: list[tuple[tuple[int, int], str]] = []
        self.decoding: TextSettings | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"preprocessing": "none"}

    def write(
        self, pictures: Sequence[Image.Image], prompts: Sequence[Sequence[str]], decoding: TextSettings
    ) -> list[str]:  # fmt: skip
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.decoding = decoding
        pairs = [(picture.size, text) for picture, own in zip(pictures, prompts, strict=True) for text in own]
        self.asked += pairs
        return [self.say(*pair) for pair in pairs]


class StubRetrieval:
    """Embeds pictures by their width and texts by their words, at random but always alike."""

    row = "stub"
    settings: dict[str, Any] = {"preprocessing": "none"}  # noqa: RUF012
    device = torch.device("cpu")

    def __init__(self, queries: int | None = None) -> None:
        self.queries = queries

    def embed(
        self, pictures: Sequence[Image.Image], texts: Sequence[str]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        shape = (4,) if self.queries is None else (self.queries, 4)
        images = torch.stack([_random(f"{picture.width}", shape) for picture in pictures])
        return {"": images}, torch.stack([_random(text, (4,)) for text in texts])


def _random(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(256**i * byte for i, byte in enumerate(key.encode()[-7:])))
    return torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip") / "clip"
    publishers.clip(folder)
    return folder
