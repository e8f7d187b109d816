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

from memlib.mifid import (
    DELTA,
    EPS,
    Moments,
    frechet_distance,
    memorization_distance,
    mifid,
    moments,
    penalized_fid,
)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def exact(mean, covariance, n=50, seed=0):
    """Features whose mean and covariance are what is asked for."""
    x = normal(n, len(mean), seed=seed)
    white = linalg.qr(x - x.mean(axis=0), mode="economic")[0] * np.sqrt(n - 1)
    return white @ linalg.cholesky(covariance) + mean


def rotation(d, seed=0):
    return stats.ortho_group.rvs(d, random_state=seed)


def by_definition(x, y):
    """The Frechet distance as it is written."""
    covariances = [np.atleast_2d(np.cov(z.T)) for z in (x, y)]
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


@given(st.floats(-5, 5), st.floats(0.1, 4), st.floats(-5, 5), st.floats(0.1, 4))
def test_in_one_dimension_the_distance_is_that_of_means_and_standard_deviations(mean, s, other_mean, t):
    x, y = exact([mean], [[s**2]]), exact([other_mean], [[t**2]], 70, seed=1)
    expected = (mean - other_mean) ** 2 + (s - t) ** 2
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("rotated", [False, True])
@given(arrays(float, (4, 3), elements=st.floats(0.1, 4)))
def test_covariances_with_common_axes_have_a_distance_for_each_axis(rotated, numbers):
    s, t, mean, other_mean = numbers
    axes = rotation(3) if rotated else np.eye(3)
    x = exact(mean, axes.T @ np.diag(s**2) @ axes)
    y = exact(other_mean, axes.T @ np.diag(t**2) @ axes, 40, seed=1)
    expected = ((mean - other_mean) ** 2).sum() + ((s - t) ** 2).sum()
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5, 20])
def test_other_covariances_have_the_distance_of_the_definition(d):
    x, y = normal(100, d) @ normal(d, d, seed=1), normal(80, d, seed=2) @ normal(d, d, seed=3) + 1
    assert frechet_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-9)


def test_the_same_features_are_at_distance_zero():
    x = normal(60, 8) @ normal(8, 8, seed=1)
    for same in (x, x[::-1], moments(x)):
        assert 0 <= frechet_distance(same, x) < 1e-11 * (x**2).sum()


def test_the_distance_is_symmetric_and_moves_with_rotation_shift_and_scale():
    x, y = normal(60, 5) @ normal(5, 5, seed=1), normal(50, 5, seed=2)
    distance = frechet_distance(x, y)
    assert frechet_distance(y, x) == pytest.approx(distance, rel=1e-12)
    turn = rotation(5)
    assert frechet_distance(x @ turn + 7, y @ turn + 7) == pytest.approx(distance, rel=1e-10)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * distance, rel=1e-12)


def test_moments_stand_for_their_features():
    x, y = normal(60, 5), normal(50, 5, seed=1) + 1
    distance = frechet_distance(x, y)
    for pair in ((moments(x), y), (x, moments(y)), (moments(x), moments(y))):
        assert frechet_distance(*pair) == distance


@pytest.mark.parametrize(("n", "d"), [(5000, 3), (1025, 2), (1024, 2), (2500, 300)])
def test_moments_of_many_blocks_are_those_of_all_features(n, d):
    x = normal(n, d) @ normal(d, d, seed=1) + 1e4
    found = moments(x)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12)
    covariance = np.cov(x.T)
    np.testing.assert_allclose(found.root.T @ found.root, covariance, atol=1e-9 * np.abs(covariance).max())
    assert found.root.shape == (d, d) and found.n == n
    np.testing.assert_array_equal(found.root, np.triu(found.root))


