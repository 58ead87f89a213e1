"""Shared by stages of image tokenizers, SEED's and others: samples for k-means, and use of the codes."""

from collections.abc import Callable, Iterable
from itertools import islice

import torch
from torch import Tensor

from seedtok.data.batches import Batch
from seedtok.tokenizer.codebook import codebook_usage
from seedtok.training.distributed import rank_and_world, sum_over_ranks
from seedtok.training.stage import Losses, mean_losses


def encoder_samples(batches: Iterable[Batch], encode: Callable[[Batch], Tensor], count: float) -> Tensor:
    """What `encode` makes of batches, (..., dim) each, until there are `count` vectors -> (count or more, dim).

    All ranks are given the same batches, and each takes others: of those numbered from 0, each `world`-th.
    """
    samples: list[Tensor] = []
    rank, world = rank_and_world()
    for batch in islice(batches, rank, None, world):
        samples.append(encode(batch).float().flatten(0, -2))
        if sum(map(len, samples)) >= count:
            break
    return torch.cat(samples)


def validate_codes(
    batches: Iterable[Batch], losses_of: Callable[[Batch], tuple[Losses, Tensor]], size: int
) -> dict[str, float]:
    """Mean losses of held-out batches and how many of `size` codes are in use; `losses_of` gives losses and codes."""
    counts, every = torch.zeros(size), []
    for batch in batches:
        losses, codes = losses_of(batch)
        every.append(losses)
        counts += torch.bincount(codes.flatten().cpu(), minlength=size)
    usage = codebook_usage(sum_over_ranks(counts))
    return mean_losses(every) | {"codes_used": usage.used, "perplexity": usage.perplexity}
