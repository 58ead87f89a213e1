"""Pictures that SEED-OPT draws of captions, beside those of its diffusion model alone (Figure 5, in numbers)."""

import time
from typing import Any

import torch

from seedtok.evaluation.common import DEFAULT, Compute, evaluated_batches
from seedtok.evaluation.generation import Drawings
from seedtok.lm import generation
from seedtok.lm.packing import Sampling
from seedtok.lm.seed_lm import SeedLM

SAMPLED = 10  # more spans of codes a caption, at temperature 1, that are checked but not drawn


@torch.no_grad()
def evaluate_drawing(
    model: str = "mini", count: int = 1000, seed: int = 0, batch_size: int = 32, base: str | None = None,
    tokenizer: str | None = None, compute: Compute = DEFAULT,
) -> dict[str, Any]:  # fmt: skip
    """Things and backgrounds the scene judge finds in drawings from test captions, CLIP similarity to the true picture.

    `invalid_spans` counts those of `spans` pictures, the drawn ones and ten times as many sampled at temperature 1,
    whose codes are not 32 of the codebook.
    """
    began = time.perf_counter()
    lm = SeedLM.from_pretrained(model, base=base, seed=tokenizer, dtype=compute.dtype, device=compute.device)
    drawings = Drawings(lm.seed, ("real", "seed_opt", "diffusion"), compute.drawing_dtype)
    spans = invalid = 0
    by_chance = Sampling(1.0, generator=torch.Generator().manual_seed(seed))
    for number, batch in enumerate(evaluated_batches("drawing", count, seed, batch_size)):
        codes = generation.draw_codes(lm, batch.captions)
        for made in (codes, generation.draw_codes(lm, batch.captions * SAMPLED, by_chance)):
            spans, invalid = spans + len(made), invalid + invalid_spans(lm, made)
        conditions = {
            "seed_opt": lm.seed.generation_embeddings(lm.seed.lookup(codes)),
            "diffusion": lm.seed.image_decoder.text_features(batch.captions),
        }
        drawings.add("real", batch.pixels, batch.scenes or [])
        for name, condition in conditions.items():
            drawings.draw(name, condition, batch.scenes or [], noise=seed * 100_003 + number)
    return {
        "things_right": drawings.verdicts["seed_opt"].thing_share,
        "things_right_diffusion": drawings.verdicts["diffusion"].thing_share,
        "background_right": drawings.verdicts["seed_opt"].background_share,
        "clip_similarity": drawings.similarity("seed_opt"),
        "invalid_spans": invalid,
        "spans": spans,
        "model": model,
        "count": count,
        "seed": seed,
        "seconds": time.perf_counter() - began,
    }


def invalid_spans(lm: SeedLM, codes: torch.Tensor) -> int:
    """Rows of codes (B, n) that are not one picture's: another number of codes, or one outside the codebook."""
    config = lm.vocabulary.config
    if codes.shape[1] != config.span:
        return len(codes)
    return int(((codes < 0) | (codes >= config.codes)).any(dim=1).sum())