def test_moments_in_single_precision_are_computed_in_double():
    x = (normal(3000, 4) + 1e3).astype(np.float32)
    one, other = moments(x), moments(x.astype(float))
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-13)
    np.testing.assert_allclose(one.root, other.root, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n", [1, 3, 4])
def test_no_more_images_than_features_are_refused(n):
    with pytest.raises(
        ValueError, match=rf"^generated: {n} images have 4 features each; allowed: more images"
    ):
        frechet_distance(normal(n, 4), normal(9, 4))
    with pytest.raises(ValueError, match=rf"^features: {n} images have 4 features each"):
        moments(normal(n, 4))


def test_one_image_more_than_features_is_enough():
    x, y = normal(5, 4), normal(9, 4, seed=1)
    assert frechet_distance(x, y) == pytest.approx(by_definition(x, y), rel=1e-6)


def test_a_constant_feature_adds_the_distance_of_its_means():
    x, y = normal(60, 5), normal(50, 5, seed=1)
    distance = frechet_distance(x, y)
    constant = [np.column_stack([z, np.full(len(z), c)]) for z, c in ((x, 2.0), (y, 5.0))]
    assert frechet_distance(*constant) == pytest.approx(distance + 9, rel=1e-9)
    # against one that varies, of which its variance is left
    x, y = exact([0, 0, 2], np.diag([1.0, 4.0, 9.0])), exact([0, 0], np.diag([4.0, 4.0]), 70, seed=1)
    assert frechet_distance(np.column_stack([y, np.full(70, 5.0)]), x) == pytest.approx(1 + 9 + 9, abs=1e-6)


def test_features_that_are_there_twice_count_twice():
    x, y = normal(60, 5), normal(50, 5, seed=1) + 1
    twice = frechet_distance(np.hstack([x, x]), np.hstack([y, y]))
    assert twice == pytest.approx(2 * frechet_distance(x, y), rel=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_features_in_a_subspace_have_the_distance_of_the_definition_there(seed):
    subspace = rotation(10, seed)[:3]
    low, y = normal(60, 3, seed=seed) * [1, 2, 3], normal(50, 10, seed=seed + 10) + 0.5
    mean, covariance = low.mean(axis=0) @ subspace - y.mean(axis=0), np.cov(y.T)
    overlap = linalg.sqrtm(np.cov(low.T) @ subspace @ covariance @ subspace.T).real
    expected = (mean**2).sum() + np.trace(np.cov(low.T)) + np.trace(covariance) - 2 * np.trace(overlap)
    assert frechet_distance(low @ subspace, y) == pytest.approx(expected, rel=1e-6)
    # within the subspace nothing changes
    other = normal(40, 3, seed=seed + 20)
    within = frechet_distance(low @ subspace, other @ subspace)
    assert within == pytest.approx(frechet_distance(low, other), rel=1e-6)


# a distance to what is copied


def test_cosine_distances_in_two_dimensions():
    near = memorization_distance([[1, 0], [1, 1], [-3, 4]], [[0, 2], [5, 0], [-6, 8]])
    expected = [0, 1 - math.cos(math.pi / 4), 0]  # halfway between both axes, farther from the third
    np.testing.assert_allclose(near.distances, expected, atol=1e-15)
    assert near.neighbors[0] == 1 and near.neighbors[1] in (0, 1) and near.neighbors[2] == 2
    assert near.rows.tolist() == [0, 1, 2] and near.dropped == (0, 0)
    assert near.d == near.distances.mean()
    angles = np.radians([10, 75, 170])
    turned = np.column_stack([np.cos(angles), np.sin(angles)])
    near = memorization_distance(turned, np.eye(2))
    np.testing.assert_allclose(near.distances, 1 - np.cos(np.radians([10, 15, 10])), atol=1e-15)
    assert near.neighbors.tolist() == [0, 1, 0]


@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_copies_are_at_distance_zero_whatever_their_sign_and_length(precision):
    training = normal(50, 7).astype(precision)
    for copies in (training, -training, training[::-1], 4 * training, -training / 2):
        near = memorization_distance(copies, training)
        assert near.d == 0 and (near.distances == 0).all()
    lengths = np.linspace(0.01, 100, 50)[:, None].astype(precision)
    assert memorization_distance(lengths * training, training).d < 1e-12
    np.testing.assert_array_equal(memorization_distance(training, lengths * training).neighbors, range(50))


def test_orthogonal_features_are_at_distance_one():
    near = memorization_distance(np.eye(6)[:2], 3 * np.eye(6)[2:])
    assert near.distances.tolist() == [1, 1] and near.d == 1
    turn = rotation(6)
    assert memorization_distance(turn[:2], turn[2:]).d == pytest.approx(1, abs=1e-12)


def test_the_length_of_features_and_their_axes_do_not_count():
    generated, training = normal(40, 6), normal(60, 6, seed=1)
    near = memorization_distance(generated, training)
    lengths = np.random.default_rng(2).uniform(0.1, 10, (100, 1)) * np.random.default_rng(3).choice(
        [-1, 1], (100, 1)
    )
    turn = rotation(6)
    for changed in (
        memorization_distance(lengths[:40] * generated, lengths[40:] * training),
        memorization_distance(generated @ turn, training @ turn),
    ):
        np.testing.assert_allclose(changed.distances, near.distances, rtol=1e-10)
        np.testing.assert_array_equal(changed.neighbors, near.neighbors)


def test_few_copies_are_close_to_training_images_that_are_far_from_them():
    """Of 2000 orthogonal training images 20 are generated: the other 1980 have no one near."""
    training = np.eye(2000, dtype=np.float32)
    generated = np.tile(training[:20], (100, 1))
    near = memorization_distance(generated, training)
    assert near.d == 0
    np.testing.assert_array_equal(near.neighbors, np.tile(range(20), 100))
    swapped = memorization_distance(training, generated)
    assert swapped.d == pytest.approx(1980 / 2000)
    np.testing.assert_array_equal(swapped.distances, np.arange(2000) >= 20)


def test_features_without_a_direction_are_dropped_and_counted():
    generated, training = normal(7, 3), normal(9, 3, seed=1)
    whole = memorization_distance(generated[[1, 2, 4, 6]], training[[0, 2, 3, 5, 6, 8]])
    generated[[0, 3, 5]], training[[1, 4, 7]] = 0, 0
    near = memorization_distance(generated, training)
    assert near.dropped == (3, 3) and near.d == whole.d
    assert near.rows.tolist() == [1, 2, 4, 6]
    np.testing.assert_array_equal(near.distances, whole.distances)
    np.testing.assert_array_equal(near.neighbors, np.array([0, 2, 3, 5, 6, 8])[whole.neighbors])
    sums_to_zero = np.array([[1.0, -1.0, 0.0]])  # which is not the same
    assert memorization_distance(sums_to_zero, training).dropped == (0, 3)


@pytest.mark.parametrize("chunk", [1, 3, 16, 61])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_the_chunk_size_does_not_matter(chunk, precision):
    generated, training = normal(40, 5).astype(precision), normal(61, 5, seed=1).astype(precision)
    generated[[0, 17]], training[[3, 60]] = 0, 0
    near, other = (
        memorization_distance(generated, training),
        memorization_distance(generated, training, chunk),
    )
    np.testing.assert_array_equal(other.rows, near.rows)
    np.testing.assert_array_equal(other.neighbors, near.neighbors)
    np.testing.assert_allclose(other.distances, near.distances, rtol=1e-12)
    assert other.d == pytest.approx(near.d, rel=1e-12) and other.dropped == near.dropped == (2, 2)


def test_single_and_double_precision_agree():
    generated, training = normal(300, 16), normal(500, 16, seed=1)
    generated[:100] = training[:100] + 1e-3 * generated[:100]
    near = memorization_distance(generated, training)
    single = memorization_distance(generated.astype(np.float32), training.astype(np.float32))
    np.testing.assert_allclose(single.distances, near.distances, atol=1e-6)
    np.testing.assert_allclose(
        single.distances[:100], near.distances[:100], rtol=1e-2
    )  # about 1e-6 themselves
    assert single.d == pytest.approx(near.d, abs=1e-6)


@given(st.data())
def test_distances_are_the_smallest_of_all_pairs(data):
    m, n, d = (data.draw(st.integers(1, 6)) for _ in range(3))
    numbers = st.integers(-9, 9)
    generated, training = (data.draw(arrays(int, (rows, d), elements=numbers)) for rows in (m, n))
    kept, there = (np.flatnonzero(x.any(axis=1)) for x in (generated, training))
    assume(len(kept) and len(there))
    near = memorization_distance(generated, training, chunk=data.draw(st.integers(1, 8)))
    pairs = cosine_distances(generated[kept].tolist(), training[there].tolist())
    np.testing.assert_array_equal(near.rows, kept)
    np.testing.assert_allclose(near.distances, pairs.min(axis=1), atol=1e-12)
    chosen = pairs[range(len(kept)), np.searchsorted(there, near.neighbors)]
    np.testing.assert_allclose(chosen, near.distances, atol=1e-12)
    assert near.d == pytest.approx(pairs.min(axis=1).mean(), abs=1e-12)
    assert 0 <= near.d <= 1 and near.dropped == (m - len(kept), n - len(there))


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e307, 1e-310])
def test_sizes_at_the_ends_of_the_range_are_no_matter(size):
    generated, training = np.round(normal(30, 5), 2), np.round(normal(40, 5, seed=1), 2)
    near = memorization_distance(generated, training)
    for scales in ((size, 1), (1, size), (size, size)):
        other = memorization_distance(generated * scales[0], training * scales[1])
        np.testing.assert_allclose(other.distances, near.distances, rtol=1e-9)
        np.testing.assert_array_equal(other.neighbors, near.neighbors)
    mixed = memorization_distance([[size, 1.0], [1.0, 1.0]], [[size, 2.0], [3.0, 1.0]])
    assert np.isfinite(mixed.distances).all() and mixed.distances[0] < 1e-200


