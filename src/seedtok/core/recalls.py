"""Recall of image-text retrieval (Table 1), computed by the evaluation and by the validation of training."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

ROWS = 1024  # of a matrix of similarities that are compared at once


def retrieval_recalls(
    similarity: Float[Tensor, "n t"], owners: Int[Tensor, " t"] | None = None, queries: Bool[Tensor, " n"] | None = None
) -> dict[str, float]:
    """Recall@1, 5, 10 both ways and their mean, in percent (Table 1).

    similarity: images down, texts across. `owners` has the image of each text; without it, pair i is on the diagonal.
    With `queries`, the other images, and their texts, are candidates alone.
    An image finds its texts where any of them is among the first k. A tie counts against the pair, and so does a
    similarity that is no number.
    """
    texts = torch.arange(similarity.shape[1], device=similarity.device)
    owners = texts if owners is None else owners.to(similarity.device)
    own = similarity[owners, texts]
    best = torch.full_like(similarity[:, 0], -torch.inf).scatter_reduce(0, owners, own, "amax")
    better_text, better_image = torch.zeros_like(best, dtype=torch.int64), torch.zeros_like(texts)
    for start in range(0, len(similarity), ROWS):
        rows = similarity[start : start + ROWS]
        better_text[start : start + ROWS] = (rows >= best[start : start + ROWS, None]).sum(1)
        better_image += (rows >= own).sum(0)  # the pair itself is one of them
    of_its_own = torch.zeros_like(better_text).scatter_add(0, owners, (own >= best[owners]).long())
    asked = torch.zeros_like(better_text).scatter_add(0, owners, torch.ones_like(texts)) > 0  # images with a text
    asking = torch.ones_like(texts, dtype=torch.bool)
    if queries is not None:
        asked, asking = asked & queries.to(asked.device), queries.to(asked.device)[owners]
    ranks = {"i2t": (1 + better_text - of_its_own)[asked], "t2i": better_image[asking]}
    numbers = {"i2t": best[asked], "t2i": own[asking]}
    out = {}
    for name, rank in ranks.items():
        for k in (1, 5, 10):
            found = (rank <= k) & numbers[name].isfinite()
            out[f"{name}_r{k}"] = 100 * float(found.cpu().double().mean())
    out["r_mean"] = sum(out.values()) / 6
    return out


def best_cosines(
    images: Float[Tensor, "n *q d"], texts: Float[Tensor, "t d"], room: int = 1 << 28
) -> Float[Tensor, "n t"]:
    """Cosines of unit embeddings on the CPU, of an image's best query where it has several.

    Computed where the embeddings are, a few images at a time, so that no more than about `room` bytes are taken for
    them beside the result.
    """
    queries = images[:, None] if images.ndim == 2 else images
    result = torch.empty(len(images), len(texts))
    rows = max(1, room // (4 * queries.shape[1] * max(1, len(texts))))
    for start in range(0, len(images), rows):
        some = queries[start : start + rows]
        every = (some.flatten(0, 1) @ texts.T).unflatten(0, some.shape[:2])
        result[start : start + rows] = every.amax(1)
    return result
