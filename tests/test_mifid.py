"""MiFID and its parts against closed forms, direct loops, known truths and torchmetrics."""

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import linalg, stats
from torch import nn
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from memlib.metrics.mifid import (
    Moments,
    frechet_distance,
    memorization_distance,
    mifid,
    moments,
    penalized_fid,
)

PRECISIONS = (np.float32, np.float64)


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


def cosine_distances(generated, training):
    """Of all pairs, one by one."""

    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    def distance(g, r):
        return 1 - abs(dot(g, r)) / math.sqrt(dot(g, g) * dot(r, r))

    return np.array([[distance(g, r) for r in training] for g in generated])


# a distance between distributions


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


@pytest.mark.parametrize("precision", PRECISIONS)
def test_moments_of_many_blocks_are_those_of_all_features_in_double_precision(precision):
    x = (normal(2049, 3) @ normal(3, 3, seed=1) + 1e4).astype(precision)  # blocks of 1024, 1024 and 1
    found, covariance = moments(x), np.cov(x.T, dtype=float)
    np.testing.assert_allclose(found.mean, x.mean(axis=0, dtype=float), rtol=1e-12)
    np.testing.assert_allclose(found.root.T @ found.root, covariance, atol=1e-9 * covariance.max())
    assert found.root.shape == (3, 3) and found.n == 2049


# a distance to what is copied


@given(st.data())
def test_distances_are_the_smallest_of_all_pairs(data):
    m, n, d = (data.draw(st.integers(1, 6)) for _ in range(3))
    numbers = arrays(int, (m + n, d), elements=st.integers(-9, 9))
    precision = data.draw(st.sampled_from(PRECISIONS))
    tolerance = 1e-6 if precision == np.float32 else 1e-12
    generated, training = np.split(data.draw(numbers).astype(precision), [m])
    kept, there = (np.flatnonzero(x.any(axis=1)) for x in (generated, training))
    assume(len(kept) and len(there))
    near = memorization_distance(generated, training, chunk=data.draw(st.integers(1, 8)))
    pairs = cosine_distances(generated[kept].tolist(), training[there].tolist())
    np.testing.assert_array_equal(near.rows, kept)
    np.testing.assert_allclose(near.distances, pairs.min(axis=1), atol=tolerance)
    chosen = cosine_distances(generated[kept].tolist(), training[near.neighbors].tolist())
    np.testing.assert_allclose(near.distances, np.diag(chosen), atol=1e-12)
    assert near.d == pytest.approx(near.distances.mean())
    assert near.dropped == (m - len(kept), n - len(there))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_copies_are_at_distance_zero_whatever_their_sign_and_length(precision):
    training = normal(50, 7).astype(precision)
    for copies in (training, -training / 2):
        assert memorization_distance(copies, training).d == 0
    lengths = np.linspace(0.01, 100, 50)[:, None].astype(precision)
    near = memorization_distance(lengths * training, training)
    assert near.d < 1e-12 and near.neighbors.tolist() == list(range(50))


def test_copies_among_features_that_are_nearly_parallel_are_found_in_single_precision():
    training, others = np.split((100 + 0.05 * normal(390, 16)).astype(np.float32), [300])
    near = memorization_distance(training[:90], training)
    assert near.d == 0 and near.neighbors.tolist() == list(range(90))
    single, double = (memorization_distance(others.astype(t), training.astype(t)) for t in PRECISIONS)
    np.testing.assert_allclose(single.distances, double.distances, rtol=1e-6)
    assert 0 < double.d < 1e-6


def test_sizes_at_the_ends_of_the_range_are_no_matter():
    generated, training = np.round(normal(30, 5), 2), np.round(normal(40, 5, seed=1), 2)
    near = memorization_distance(generated, training)
    for size in (1e307, 1e-310):
        other = memorization_distance(generated * size, training * size)
        np.testing.assert_allclose(other.distances, near.distances, rtol=1e-9)
        np.testing.assert_array_equal(other.neighbors, near.neighbors)
    assert memorization_distance(np.full((3, 4), 1e308), [[1e308] * 4, [1e308, 0, 0, 0]]).d == 0