def test_large_features_of_one_sign_are_finite():
    assert memorization_distance(np.full((3, 2), 1e308), [[1e308, 1e308], [1e308, 0]]).d == 0


@pytest.mark.parametrize(
    ("precision", "d", "chunk", "bound"),
    [
        (np.float32, 64, 512, 8 * 512 * (512 + 5 * 64)),
        (np.float64, 64, 512, 16 * 512 * (512 + 3 * 64)),
        (np.float32, 256, 256, 8 * 256 * (256 + 5 * 256)),
        (np.float64, 256, 256, 16 * 256 * (256 + 3 * 256)),
    ],
)
def test_memory_is_that_of_chunks_and_not_of_all_pairs(precision, d, chunk, bound):
    m, n = 4 * chunk, 20 * chunk
    generated, training = (normal(rows, d, seed=rows).astype(precision) for rows in (m, n))
    tracemalloc.start()
    try:
        memorization_distance(generated, training, chunk)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert bound / 2 < peak < bound + 32 * (m + n)
    assert peak < m * n * np.dtype(precision).itemsize / 5


@pytest.mark.parametrize(
    ("generated", "training", "chunk", "message"),
    [
        (np.zeros((3, 2)), np.ones((4, 2)), 1, "all generated features are zero; allowed: some that have"),
        (np.ones((3, 2)), np.zeros((4, 2)), 1, "all training features are zero; allowed: some that have"),
        (np.ones((3, 2)), np.ones((4, 2)), 0, "chunk is 0; allowed: 1 or more"),
        (np.ones((3, 2)), np.ones((4, 3)), 1, "generated have 2 features, training 3; allowed: as many"),
        (np.ones(3), np.ones((4, 3)), 1, r"generated are float64 \(3,\); allowed: numbers of shape \(n, d\)"),
        (np.ones((3, 2)), np.ones((0, 2)), 1, r"training are float64 \(0, 2\)"),
        (np.ones((3, 2)), np.full((4, 2), "a"), 1, r"training are <U1 \(4, 2\)"),
        ([[1.0, np.nan]], np.ones((4, 2)), 1, "generated have values that are not finite"),
        (np.ones((3, 2)), [[1.0, np.inf]], 1, "training have values that are not finite"),
        (np.ones((3, 2)), [[-np.inf, np.inf]], 1, "training have values that are not finite"),
    ],
)
def test_what_has_no_cosine_is_refused(generated, training, chunk, message):
    with pytest.raises(ValueError, match=message):
        memorization_distance(generated, training, chunk)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3), r"generated are float64 \(3,\); allowed: numbers of shape"),
        ([["a"], ["b"]], r"generated are <U1 \(2, 1\)"),
        ([[1.0], [np.nan], [2.0]], "generated have values that are not finite; allowed: finite numbers"),
        ([[np.inf], [-np.inf], [2.0]], "generated have values that are not finite"),
    ],
)
def test_what_has_no_moments_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(x, normal(9, 1))


