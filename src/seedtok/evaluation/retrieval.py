"""Table 1: zero-shot image-text retrieval by causal embeddings, by their codes, and by the BLIP-2-style baseline."""

import time
from pathlib import Path
from typing import Any

import torch

from seedtok.core.hub import shipped
from seedtok.core.recalls import retrieval_recalls
from seedtok.data.text import clean_caption
from seedtok.evaluation.common import DEFAULT, Compute, evaluated_batches
from seedtok.tokenizer.embedder import ImageTextEmbedder
from seedtok.tokenizer.seed import SeedTokenizer


@torch.no_grad()
def evaluate_retrieval(
    model: str = "mini",
    count: int = 1000,
    seed: int = 0,
    batch_size: int = 32,
    baseline: Path | None = None,
    compute: Compute = DEFAULT,
) -> dict[str, Any]:
    """R@1, 5, 10 both ways and their mean, in percent, on `count` test scenes of which no two share a caption.

    `baseline` is the bidirectional Q-Former's folder; None: the shipped one.
    """
    began = time.perf_counter()
    tokenizer = SeedTokenizer.from_pretrained(model, dtype=compute.dtype, device=compute.device)
    bidirectional = ImageTextEmbedder.from_pretrained(baseline or shipped("bidirectional"))
    bidirectional.to(tokenizer.device, compute.dtype)
    names = ("bidirectional", "causal_embedding", "causal_code")
    images: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    texts: dict[str, list[torch.Tensor]] = {"bidirectional": [], "seed": []}
    for batch in evaluated_batches("retrieval", count, seed, batch_size):
        captions = [clean_caption(caption) for caption in batch.captions]
        pixels = tokenizer.pixels(batch.pixels)
        embeddings = tokenizer.causal_embeddings(pixels)
        decoded = tokenizer.reconstructed_embeddings(tokenizer.quantize(embeddings).vectors.to(embeddings.dtype))
        images["causal_embedding"].append(tokenizer.embedder.project_queries(embeddings))
        images["causal_code"].append(tokenizer.embedder.project_queries(decoded))
        theirs = bidirectional.qformer(bidirectional.patch_features(pixels))
        images["bidirectional"].append(bidirectional.project_queries(theirs))
        texts["seed"].append(tokenizer.embed_texts(captions))
        texts["bidirectional"].append(bidirectional.embed_texts(captions))
    both = {name: torch.cat(parts) for name, parts in texts.items()}
    result: dict[str, Any] = {
        name: retrieval_recalls(bidirectional.similarity(torch.cat(images[name]), both[texts_of]).cpu())
        for name, texts_of in zip(names, ("bidirectional", "seed", "seed"), strict=True)
    }
    return result | {"model": model, "count": count, "seed": seed, "seconds": time.perf_counter() - began}
