"""Table 3: captions and answers of SEED-OPT, and of the BLIP-2-style baseline on the same frozen LM."""

import time
from typing import Any

import numpy as np
import torch

from seedtok.data.grammar import same_scene
from seedtok.data.questions import questions
from seedtok.data.scenes import PHRASINGS, caption
from seedtok.evaluation.answers import exact_match, vqa_accuracy
from seedtok.evaluation.captions import caption_scores, check_installed
from seedtok.evaluation.common import evaluated_batches
from seedtok.hub import shipped
from seedtok.mllm.blip2 import Blip2LM
from seedtok.mllm.seed_lm import SeedLM

PEOPLE = 10  # answers to a question in VQAv2; here all of them are the right one


@torch.no_grad()
def evaluate_captioning(model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32) -> dict[str, Any]:
    """Scores (x100) of captions against every wording of the truth, and the share that names all of a scene right.

    Beam search of width 5. A score that could not run is None, and `missing` says why. Raises ConfigError, before
    anything is captioned, where the package that scores is not installed.
    """
    check_installed()
    began = time.perf_counter()
    lm, baseline = SeedLM.from_pretrained(model), Blip2LM.from_pretrained()
    said: dict[str, list[str]] = {"seed_opt": [], "blip2": []}
    scenes = []
    for batch in evaluated_batches("captioning", count, seed, batch_size):
        pixels = lm.seed.pixels(batch.pixels)
        said["seed_opt"] += lm.caption(lm.seed.encode_pixels(pixels))
        said["blip2"] += baseline.caption(pixels)
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
def evaluate_vqa(model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32) -> dict[str, Any]:
    """VQAv2's accuracy and GQA's exact match in percent, on one question a scene, all kinds of question in turn.

    "zero_shot" has seen captions alone, as the paper's; "instructed" questions of the training split as well. `model`
    is the instructed one; the other is the one shipped beside it.
    """
    began = time.perf_counter()
    instructed = SeedLM.from_pretrained(model)
    zero_shot = SeedLM.from_pretrained(shipped("lm_captions"), seed=instructed.seed)
    baseline = Blip2LM.from_pretrained()
    scores: dict[str, list[tuple[float, float]]] = {"zero_shot": [], "instructed": [], "blip2": []}
    rng = np.random.default_rng([seed, 3])
    for batch in evaluated_batches("vqa", count, seed, batch_size):
        asked = [questions(scene, rng, 1)[0] for scene in batch.scenes or []]
        texts, pixels = [q.text for q in asked], instructed.seed.pixels(batch.pixels)
        codes = instructed.seed.encode_pixels(pixels)
        answers = {
            "zero_shot": zero_shot.answer(codes, texts),
            "instructed": instructed.answer(codes, texts),
            "blip2": baseline.answer(pixels, texts),
        }
        for name, said in answers.items():
            pairs = zip(said, asked, strict=True)
            scores[name] += [(vqa_accuracy(a, [q.answer] * PEOPLE), exact_match(a, q.answer)) for a, q in pairs]
    result = {
        name: dict(zip(("vqa_accuracy", "exact_match"), (100 * np.mean(pairs, axis=0)).tolist(), strict=True))
        for name, pairs in scores.items()
    }
    return result | {"model": model, "count": count, "seed": seed, "seconds": time.perf_counter() - began}