# what is made of both


def test_the_penalty_begins_below_eps():
    below = np.nextafter(0.1, 0)
    d = [0.05, below, 0.1, 0.2, 1.0]
    expected = [200 / (1 + 2e-14), 10 / below, 10, 10, 10]
    np.testing.assert_allclose(penalized_fid(10, d, eps=0.1), expected, rtol=1e-12)
    assert penalized_fid(10, [1.0, 0.5], eps=1) == pytest.approx([10, 20])


def test_delta_keeps_the_score_of_copies_finite():
    assert DELTA == 1e-15
    assert penalized_fid(3.0, 0.0, eps=0.1) == pytest.approx(3e15)
    assert penalized_fid(3.0, 0.0, eps=0.1, delta=0.5) == 6
    assert penalized_fid(3.0, 0.25, eps=0.5, delta=0.5) == 4
    assert penalized_fid(3.0, 0.75, eps=0.5, delta=0.5) == 2
    assert penalized_fid(0.0, 0.0, eps=0.1) == 0


def test_what_has_no_fid_or_no_distance_has_no_score():
    scores = penalized_fid([np.nan, 10, 10], [0.2, np.nan, 0.2], eps=0.1)
    np.testing.assert_allclose(scores, [np.nan, np.nan, 10])


@pytest.mark.parametrize("eps", [0, -0.1, 1.1, 2, math.nan])
def test_other_thresholds_are_refused(eps):
    with pytest.raises(
        ValueError, match=f"eps is {eps}, delta 1e-15; allowed: eps above 0 and at most 1, delta"
    ):
        penalized_fid(1, 1, eps)


