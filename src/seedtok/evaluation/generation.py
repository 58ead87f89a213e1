"""Table 2: pictures drawn from captions by the diffusion model, and by SEED from the codes of the picture itself."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seedtok.evaluation.clip_scores import ImageFeatures
from seedtok.evaluation.dataset import EvaluationSet, Scorer, check_has
from seedtok.evaluation.drawings import (
    DrawingScores,
    decoder_settings,
    drawings_in,
    drawn,
    noise_of,
    save_drawings,
    score_drawings,
)
from seedtok.evaluation.predictions import Predictions, Record
from seedtok.evaluation.preprocessing import stretched
from seedtok.evaluation.run import Batch, Run, Task, evaluate
from seedtok.tokenizer.seed import SeedTokenizer

TextFeatures = Callable[[list[str]], torch.Tensor]  # captions -> what the diffusion model draws from, (B, 77, width)


def evaluate_generation(
    tokenizer: SeedTokenizer, data: EvaluationSet, run: Run, clip: ImageFeatures, scorer: Scorer | None = None,
    dtype: torch.dtype | None = None, others: Mapping[str, TextFeatures] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """CLIP similarity (x100) to the true picture, and in percent what the scorer finds right, as of `drawing_result`.

    "caption" is the diffusion model drawing from a picture's first caption, "seed" the tokenizer's reconstruction; both
    draw from the same noise. `others` are further ways to come from a caption to what the diffusion model draws from,
    such as GILL's. The predictions are pictures, caption/ID.png and seed/ID.png. `dtype` as for `ImageDecoder.draw`.
    Raises DataError for a set without captions, and as `evaluate` does.
    """
    check_has(data, "captions", "generation")

    def from_captions(way: str, features: TextFeatures, batch: Batch, out: Path) -> list[Record]:
        return draw(way, features([entry.captions[0] for entry in batch.entries]), batch, out)

    def from_codes(batch: Batch, out: Path) -> list[Record]:
        codes = tokenizer.encode_pixels(tokenizer.pixels(batch.pictures))
        return draw("seed", tokenizer.generation_embeddings(tokenizer.lookup(codes)), batch, out)

    def draw(way: str, conditions: torch.Tensor, batch: Batch, out: Path) -> list[Record]:
        pictures = drawn(tokenizer, conditions, noise_of(run.seed, batch.number), dtype)
        return save_drawings(pictures, batch.entries, way, out)

    seen = {"preprocessing": stretched(tokenizer.config.embedder.vision.image_size), "codebook": tokenizer.codebook_id}
    texts = {"caption": tokenizer.image_decoder.text_features, **(others or {})}
    ways = {way: partial(from_captions, way, features) for way, features in texts.items()} | {"seed": from_codes}
    models = {way: seen if way == "seed" else {} for way in ways}
    settings = {"models": models, "decoding": decoder_settings(tokenizer, dtype)}
    score = partial(score_generation, data=data, clip=clip, scorer=scorer)
    return evaluate(Task("generation", settings, ways, score), data, run)


def score_generation(
    predictions: Predictions, data: EvaluationSet, clip: ImageFeatures, scorer: Scorer | None = None
) -> dict[str, Any]:
    """The scores of pictures that `evaluate_generation` wrote."""
    ways = {way: drawings_in(predictions.folder / way, data) for way in predictions.every()}
    return drawing_result(score_drawings(ways, data, clip, scorer, predictions.settings()["batch_size"]), clip)


def score_folder(
    folder: Path, data: EvaluationSet, clip: ImageFeatures, scorer: Scorer | None = None
) -> dict[str, Any]:
    """The scores of pictures that any program drew, each named by the id or file of the picture it should be like."""
    scores = score_drawings({"pictures": drawings_in(folder, data)}, data, clip, scorer)
    lacking = len(data) - scores.count["pictures"]
    return drawing_result(scores, clip) | ({"not_predicted": {"pictures": lacking}} if lacking else {})


def drawing_result(scores: DrawingScores, clip: ImageFeatures) -> dict[str, Any]:
    """`clip_similarity` and what the scorer finds by way of drawing; `judge_on_real`, the same of the true pictures.

    `floors` is what a random other picture of the set, and the nearest other one, get from the CLIP; `frechet` as of
    `DrawingScores`.
    """
    result: dict[str, Any] = {"clip_similarity": scores.similarity}
    for name in scores.real:
        result[f"{name}_right"] = {way: right[name] for way, right in scores.right.items()}
    if scores.real:
        result["judge_on_real"] = scores.real
    if scores.frechet:
        result["frechet"] = scores.frechet
    return result | {"floors": scores.floors, "clip": clip.settings}
