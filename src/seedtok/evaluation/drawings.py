"""Drawings on disk, and their scores (Table 2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from seedtok.core.atomic import atomic_file
from seedtok.core.errors import DataError, ImageError
from seedtok.core.image_search import list_images
from seedtok.core.images import load_image
from seedtok.core.progress import progress
from seedtok.data.entries import Entry
from seedtok.evaluation.clip_scores import ImageFeatures, cosine_similarity_x100, floors
from seedtok.evaluation.dataset import Counts, EvaluationSet, Scorer, added, percent
from seedtok.evaluation.foreign import identity_of
from seedtok.evaluation.frechet import frechet_distance
from seedtok.evaluation.predictions import Record
from seedtok.tokenizer.image_decoder import FEW_GUIDANCE, FEW_STEPS, ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer

AT_ONCE = 16  # pictures that are scored together
NO_CAPTIONS = "the image decoder draws from image embeddings (unCLIP), not from captions"


def drawn(
    tokenizer: SeedTokenizer, conditions: Tensor, noise: int, dtype: torch.dtype | None = None,
    few_steps: ImageDecoder | None = None,
) -> list[Image.Image]:  # fmt: skip
    """Pictures of text features or generation embeddings (B, 77, width), by the tokenizer's image decoder.

    `noise` is the seed of a batch's noise; `dtype` as for `ImageDecoder.draw`. With `few_steps`, a latent consistency
    model, by that.
    """
    config, generator = tokenizer.config, torch.Generator().manual_seed(noise)
    if few_steps is not None:
        return few_steps.draw(conditions, FEW_STEPS, FEW_GUIDANCE, generator, dtype)
    return tokenizer.image_decoder.draw(conditions, config.num_inference_steps, config.guidance_scale, generator, dtype)


def noise_of(seed: int, number: int) -> int:
    """The seed of the noise that all ways of drawing a batch start from."""
    return (seed * 100_003 + number) % 2**63


def decoder_settings(tokenizer: SeedTokenizer, dtype: torch.dtype | None) -> dict[str, Any]:
    """How pictures are drawn, for the record."""
    config = tokenizer.config
    steps = {"steps": config.num_inference_steps, "guidance_scale": config.guidance_scale}
    decoder = identity_of(tokenizer.image_decoder_source, "diffusion")
    return {"image_decoder": decoder, **steps, "dtype": str(dtype or tokenizer.dtype).removeprefix("torch.")}


def save_drawings(pictures: Sequence[Image.Image], entries: Sequence[Entry], way: str, out: Path) -> list[Record]:
    """Writes drawings as WAY/ID.png; returns a record for each, with its image id and file name."""
    records = []
    (out / way).mkdir(parents=True, exist_ok=True)
    for picture, entry in zip(pictures, entries, strict=True):
        name = f"{way}/{quote(str(entry.id), safe='')}.png"
        with atomic_file(out / name) as temporary:
            picture.save(temporary, format="PNG")
        records.append({"image_id": entry.id, "picture": name})
    return records


def drawings_in(folder: Path, data: EvaluationSet) -> dict[int, Path]:
    """Drawings that any program made, by the place of their picture in a set.

    A drawing is named by its picture's id, or as the picture itself. Raises DataError where none is.
    """
    names: dict[str, int] = {}
    for index, entry in enumerate(data):
        names[Path(entry.image).stem] = index
    for index, entry in enumerate(data):  # an id goes before the name of another picture
        names[quote(str(entry.id), safe="")] = names[str(entry.id)] = index
    found: dict[int, Path] = {}
    others = []
    for path in list_images(folder):
        if path.stem not in names:
            others.append(path)
        elif names[path.stem] in found:
            raise DataError(f"{folder}: {found[names[path.stem]].name} and {path.name} are of one picture")
        else:
            found[names[path.stem]] = path
    if others:
        raise DataError(
            f"{folder}: {len(others):,} of {len(others) + len(found):,} pictures, the first {others[0].name}, are not "
            f"named by an id or a file of {data.info.name} {data.info.split}: they are of another data set"
        )
    return dict(sorted(found.items()))


@dataclass(frozen=True)
class DrawingScores:
    """Scores by way of drawing: mean CLIP cosine to the true pictures, x100, and what a scorer finds, in percent.

    `real` is what the scorer finds in the true pictures; `floors` as of `clip_scores.floors`; `count` how many drawings
    there are of each way. `frechet` is the distance of CLIP features of the second half of each way's drawings to
    those of the first half of the true pictures, and as "real" that of the second half of the true pictures.
    `unreadable` are the true pictures that cannot be read.
    """

    similarity: dict[str, float]
    right: dict[str, dict[str, float]]
    real: dict[str, float]
    floors: dict[str, float]
    count: dict[str, int]
    frechet: dict[str, float]
    unreadable: list[Record]


def score_drawings(
    ways: Mapping[str, Mapping[int, Path]], data: EvaluationSet, clip: ImageFeatures, scorer: Scorer | None = None,
    batch_size: int = AT_ONCE,
) -> DrawingScores:  # fmt: skip
    """Scores the drawings of each way, by the places of their pictures in a set.

    Raises ImageError for a drawing that cannot be read; drawings whose true picture cannot be read are left out.
    """

    unreadable: list[Record] = []

    def true(index: int) -> Image.Image | None:
        try:
            return data.picture(index)
        except ImageError as error:
            unreadable.append({"image_id": data[index].id, "unreadable": str(error)})
            return None

    asked = sorted({index for drawings in ways.values() for index in drawings})
    real = _seen("pictures", asked, true, clip, scorer, batch_size)
    if not real.features:
        raise DataError(f"none of {len(asked):,} true pictures can be read, to compare drawings with them")
    similarity, right, count = {}, {}, {}
    features = {"real": real.stacked(list(real.features))}
    for way, drawings in ways.items():
        indices = [index for index in drawings if index in real.features]
        made = _seen(way, indices, lambda index: load_image(drawings[index]), clip, scorer, batch_size)  # noqa: B023
        similarity[way] = cosine_similarity_x100(made.stacked(indices), real.stacked(indices))
        right[way], count[way] = percent(made.counts), len(indices)
        if len(indices) == len(real.features):
            features[way] = made.stacked(indices)
    middle = len(real.features) // 2
    frechet = {
        way: frechet_distance(features["real"][:middle], rows[middle : 2 * middle]) for way, rows in features.items()
    } if middle > 1 else {}  # fmt: skip
    return DrawingScores(similarity, right, percent(real.counts), floors(features["real"]), count, frechet, unreadable)


@dataclass(frozen=True)
class _Seen:
    """Features of pictures by their places in a set, and what a scorer counts in them."""

    features: dict[int, Tensor]
    counts: Counts

    def stacked(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self.features[index] for index in indices])


def _seen(
    label: str, indices: Sequence[int], read: Callable[[int], Image.Image | None], clip: ImageFeatures,
    scorer: Scorer | None, batch_size: int,
) -> _Seen:  # fmt: skip
    features: dict[int, Tensor] = {}
    counts: Counts = {}
    with progress(label, len(indices)) as done:
        for start in range(0, len(indices), batch_size):
            some = indices[start : start + batch_size]
            pictures = {index: picture for index in some if (picture := read(index)) is not None}
            if pictures:
                features |= dict(zip(pictures, clip.features(list(pictures.values())), strict=True))
                if scorer is not None:
                    counts = added(counts, scorer.score_drawings(list(pictures.values()), list(pictures)))
            done(start + len(some))
    return _Seen(features, counts)