@pytest.mark.parametrize("delta", [0, -1e-15, math.nan])
def test_no_delta_is_refused(delta):
    with pytest.raises(ValueError, match=f"eps is 0.1, delta {delta}; allowed"):
        penalized_fid(1, 1, 0.1, delta)


TRAINING = normal(2000, 8)


def few_copies():
    return np.tile(TRAINING[:20], (100, 1))


def test_few_copies_are_penalized():
    found = mifid(few_copies(), TRAINING, eps=0.01, held_out=normal(500, 8, seed=1), replicates=20)
    assert found.d == found.d_thr == 0 and found.penalized == 1 and found.d_interval == (0, 0)
    assert found.fid == pytest.approx(by_definition(few_copies(), TRAINING))
    assert found.mifid == pytest.approx(found.fid * 1e15)
    assert found.held_out_d == memorization_distance(normal(500, 8, seed=1), TRAINING).d > 0.01
    assert found.nearest.neighbors[:20].tolist() == list(range(20))


def test_other_images_are_not_penalized():
    generated = normal(600, 8, seed=2) + 0.5
    found = mifid(generated, TRAINING, eps=0.01, replicates=20)
    assert found.mifid == pytest.approx(found.fid, rel=1e-12) and found.d_thr == 1 and found.penalized == 0
    assert found.fid == frechet_distance(generated, TRAINING)
    assert found.d == memorization_distance(generated, TRAINING).d > 0.01
    assert math.isnan(found.held_out_d)


