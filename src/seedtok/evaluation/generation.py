"""Table 2: pictures drawn from captions by the diffusion model, and by SEED from the codes of the picture itself."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from seedtok.evaluation.clip_scores import ImageFeatures
from seedtok.evaluation.dataset import EvaluationSet, Scorer, check_has
from seedtok.evaluation.drawings import (
    NO_CAPTIONS,
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
from seedtok.evaluation.run import Batch, Make, Run, Task, evaluate
from seedtok.tokenizer.image_decoder import FEW_GUIDANCE, FEW_STEPS, ImageDecoder
from seedtok.tokenizer.seed import SeedTokenizer

TextFeatures = Callable[[list[str]], torch.Tensor]  # captions -> what the diffusion model draws from, (B, 77, width)
Conditions = Callable[[Batch], torch.Tensor]  # the same of a batch


def evaluate_generation(
    tokenizer: SeedTokenizer, data: EvaluationSet, run: Run, clip: ImageFeatures, scorer: Scorer | None = None,
    dtype: torch.dtype | None = None, others: Mapping[str, TextFeatures] | None = None,
    few_steps: ImageDecoder | None = None,
) -> dict[str, Any]:  # fmt: skip
    """CLIP similarity (x100) to the true picture, and in percent what the scorer finds right, as of `drawing_result`.

    "caption" is the diffusion model drawing from a picture's first caption, "seed" the tokenizer's reconstruction; both
    draw from the same noise. `others` are further ways to come from a caption to what the diffusion model draws from,
    such as GILL's. The predictions are pictures, caption/ID.png and seed/ID.png. `dtype` as for `ImageDecoder.draw`.
    With `few_steps`, a latent consistency model of the tokenizer's image decoder, also "caption_few_steps" and
    "seed_few_steps". An image decoder that draws from image embeddings (unCLIP) has "seed" alone. Raises DataError for
    a set without captions, and as `evaluate` does.
    """
    check_has(data, "captions", "generation")

    def captions(features: TextFeatures, batch: Batch) -> torch.Tensor:
        return features([entry.captions[0] for entry in batch.entries])

    def codes(batch: Batch) -> torch.Tensor:
        found = tokenizer.encode_pixels(tokenizer.pixels(batch.pictures))
        return tokenizer.generation_embeddings(tokenizer.lookup(found))

    def way(name: str, conditions: Conditions, decoder: ImageDecoder | None) -> Make:
        def draw(batch: Batch, out: Path) -> list[Record]:
            noise = noise_of(run.seed, batch.number)
            pictures = drawn(tokenizer, conditions(batch), noise, dtype, decoder)
            return save_drawings(pictures, batch.entries, name, out)

        return draw

    seen = {"preprocessing": stretched(tokenizer.config.embedder.vision.square), "codebook": tokenizer.codebook_id}
    decoder = tokenizer.image_decoder
    texts = {"caption": decoder.text_features, **(others or {})} if decoder.draws_captions else {}
    conditions: dict[str, Conditions] = {name: partial(captions, features) for name, features in texts.items()}
    conditions["seed"] = codes
    ways = {name: way(name, what, None) for name, what in conditions.items()}
    if few_steps is not None:
        for name in [name for name in ("caption", "seed") if name in conditions]:
            ways[f"{name}_few_steps"] = way(f"{name}_few_steps", conditions[name], few_steps)
    models = {name: seen if name.startswith("seed") else {} for name in ways}
    few = {} if few_steps is None else {"few_steps": {"steps": FEW_STEPS, "guidance_scale": FEW_GUIDANCE}}
    settings = {"models": models, "decoding": decoder_settings(tokenizer, dtype) | few}
    score = partial(score_generation, data=data, clip=clip, scorer=scorer)
    return evaluate(Task("generation", settings, ways, score, captioned=True), data, run)


def score_generation(
    predictions: Predictions, data: EvaluationSet, clip: ImageFeatures, scorer: Scorer | None = None
) -> dict[str, Any]:
    """The scores of pictures that `evaluate_generation` wrote."""
    ways = {way: drawings_in(predictions.folder / way, data) for way in predictions.every()}
    result = drawing_result(score_drawings(ways, data, clip, scorer, predictions.settings()["batch_size"]), clip)
    return result if "caption" in ways else result | {"missing": {"caption": NO_CAPTIONS}}


def score_folder(
    folder: Path, data: EvaluationSet, clip: ImageFeatures, scorer: Scorer | None = None
) -> tuple[dict[str, Any], list[Record]]:
    """The scores of pictures that any program drew, each named by the id or file of the picture it should be like.

    And the true pictures that cannot be read, whose drawings are in no score.
    """
    scores = score_drawings({"pictures": drawings_in(folder, data)}, data, clip, scorer)
    lacking = len(data) - scores.count["pictures"] - len(scores.unreadable)
    result = drawing_result(scores, clip) | ({"not_predicted": {"pictures": lacking}} if lacking else {})
    return result, scores.unreadable


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
