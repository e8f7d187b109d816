"""MiFID and its parts against closed forms, direct loops, known truths and torchmetrics."""

import math
import tracemalloc
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torchmetrics.image.mifid import MemorizationInformedFrechetInceptionDistance

from memlib.metrics import neighbors
from memlib.metrics.fid import Moments, frechet_distance
from memlib.metrics.mifid import memorization_distance, mifid, penalized_fid

PRECISIONS = (np.float32, np.float64)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def cosine_distances(generated, training):
    """Of all pairs, one by one."""

    def dot(a, b):
        return math.fsum(x * y for x, y in zip(a, b, strict=True))

    def distance(g, r):
        return 1 - abs(dot(g, r)) / math.sqrt(dot(g, g) * dot(r, r))

    return np.array([[distance(g, r) for r in training] for g in generated])


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
    with mock.patch.object(neighbors, "BLOCK", data.draw(st.integers(1, 60))):
        near = memorization_distance(generated, training)
    pairs = cosine_distances(generated[kept].tolist(), training[there].tolist())
    np.testing.assert_array_equal(near.rows, kept)
    np.testing.assert_allclose(near.distances, pairs.min(axis=1), atol=tolerance)
    chosen = cosine_distances(generated[kept].tolist(), training[near.neighbors].tolist())
    np.testing.assert_allclose(near.distances, np.diag(chosen), atol=1e-12)
    assert near.d == pytest.approx(near.distances.mean())


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
    for size in (1e147, 1e-310):
        other = memorization_distance(generated * size, training * size)
        np.testing.assert_allclose(other.distances, near.distances, rtol=1e-9)
        np.testing.assert_array_equal(other.neighbors, near.neighbors)
    assert memorization_distance(np.full((3, 4), 1e149), [[1e149] * 4, [1e149, 0, 0, 0]]).d == 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_is_that_of_the_features_and_not_of_all_pairs(monkeypatch, precision):
    monkeypatch.setattr(neighbors, "BLOCK", block := 2**16)
    generated, training = (normal(rows, 64, seed=rows).astype(precision) for rows in (2000, 10_000))
    tracemalloc.start()
    try:
        memorization_distance(generated, training)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    bound = training.nbytes + 32 * (len(generated) + len(training)) + 5 * 8 * block
    assert peak < bound < len(generated) * training.nbytes / 64 / 4


# what is made of both


def test_the_penalty_begins_below_eps_and_delta_keeps_it_finite():
    below = np.nextafter(0.1, 0)
    d, fid = [0.0, 0.05, below, 0.1, 1.0, np.nan, 0.2], [3, 10, 10, 10, 10, 10, np.nan]
    expected = [3e15, 200 / (1 + 2e-14), 10 / below, 10, 10, np.nan, np.nan]
    np.testing.assert_allclose(penalized_fid(fid, d, eps=0.1), expected, rtol=1e-12)


TRAINING = normal(400, 8)


def test_few_copies_are_penalized():
    copies, held_out = np.tile(TRAINING[:20], (20, 1)), normal(100, 8, seed=1)
    found = mifid(copies, TRAINING, eps=0.01, held_out=held_out, replicates=20)
    assert found.d == 0 and found.d_interval == (0, 0)
    assert found.fid == frechet_distance(copies, TRAINING)
    assert found.mifid == pytest.approx(found.fid * 1e15)
    assert found.held_out_d == memorization_distance(held_out, TRAINING).d > 0.01
    np.testing.assert_array_equal(found.nearest.neighbors, np.tile(range(20), 20))


SAME = {
    "themselves": lambda x: x,
    "in another order": lambda x: x[::-1],
    "in other last places": lambda x: np.nextafter(x, np.inf),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("scale", [1e-6, 1, 1e4])
@pytest.mark.parametrize("offset", [0, 1, 1e3])
def test_the_mifid_of_the_training_images_is_undefined(precision, scale, offset, caplog):
    """One rounding error over another: 0, or any number."""
    x = (scale * (normal(500, 64) + offset)).astype(precision)
    for name, change in SAME.items():
        found = mifid(change(x), x, eps=0.1, replicates=20)
        assert found.fid < found.fid_rounding < 1e-6 * scale**2 * (1 + offset**2), name
        assert np.isnan([found.mifid, *found.mifid_interval]).all()
        assert found.fid_interval[0] <= found.fid <= found.fid_interval[1]
    assert "MiFID is undefined: FID is" in caplog.text


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_mifid_of_all_training_images_but_one_is_defined(precision, caplog):
    """Covariances of 500 and of 499 differ by far more than rounding, and float64 and float32 agree."""
    x = (normal(500, 64) + 1).astype(precision)
    found = mifid(x[:-1], x, eps=0.1, replicates=20)
    assert found.fid > 1e4 * found.fid_rounding and not caplog.text
    assert found.fid == pytest.approx(mifid(x[:-1].astype(float), x, eps=0.1, replicates=0).fid, rel=1e-9)
    assert found.mifid == pytest.approx(found.fid * 1e15)


@pytest.mark.parametrize("unit", [2.0**330, 2.0**450])
def test_large_features_have_the_same_mifid_in_their_unit(unit):
    x, y = normal(60, 4), normal(40, 4, seed=1)
    one, other = (mifid(scale * y, scale * x, eps=0.1, replicates=20) for scale in (1, unit))
    assert (other.mifid, other.fid) == pytest.approx((one.mifid * unit**2, one.fid * unit**2), rel=1e-9)
    assert other.mifid_interval == pytest.approx([unit**2 * end for end in one.mifid_interval], rel=1e-9)


def test_other_images_are_not_penalized():
    generated = normal(300, 8, seed=2) + 0.5
    found = mifid(generated, TRAINING, eps=0.01, replicates=20)
    assert found.mifid == pytest.approx(found.fid, rel=1e-12)
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
    found = mifid(generated, training, eps=0.1, replicates=20, seed=3)
    rng, parts = np.random.default_rng(3), []
    for _ in range(20):
        drawn = np.repeat(generated, rng.multinomial(n, np.full(n, 1 / n)), axis=0)
        parts.append((frechet_distance(drawn, training), memorization_distance(drawn, training).d))
    fids, ds = np.transpose(parts)
    # of neighbors that float32 cannot tell apart another one may be found
    rounding = 1e-6 / found.d if precision == np.float32 else 1e-9
    assert found.fid_bias == pytest.approx(np.mean(fids) - found.fid, abs=1e-9 * found.fid)
    basic = 2 * found.fid - fids
    assert found.fid_interval == pytest.approx(np.quantile(basic, [0.025, 0.975]), rel=1e-9)
    assert found.d_interval == pytest.approx(np.quantile(ds, [0.025, 0.975]), rel=rounding)
    combined = np.quantile(penalized_fid(basic, ds, 0.1), [0.025, 0.975])
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
        found = mifid(x, y, eps=0.1, replicates=0)
        assert found.mifid == pytest.approx(torchmetrics_score(generated, training), rel=1e-6)
    assert found.d < 0.01 and found.mifid > 100 * found.fid
    assert torchmetrics_score(training, copies) == pytest.approx(found.fid, rel=1e-6)