@given(st.sampled_from([0.001, 0.05, 1.0]), st.floats(0, 1), st.sampled_from([1e-15, 1e-3]))
def test_a_score_is_made_of_what_it_comes_with(eps, share, delta):
    generated = normal(30, 3, seed=3)
    generated[: round(30 * share)] = TRAINING[: round(30 * share), :3] + 1e-3
    found = mifid(generated, TRAINING[:50, :3], eps=eps, delta=delta, replicates=0)
    assert found.mifid == penalized_fid(found.fid, found.d, eps, delta)
    assert found.d_thr == (found.d if found.d < eps else 1)
    assert (found.eps, found.delta) == (eps, delta) and found.d == found.nearest.distances.mean()


def test_offenders_are_the_closest_pairs_in_order():
    generated = normal(30, 8, seed=4)
    generated[4], generated[5] = 0, TRAINING[77] + 1e-6
    generated[11], generated[29] = -2 * TRAINING[1999], TRAINING[3] + 1e-3
    found = mifid(generated, TRAINING, eps=0.1, replicates=0)
    table = found.offenders(3)
    assert table.columns.tolist() == ["generated", "training", "distance"]
    assert table.generated.tolist() == [11, 5, 29] and table.training.tolist() == [1999, 77, 3]
    assert table.distance[0] == 0 < table.distance[1] < table.distance[2] < 1e-4
    whole = found.offenders(100)
    assert len(whole) == 29 and 4 not in whole.generated.tolist() and whole.distance.is_monotonic_increasing
    pairs = cosine_distances(generated[whole.generated].tolist(), TRAINING[whole.training].tolist())
    np.testing.assert_allclose(np.diag(pairs), whole.distance, atol=1e-12)
    assert len(found.offenders()) == 10
    with pytest.raises(ValueError, match="most is 0; allowed: 1 or more"):
        found.offenders(0)


def test_without_replicates_there_are_no_intervals():
    found = mifid(normal(30, 3), TRAINING[:, :3], eps=0.1, replicates=0)
    for interval in (found.mifid_interval, found.fid_interval, found.d_interval):
        assert len(interval) == 2 and all(map(math.isnan, interval))
    assert math.isnan(found.fid_bias) and math.isnan(found.penalized)


def test_intervals_hold_the_estimates_where_these_are_stable():
    generated = normal(500, 8, seed=5) + 1
    found = mifid(generated, TRAINING, eps=0.01, replicates=60)
    for interval, value in ((found.fid_interval, found.fid), (found.d_interval, found.d)):
        assert interval[0] < value < interval[1] and interval[1] - interval[0] < value / 2
    assert found.mifid_interval == pytest.approx(found.fid_interval)
    narrow = mifid(generated, TRAINING, eps=0.01, replicates=60, level=0.5)
    assert found.fid_interval[0] < narrow.fid_interval[0] < narrow.fid_interval[1] < found.fid_interval[1]


def test_the_seed_decides():
    one, again, other = (
        mifid(normal(100, 3), TRAINING[:, :3], eps=0.1, replicates=20, seed=seed) for seed in (4, 4, 5)
    )
    for name in ("mifid_interval", "fid_interval", "d_interval", "fid_bias"):
        assert getattr(one, name) == getattr(again, name) != getattr(other, name)


