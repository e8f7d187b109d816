"""The Frechet distance against closed forms and its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import linalg, stats

from memlib.metrics.fid import frechet_distance, moments


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def exact(mean, covariance, n, seed=0):
    """Features whose mean and covariance are what is asked for."""
    x = normal(n, len(mean), seed=seed)
    white = linalg.qr(x - x.mean(axis=0), mode="economic")[0] * np.sqrt(n - 1)
    return white @ linalg.cholesky(covariance) + mean


def by_definition(x, y):
    """The Frechet distance as it is written."""
    covariances = [np.cov(z.T) for z in (x, y)]
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    return ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)


@given(arrays(float, (4, 3), elements=st.floats(0.1, 4)))
def test_covariances_with_common_axes_have_a_distance_for_each_axis(numbers):
    s, t, mean, other_mean = numbers
    axes = stats.ortho_group.rvs(3, random_state=0)
    x = exact(mean, axes.T @ np.diag(s**2) @ axes, 4)  # one image more than features is enough
    y = exact(other_mean, axes.T @ np.diag(t**2) @ axes, 40, seed=1)
    expected = ((mean - other_mean) ** 2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_other_covariances_have_the_distance_of_the_definition():
    d = 20
    # condition numbers of some hundreds, so that the root of the product keeps eleven digits
    x, y = (normal(n, d, seed=n) @ (np.eye(d) + normal(d, d, seed=d + n) / 15) for n in (100, 80))
    assert frechet_distance(x, y + 1) == pytest.approx(by_definition(x, y + 1), rel=1e-9)


def test_the_same_features_are_at_distance_zero_and_never_below():
    for seed in range(20):
        x = normal(60, 8, seed=seed)
        assert 0 <= frechet_distance(x[::-1], moments(x)) < 1e-11


def test_features_that_are_there_twice_count_twice():
    x, y = normal(60, 5), normal(50, 5, seed=1) + 1
    twice = frechet_distance(np.hstack([x, x]), np.hstack([y, y]))
    assert twice == pytest.approx(2 * frechet_distance(x, y), rel=1e-9)


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_moments_of_many_blocks_are_those_of_all_features_in_double_precision(precision):
    x = (normal(2049, 3) @ normal(3, 3, seed=1) + 1e4).astype(precision)  # blocks of 1024, 1024 and 1
    found, covariance = moments(x), np.cov(x.T, dtype=float)
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(found.root.T @ found.root, covariance, atol=1e-9 * covariance.max())
    assert found.root.shape == (3, 3) and found.n == 2049
