"""The Fréchet distance of two sets of features, as of the Fréchet Inception Distance (Heusel et al. 2017)."""

import torch
from jaxtyping import Float
from torch import Tensor


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """|mean(a) - mean(b)|^2 + trace(A + B - 2 (A B)^(1/2)), with A and B the covariances; at least two rows each.

    It depends on the numbers of rows: compare distances between sets of equal sizes alone.
    """
    a, b = a.double(), b.double()
    shift, one, other = (a.mean(0) - b.mean(0)).square().sum(), _covariance(a), _covariance(b)
    root = _square_root(one)
    product = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(shift + one.trace() + other.trace() - 2 * product))


def _covariance(rows: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    centered = rows - rows.mean(0)
    return centered.T @ centered / (len(rows) - 1)


def _square_root(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d d"]:
    """The square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