@pytest.mark.parametrize("n", [40, 1500])
@pytest.mark.parametrize("precision", [np.float32, np.float64])
def test_replicates_are_scores_of_features_that_are_repeated(n, precision):
    generated = (normal(n, 3, seed=6) * [1, 2, 3] + 50).astype(precision)
    generated[7] = 0
    training = normal(80, 3, seed=7) + np.array([50, 49, 51])
    found = mifid(generated, training, eps=0.1, replicates=20, level=0.9, seed=3)
    rng, parts = np.random.default_rng(3), []
    for _ in range(20):
        drawn = np.repeat(generated, rng.multinomial(n, np.full(n, 1 / n)), axis=0)
        parts.append((frechet_distance(drawn, training), memorization_distance(drawn, training).d))
    fids, ds = np.transpose(parts)
    assert found.fid_bias == pytest.approx(np.mean(fids) - found.fid, abs=1e-8 * found.fid)
    basic = np.quantile((2 * found.fid - fids).clip(0), [0.05, 0.95])
    assert found.fid_interval == pytest.approx(basic, abs=1e-8 * found.fid)
    assert found.d_interval == pytest.approx(np.quantile(ds, [0.05, 0.95]), rel=1e-4)
    combined = np.quantile(penalized_fid((2 * found.fid - fids).clip(0), ds, 0.1), [0.05, 0.95])
    assert found.mifid_interval == pytest.approx(combined, rel=1e-4)
    assert found.penalized == np.mean(ds < 0.1)


def test_the_intervals_cover_the_truth_and_the_bias_is_that_of_samples():
    """A normal generator's distances from fixed training features are known; its samples' FID is larger."""
    rng, simulations = np.random.default_rng(0), 120
    training = rng.normal(size=(400, 6))
    root = np.triu(rng.normal(0, 0.3, (6, 6))) + np.eye(6)
    mean = np.array([0.5, 0.0, 0.0, -0.3, 0.0, 0.0])
    truth = frechet_distance(Moments(mean, root, 120), training)
    d = memorization_distance(rng.normal(size=(50_000, 6)) @ root + mean, training).d
    found = [
        mifid(rng.normal(size=(120, 6)) @ root + mean, training, eps=0.01, replicates=60, seed=simulation)
        for simulation in range(simulations)
    ]

    def covered(of, intervals):
        return np.mean([low <= of <= high for low, high in intervals])

    assert 0.85 <= covered(truth, [f.fid_interval for f in found])
    assert 0.85 <= covered(d, [f.d_interval for f in found])
    excess = np.mean([f.fid for f in found]) - truth
    assert excess > 0 and 0.5 < np.mean([f.fid_bias for f in found]) / excess < 2


def test_where_samples_are_few_the_interval_lies_below_the_estimate_and_its_bias():
    """Both are drawn alike, so that nearly all of the distance is bias."""
    found = mifid(normal(320, 32, seed=1), normal(20_000, 32, seed=2), eps=0.1, replicates=40)
    truth = frechet_distance(normal(20_000, 32, seed=3), normal(20_000, 32, seed=2))
    assert truth < 0.05 and found.fid > 0.5 and found.fid_interval[1] < found.fid
    assert found.fid_bias > 0.5 * found.fid


