"""The Fréchet distance, against closed forms and the eigenvalues of the product of covariances."""

import numpy as np
import pytest
import torch

from seedtok.evaluation.frechet import frechet_distance


def test_in_one_dimension_it_is_that_of_two_means_and_deviations():
    a, b = torch.randn(50, 1) * 3 + 1, torch.randn(40, 1)
    expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("rows", [200, 6])  # more rows than features, and fewer
def test_it_is_what_the_definition_gives(rows):
    a, b = torch.randn(rows, 12).double() * 2, torch.randn(rows, 12).double() @ torch.randn(12, 12).double() + 1
    one, other = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(one @ other).real, 0)).sum()
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(one) + np.trace(other) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


def test_a_set_is_at_no_distance_from_itself_and_at_the_same_from_another_either_way():
    a, b = torch.randn(30, 8), torch.randn(30, 8) + 1
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))
    assert frechet_distance(a, b) > frechet_distance(a, a + 0.1)
