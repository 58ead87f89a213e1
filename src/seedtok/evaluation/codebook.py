"""How much of the codebook is in use, and how far codes in bfloat16 agree with those in float32."""

import time
from typing import Any

import torch

from seedtok.evaluation.common import DEFAULT, Compute, evaluated_batches
from seedtok.tokenizer.codebook import codebook_usage
from seedtok.tokenizer.seed import SeedTokenizer


@torch.no_grad()
def evaluate_codebook(
    model: str = "mini", count: int = 20_000, seed: int = 0, batch_size: int = 32, compute: Compute = DEFAULT
) -> dict[str, Any]:
    """Codes used and perplexity over `count` test scenes' codes; agreement of dtypes on the first 1,000 of them."""
    began = time.perf_counter()
    tokenizer = SeedTokenizer.from_pretrained(model, dtype=compute.dtype, device=compute.device)
    half = SeedTokenizer.from_pretrained(model, dtype=torch.bfloat16, device=compute.device)
    counts = torch.zeros(tokenizer.config.codebook.size, dtype=torch.int64)
    agree = compared = 0
    for batch in evaluated_batches("codebook", count, seed, batch_size):
        codes = tokenizer.encode_pixels(tokenizer.pixels(batch.pixels))
        counts += torch.bincount(codes.flatten().cpu(), minlength=len(counts))
        if compared < 32_000:
            agree += int((half.encode_pixels(half.pixels(batch.pixels)) == codes).sum())
            compared += codes.numel()
    usage = codebook_usage(counts)
    return {
        "size": len(counts),
        "used": usage.used,
        "perplexity": usage.perplexity,
        "images": count,
        "bfloat16_agreement": 100 * agree / compared,
        "model": model,
        "count": count,
        "seed": seed,
        "seconds": time.perf_counter() - began,
    }