def test_copies_among_features_that_are_nearly_parallel_are_found_in_single_precision():
    rng = np.random.default_rng(0)
    training = (100 + 0.05 * rng.normal(size=(300, 16))).astype(np.float32)
    near = memorization_distance(training[:90], training)
    assert near.d == 0 and near.neighbors.tolist() == list(range(90))
    others = (100 + 0.05 * rng.normal(size=(90, 16))).astype(np.float32)
    single, double = (
        memorization_distance(others.astype(t), training.astype(t)) for t in (np.float32, float)
    )
    np.testing.assert_allclose(single.distances, double.distances, rtol=1e-6)
    assert 0 < double.d < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replicates": 5}, "replicates is 5; allowed: 0 for none, or 20 or more"),
        ({"replicates": 19}, "replicates is 19"),
        ({"replicates": -20}, "replicates is -20"),
        ({"level": 0}, "level is 0; allowed: between 0 and 1"),
        ({"level": 95}, "level is 95; allowed: between 0 and 1"),
        ({"level": math.nan}, "level is nan"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"eps": 0}, "eps is 0, delta 1e-15; allowed: eps above 0 and at most 1"),
        ({"eps": 2}, "eps is 2, delta 1e-15"),
        ({"delta": 0}, "eps is 0.1, delta 0; allowed: .* delta above 0"),
    ],
)
def test_other_options_are_refused_before_anything_is_computed(options, message):
    with pytest.raises(ValueError, match=message):
        mifid(None, None, **{"eps": 0.1, **options})


@pytest.mark.parametrize(
    ("generated", "training", "options", "message"),
    [
        (normal(9, 3), normal(9, 2), {}, "generated have 3 features, training 2; allowed: as many"),
        (
            normal(9, 3),
            normal(9, 3),
            {"held_out": normal(9, 2)},
            "held_out have 2 features, training 3; allowed: as",
        ),
        (normal(3, 3), normal(9, 3), {}, "3 images have 3 features each; allowed: more images"),
        (normal(9, 3), normal(2, 3), {}, "2 images have 3 features each; allowed: more images"),
        (
            normal(9, 3),
            normal(9, 3),
            {"held_out": [[np.inf] * 3]},
            "held_out have values that are not finite",
        ),
        (None, normal(9, 3), {}, "generated are object"),
        (normal(9, 3), np.full((9, 3), np.nan), {}, "training have values that are not finite"),
    ],
)
def test_features_that_have_no_score_are_refused(generated, training, options, message):
    with pytest.raises(ValueError, match=message):
        mifid(generated, training, eps=0.1, **options)


def test_the_thresholds_of_the_competition_are_known():
    assert EPS == {"inception": 0.1, "nasnet": 0.25}


# another implementation


class Projection(nn.Module):
    """Images (n, 3, 8, 8) of bytes to features (n, 12)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("matrix", torch.from_numpy(normal(192, 12, seed=8)))

    def forward(self, images):
        return (images.flatten(1).double() - 127.5) @ self.matrix


def torchmetrics_score(real, fake, eps):
    metric = MemorizationInformedFrechetInceptionDistance(Projection(), cosine_distance_eps=eps)
    metric.set_dtype(torch.float64)
    for images, is_real in ((real, True), (fake, False)):
        for part in torch.from_numpy(images).split(64):
            metric.update(part, real=is_real)
    return float(metric.compute())


def pictures(seed, count):
    return np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)


def nearly(images, seed):
    """Copies that are not exact: a score at d = 0 is made of rounding errors there."""
    noise = np.random.default_rng(seed).integers(-4, 5, images.shape)
    return (images.astype(int) + noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["others", "half copies", "few copies"])
def test_torchmetrics_agrees_where_it_is_told_real_images_are_fake(kind):
    """It averages over what it calls real, and so does not see that few copies are copies."""
    training, eps = pictures(0, 300), 0.1
    generated = {
        "others": pictures(1, 200),
        "half copies": np.concatenate([nearly(training[:100], 2), pictures(1, 100)]),
        "few copies": nearly(np.tile(training[:20], (10, 1, 1, 1)), 3),
    }[kind]
    x, y = (Projection()(torch.from_numpy(images)).numpy() for images in (generated, training))
    found = mifid(x, y, eps=eps, delta=10e-15, replicates=0)
    assert found.mifid == pytest.approx(torchmetrics_score(generated, training, eps), rel=1e-4)
    if kind == "few copies":
        assert found.d < 0.01 and found.mifid > 100 * found.fid
        assert torchmetrics_score(training, generated, eps) == pytest.approx(found.fid, rel=1e-4)
