"""Table 3: captions and answers of SEED-OPT, and of the BLIP-2-style baseline on the same frozen LM."""

import time
from typing import Any, cast

import numpy as np
import torch

from seedtok.baselines.blip2 import Blip2LM
from seedtok.core.hub import shipped
from seedtok.evaluation.answers import exact_match, vqa_accuracy
from seedtok.evaluation.captions import caption_scores, check_installed
from seedtok.evaluation.common import DEFAULT, Compute, evaluated_batches
from seedtok.lm.seed_lm import SeedLM
from seedtok.mini.world.grammar import same_scene
from seedtok.mini.world.questions import questions
from seedtok.mini.world.scenes import PHRASINGS, caption

PEOPLE = 10  # answers to a question in VQAv2; here all of them are the right one


def _models(name: str, base: str | None, tokenizer: str | None, compute: Compute) -> dict[str, SeedLM | Blip2LM]:
    """What is evaluated, by the row of its results.

    The shipped model ("mini") stands beside the shipped baseline. Any other model is evaluated alone: the shipped ones
    have another training and say nothing about it.
    """
    model = SeedLM.from_pretrained(name, base=base, seed=tokenizer, dtype=compute.dtype, device=compute.device)
    if name != "mini":
        return {"seed_opt": model}
    return {"seed_opt": model, "blip2": Blip2LM.from_pretrained().to(model.device, compute.dtype)}


@torch.no_grad()
def evaluate_captioning(
    model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32, base: str | None = None,
    tokenizer: str | None = None, compute: Compute = DEFAULT,
) -> dict[str, Any]:  # fmt: skip
    """Scores (x100) of captions against every wording of the truth, and the share that names all of a scene right.

    Row "seed_opt" is `model`; "blip2", the shipped baseline, is there for the shipped model alone. Beam search of width
    5. A score that could not run is None, and `missing` says why. Raises ConfigError, before anything is captioned,
    where the package that scores is not installed.
    """
    check_installed()
    began = time.perf_counter()
    models = _models(model, base, tokenizer, compute)
    lm = cast(SeedLM, models["seed_opt"])
    said: dict[str, list[str]] = {name: [] for name in models}
    scenes = []
    for batch in evaluated_batches("captioning", count, seed, batch_size):
        pixels = lm.seed.pixels(batch.pixels)
        codes = lm.seed.encode_pixels(pixels)
        for name, other in models.items():
            said[name] += other.caption(pixels) if isinstance(other, Blip2LM) else other.caption(codes)
        scenes += batch.scenes or []
    references = [list(dict.fromkeys(caption(scene, p) for p in range(PHRASINGS))) for scene in scenes]
    result: dict[str, Any] = {}
    for name, captions in said.items():
        scores, missing = caption_scores(captions, references)
        right = [same_scene(text, scene) for text, scene in zip(captions, scenes, strict=True)]
        result[name] = scores | {"all_right": 100 * sum(right) / len(right)}
        if missing:
            result["missing"] = missing
    return result | {"model": model, "count": count, "seed": seed, "seconds": time.perf_counter() - began}


@torch.no_grad()
def evaluate_vqa(
    model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32, base: str | None = None,
    tokenizer: str | None = None, compute: Compute = DEFAULT,
) -> dict[str, Any]:  # fmt: skip
    """VQAv2's accuracy and GQA's exact match in percent, on one question a scene, all kinds of question in turn.

    Row "seed_opt" is `model`. The shipped one ("mini"), which has seen questions of the training split, is row
    "instructed" instead and has the others that are shipped beside it: "zero_shot", which has seen captions alone as
    the paper's, and the baseline "blip2".
    """
    began = time.perf_counter()
    models = _models(model, base, tokenizer, compute)
    seen = cast(SeedLM, models["seed_opt"]).seed
    if model == "mini":
        zero_shot = SeedLM.from_pretrained(
            shipped("lm_captions"), seed=seen, dtype=compute.dtype, device=compute.device
        )
        models = {"zero_shot": zero_shot, "instructed": models["seed_opt"], "blip2": models["blip2"]}
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    rng = np.random.default_rng([seed, 3])
    for batch in evaluated_batches("vqa", count, seed, batch_size):
        asked = [questions(scene, rng, 1)[0] for scene in batch.scenes or []]
        texts, pixels = [q.text for q in asked], seen.pixels(batch.pixels)
        codes = seen.encode_pixels(pixels)
        for name, other in models.items():
            said = other.answer(pixels, texts) if isinstance(other, Blip2LM) else other.answer(codes, texts)
            pairs = zip(said, asked, strict=True)
            scores[name] += [(vqa_accuracy(a, [q.answer] * PEOPLE), exact_match(a, q.answer)) for a, q in pairs]
    result = {
        name: dict(zip(("vqa_accuracy", "exact_match"), (100 * np.mean(pairs, axis=0)).tolist(), strict=True))
        for name, pairs in scores.items()
    }
    return result | {"model": model, "count": count, "seed": seed, "seconds": time.perf_counter() - began}
