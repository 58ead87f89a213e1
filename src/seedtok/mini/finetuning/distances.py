"""How far pictures are from those that a fine-tuned tokenizer was trained on: its own `Familiarity`."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from seedtok.data.held_out import Part
from seedtok.data.prepared import ShardSet
from seedtok.tokenizer.familiarity import Familiarity, pooled_features
from seedtok.tokenizer.seed import SeedTokenizer


def measure_distances(folder: Path, sources: Iterable[Path], held_out: float) -> None:
    """Fits the `Familiarity` of the tokenizer in a folder to the training pictures of all sources, evenly.

    Sources are folders of shards. Of the pictures held out of each, at most 1 in 200 is far.
    """
    seed = SeedTokenizer.from_pretrained(folder)
    training = [pooled_features(seed, _pictures(source, Part(held_out, False))) for source in sources]
    most = max(map(len, training))
    even = torch.cat([own.repeat(-(-most // len(own)), 1)[:most] for own in training])
    held = [pooled_features(seed, _pictures(source, Part(held_out, True))) for source in sources]
    found = Familiarity.fit(even, held[0], components=even.shape[1] // 2)
    for others in held[1:]:
        found.widen(others)
    found.save(folder)


def _pictures(source: Path, part: Part) -> Iterator[Image.Image]:
    data = ShardSet(source, part=part)
    return (data.picture(index) for index in range(len(data)))


def share_far(seed: SeedTokenizer, pictures: Iterable[Image.Image]) -> float:
    """The share, 0 to 1, of pictures that are far from those of training; 0 where a tokenizer cannot tell."""
    if seed.familiarity is None:
        return 0.0
    distances: Tensor = seed.familiarity.squared(pooled_features(seed, pictures)) / seed.familiarity.threshold.float()
    return float((distances > 1).float().mean())
