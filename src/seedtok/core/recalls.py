"""Recalls of retrieval (Table 1), which training validates by as well."""

from torch import Tensor


def retrieval_recalls(similarity: Tensor) -> dict[str, float]:
    """Recall@1, 5, 10 both ways and their mean, in percent (Table 1).

    similarity: (N, N), images down, texts across, pair i on the diagonal. A tie counts against the pair.
    """
    own = similarity.diagonal()
    better_text = (similarity >= own[:, None]).sum(1)  # the pair itself is one of them
    better_image = (similarity >= own[None, :]).sum(0)
    out = {}
    for name, rank in (("i2t", better_text), ("t2i", better_image)):
        for k in (1, 5, 10):
            out[f"{name}_r{k}"] = 100 * float((rank <= k).double().mean())
    out["r_mean"] = sum(out.values()) / 6
    return out