@pytest.mark.parametrize(
    ("precision", "bound"),
    [(np.float32, 8 * 512 * (512 + 5 * 64)), (np.float64, 16 * 512 * (512 + 3 * 64))],
)
def test_memory_is_that_of_chunks_and_not_of_all_pairs(precision, bound):
    m, n = 4 * 512, 20 * 512
    generated, training = (normal(rows, 64, seed=rows).astype(precision) for rows in (m, n))
    tracemalloc.start()
    try:
        memorization_distance(generated, training, chunk=512)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bound + 32 * (m + n) < m * n * np.dtype(precision).itemsize / 4


# what is made of both


def test_the_penalty_begins_below_eps_and_delta_keeps_it_finite():
    below = np.nextafter(0.1, 0)
    d, fid = [0.0, 0.05, below, 0.1, 1.0, np.nan, 0.2], [3, 10, 10, 10, 10, 10, np.nan]
    expected = [3e15, 200 / (1 + 2e-14), 10 / below, 10, 10, np.nan, np.nan]
    np.testing.assert_allclose(penalized_fid(fid, d, eps=0.1), expected, rtol=1e-12)
    assert penalized_fid(3.0, [0.0, 0.25, 0.75], eps=0.5, delta=0.5).tolist() == [6, 4, 2]


TRAINING = normal(400, 8)


def test_few_copies_are_penalized():
    copies, held_out = np.tile(TRAINING[:20], (20, 1)), normal(100, 8, seed=1)
    found = mifid(copies, TRAINING, eps=0.01, delta=1e-3, held_out=held_out, replicates=20)
    assert found.d == found.d_thr == 0 and found.penalized == 1 and found.d_interval == (0, 0)
    assert found.fid == pytest.approx(by_definition(copies, TRAINING))
    assert found.mifid == pytest.approx(found.fid * 1e3)
    assert found.held_out_d == memorization_distance(held_out, TRAINING).d > 0.01
    np.testing.assert_array_equal(found.nearest.neighbors, np.tile(range(20), 20))


def test_other_images_are_not_penalized():
    generated = normal(300, 8, seed=2) + 0.5
    found = mifid(generated, TRAINING, eps=0.01, replicates=20)
    assert found.mifid == pytest.approx(found.fid, rel=1e-12) and found.d_thr == 1 and found.penalized == 0
    assert found.fid_interval[0] < found.fid < found.fid_interval[1]
    assert found.mifid_interval == pytest.approx(found.fid_interval, rel=1e-12)
    assert found.d > 0.01 and math.isnan(found.held_out_d)


def test_offenders_are_the_closest_pairs_in_order():
    generated, training = normal(30, 8, seed=4), TRAINING.copy()
    generated[4], training[9] = 0, 0  # without a direction
    generated[5], generated[11], generated[29] = training[77] + 1e-6, -2 * training[399], training[3] + 1e-3
    found = mifid(generated, training, eps=0.1, replicates=0)
    table = found.offenders(3)
    assert table.generated.tolist() == [11, 5, 29] and table.training.tolist() == [399, 77, 3]
    assert table.distance[0] == 0 < table.distance[1] < table.distance[2] < 1e-4
    assert len(found.offenders(100)) == 29
    # without replicates there are no intervals
    assert np.isnan([*found.mifid_interval, *found.fid_interval, *found.d_interval, found.fid_bias]).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_replicates_are_scores_of_features_that_are_repeated(precision):
    n = 1500  # in two blocks
    generated = (normal(n, 3, seed=6) * [1, 2, 3] + 5).astype(precision)
    generated[7] = 0
    training = normal(80, 3, seed=7) + np.array([5, 4, 6])
    found = mifid(generated, training, eps=0.1, replicates=20, level=0.9, seed=3)
    rng, parts = np.random.default_rng(3), []
    for _ in range(20):
        drawn = np.repeat(generated, rng.multinomial(n, np.full(n, 1 / n)), axis=0)
        parts.append((frechet_distance(drawn, training), memorization_distance(drawn, training).d))
    fids, ds = np.transpose(parts)
    # of neighbors that float32 cannot tell apart another one may be found
    rounding = 1e-6 / found.d if precision == np.float32 else 1e-9
    assert found.fid_bias == pytest.approx(np.mean(fids) - found.fid, abs=1e-9 * found.fid)
    basic = 2 * found.fid - fids
    assert found.fid_interval == pytest.approx(np.quantile(basic, [0.05, 0.95]), rel=1e-9)
    assert found.d_interval == pytest.approx(np.quantile(ds, [0.05, 0.95]), rel=rounding)
    combined = np.quantile(penalized_fid(basic, ds, 0.1), [0.05, 0.95])
    assert found.mifid_interval == pytest.approx(combined, rel=rounding)


