"""Nearest neighbors and their distance ratio against direct loops and closed forms."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memlib.metrics import neighbors
from memlib.metrics.neighbors import distance_ratio, distance_ratio_as_published, half_resolution, nearest


def brute_force(queries, references, exclude_self=False):
    distance, index = [], []
    for i, q in enumerate(queries):
        best, best_j = np.inf, -1
        for j, r in enumerate(references):
            d = np.sqrt(((np.asarray(q, float) - np.asarray(r, float)) ** 2).sum())
            if d < best and not (exclude_self and i == j):
                best, best_j = d, j
        distance.append(best)
        index.append(best_j)
    return np.array(distance), np.array(index)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_half_resolution_averages_blocks_channel_by_channel():
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 6), dtype=np.uint8)
    features = half_resolution(images)
    assert features.shape == (3, 12)
    for i, c, row, column in np.ndindex(3, 2, 2, 3):
        block = images[i, c, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert features[i, c * 6 + row * 3 + column] == pytest.approx(block.mean() / 255)


@settings(max_examples=100)
@given(st.data())
def test_the_nearest_is_the_first_of_those_at_the_least_distance_whatever_is_done_at_once(data):
    n, m, d = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    rows = arrays(int, st.just((n, d)), elements=st.integers(-5, 5))  # ties and copies are frequent
    queries, exclude_self = data.draw(rows), data.draw(st.booleans())
    references = queries if exclude_self else data.draw(arrays(int, (m, d), elements=st.integers(-5, 5)))
    with mock.patch.object(neighbors, "BLOCK", data.draw(st.integers(1, 60))):
        distance, index = nearest(queries, references, exclude_self=exclude_self)
    expected, expected_index = brute_force(queries, references, exclude_self)
    np.testing.assert_array_equal(distance, expected)
    np.testing.assert_array_equal(index, expected_index)


def test_a_copy_is_at_distance_zero_and_a_near_copy_is_told_from_it():
    references = 1e3 + normal(30, 64)  # far from the origin, where the expanded square has lost these digits
    queries = references[::-1].copy()
    near = np.concatenate([queries + 1e-9, references])  # every reference has a near copy in front of it
    distance, index = nearest(queries, near)
    assert (distance == 0).all()
    np.testing.assert_array_equal(index, 30 + np.arange(30)[::-1])


def test_bytes_and_floats_give_the_same_neighbors():
    x = np.random.default_rng(0).integers(0, 256, (30, 8), dtype=np.uint8)
    found, expected = nearest(x[:10], x[10:]), nearest(x[:10].astype(float), x[10:].astype(float))
    np.testing.assert_array_equal(found, expected)


def test_distance_ratio_in_closed_form_and_swapped():
    train, validation, samples = [[0.0], [10.0]], [[3.0], [14.0]], [[-1.0], [12.0]]
    ratio = distance_ratio(train, validation, samples)
    assert ratio.rho.tolist() == [3.0, 2.0]
    assert ratio.to_validation.tolist() == [3.0, 4.0] and ratio.to_sample.tolist() == [1.0, 2.0]
    assert ratio.nearest_validation.tolist() == [0, 1] and ratio.nearest_sample.tolist() == [0, 1]
    np.testing.assert_allclose(distance_ratio(train, samples, validation).rho, 1 / ratio.rho)


def test_distance_ratio_says_where_a_copy_is():
    train, held_out = normal(20, 4), normal(10, 4, seed=1)
    copied, both = held_out.copy(), held_out.copy()
    copied[7], both[2] = train[3], train[3]
    assert distance_ratio(train, held_out, copied).rho[3] == np.inf
    assert distance_ratio(train, copied, held_out).rho[3] == 0
    assert np.isnan(distance_ratio(train, both, copied).rho[3])


@pytest.mark.parametrize("batch", [1, 4])
def test_as_published_equals_a_direct_loop(batch):
    train, validation, samples = normal(18, 3), normal(9, 3, seed=1), normal(9, 3, seed=2)
    expected = []
    for start in range(0, len(train), batch):
        part = train[start : start + batch]
        numerator, denominator = (
            np.array([[np.linalg.norm(a - b) for b in other] for a in part])
            for other in (validation, samples)
        )
        for i in range(len(part)):
            expected.append(numerator[0, numerator[i].argmin()] / denominator[0, denominator[i].argmin()])
    published = distance_ratio_as_published(train, validation, samples, batch)
    right = distance_ratio(train, validation, samples)
    np.testing.assert_allclose(published.rho, expected, rtol=1e-13)
    np.testing.assert_array_equal(published.nearest_sample, right.nearest_sample)
    assert np.allclose(published.rho, right.rho, rtol=1e-12) == (batch == 1)
