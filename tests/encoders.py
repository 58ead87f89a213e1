"""Encoders for the processes that encode shards, which have to import them."""

import os
import time
from pathlib import Path

import numpy as np
from PIL import Image

from seedtok.core.errors import CheckpointError
from seedtok.core.images import Square


class StubEncoder:
    """Codes that tell images apart: some of their pixels."""

    codebook_id = "stub"
    fingerprint = "stub"
    dtype = "float32"
    square = Square(64)
    threads = 1

    def __init__(self) -> None:
        self.far = 0

    def __call__(self, images: list[Image.Image]) -> np.ndarray:
        self.far += len(images)
        return np.stack([np.asarray(image).reshape(-1)[:: 64 * 64 * 3 // 32][:32].astype(np.int64) for image in images])


class KilledEncoder(StubEncoder):
    def __call__(self, images: list[Image.Image]) -> np.ndarray:
        os.kill(os.getpid(), 9)
        return super().__call__(images)


class SlowEncoder(StubEncoder):
    """Writes the number of its process to the folder SEEDTOK_TEST, and then takes a minute."""

    def __call__(self, images: list[Image.Image]) -> np.ndarray:
        folder = Path(os.environ["SEEDTOK_TEST"])
        (folder / "new").write_text(str(os.getpid()))
        (folder / "new").rename(folder / "pid")
        time.sleep(60)
        return super().__call__(images)


def fail() -> StubEncoder:
    raise CheckpointError("no such checkpoint: none")