def test_the_intervals_cover_the_truth_and_the_bias_is_that_of_samples():
    """A normal generator's distances from fixed training features are known; its samples' FID is larger."""
    rng = np.random.default_rng(0)
    training = rng.normal(size=(400, 6))
    root = np.triu(rng.normal(0, 0.3, (6, 6))) + np.eye(6)
    mean = np.array([0.5, 0.0, 0.0, -0.3, 0.0, 0.0])
    truth = frechet_distance(Moments(mean, root, 120), training)
    d = memorization_distance(rng.normal(size=(20_000, 6)) @ root + mean, training).d
    found = [
        mifid(rng.normal(size=(120, 6)) @ root + mean, training, eps=0.01, replicates=40, seed=simulation)
        for simulation in range(80)
    ]

    def covered(of, intervals):
        return np.mean([low <= of <= high for low, high in intervals])

    assert 0.85 <= covered(truth, [f.fid_interval for f in found])
    assert 0.85 <= covered(d, [f.d_interval for f in found])
    excess = np.mean([f.fid for f in found]) - truth
    assert excess > 0 and 0.5 < np.mean([f.fid_bias for f in found]) / excess < 2


def test_where_samples_are_too_few_the_interval_begins_at_zero_and_lies_below_the_estimate():
    """Both are drawn alike, so that nearly all of the distance is bias."""
    found = mifid(normal(80, 8, seed=1), normal(4000, 8, seed=2), eps=0.1, replicates=40)
    assert found.fid_interval[0] == 0 and found.fid_interval[1] < found.fid
    assert found.fid_bias > 0.5 * found.fid


# another implementation


class Projection(nn.Module):
    """Images (n, 3, 8, 8) of bytes to features (n, 12)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(normal(192, 12, seed=8)))

    def forward(self, images):
        return (images.flatten(1).double() - 127.5) @ self.matrix


def torchmetrics_score(real, fake):
    metric = MemorizationInformedFrechetInceptionDistance(Projection(), cosine_distance_eps=0.1)
    metric.set_dtype(torch.float64)
    for images, is_real in ((real, True), (fake, False)):
        metric.update(torch.from_numpy(images), real=is_real)
    return float(metric.compute())


def test_torchmetrics_agrees_where_it_is_told_real_images_are_fake():
    """It averages over what it calls real, and so does not see that few copies are copies."""
    rng = np.random.default_rng(0)
    training, others = np.split(rng.integers(0, 256, (500, 3, 8, 8), dtype=np.uint8), [300])
    # not exact copies: a score at d = 0 is made of rounding errors there
    copies = np.tile(training[:20], (10, 1, 1, 1)) + rng.integers(-4, 5, (200, 3, 8, 8))
    copies = copies.clip(0, 255).astype(np.uint8)
    project = Projection()
    for generated in (others, copies):
        x, y = (project(torch.from_numpy(images)).numpy() for images in (generated, training))
        found = mifid(x, y, eps=0.1, delta=10e-15, replicates=0)
        assert found.mifid == pytest.approx(torchmetrics_score(generated, training), rel=1e-6)
    assert found.d < 0.01 and found.mifid > 100 * found.fid
    assert torchmetrics_score(training, copies) == pytest.approx(found.fid, rel=1e-6)
