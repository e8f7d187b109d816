import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memlib.neighbors import (
    binned_mean,
    distance_ratio,
    distance_ratio_as_published,
    half_resolution,
    nearest,
)


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
    assert features.shape == (3, 12) and features.dtype == np.float64
    for i in range(3):
        for c in range(2):
            for row in range(2):
                for column in range(3):
                    block = images[i, c, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
                    assert features[i, c * 6 + row * 3 + column] == pytest.approx(block.mean() / 255)


def test_half_resolution_spans_zero_to_one_exactly():
    images = np.stack([np.zeros((1, 2, 2), np.uint8), np.full((1, 2, 2), 255, np.uint8)])
    assert half_resolution(images).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    "images", [np.zeros((1, 1, 4, 4)), np.zeros((1, 1, 3, 4), np.uint8), np.zeros((4, 4), np.uint8)]
)
def test_half_resolution_refuses_other_images(images):
    with pytest.raises(ValueError, match=r"uint8 .* even H and W"):
        half_resolution(images)


def test_nearest_in_closed_form():
    distance, index = nearest([[0.0, 0.0], [10.0, 0.0]], [[3.0, 4.0], [10.0, 1.0], [-6.0, 0.0]])
    assert distance.tolist() == [5.0, 1.0] and index.tolist() == [0, 1]
    assert distance.dtype == np.float64 and index.dtype == np.int64


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("chunk", [1, 3, 7, 40, 1000])
def test_nearest_equals_a_double_loop_whatever_the_chunk_size(chunk, exclude_self):
    references = normal(40, 5)
    references[[11, 23, 39]] = references[4]  # duplicates: the first one wins
    queries = references if exclude_self else np.concatenate([normal(20, 5, seed=1), references[[39, 23]]])
    distance, index = nearest(queries, references, exclude_self=exclude_self, chunk=chunk)
    expected, expected_index = brute_force(queries, references, exclude_self)
    np.testing.assert_allclose(distance, expected, rtol=1e-14)
    np.testing.assert_array_equal(index, expected_index)


def test_a_copy_is_at_distance_zero_and_a_near_copy_is_told_from_it():
    references = 1e3 + normal(30, 64)  # far from the origin, where the expanded square has lost these digits
    queries = references[::-1].copy()
    near = np.concatenate([queries + 1e-9, references])  # every reference has a near copy in front of it
    distance, index = nearest(queries, near)
    assert (distance == 0).all()
    np.testing.assert_array_equal(index, 30 + np.arange(30)[::-1])


def test_exclude_self_finds_the_twin():
    x = np.concatenate([normal(4, 3), normal(4, 3)])
    distance, index = nearest(x, x, exclude_self=True, chunk=3)
    assert (distance == 0).all() and index.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]


def test_bytes_and_floats_give_the_same_neighbors():
    x = np.random.default_rng(0).integers(0, 256, (30, 8), dtype=np.uint8)
    np.testing.assert_array_equal(
        nearest(x[:10], x[10:]), nearest(x[:10].astype(float), x[10:].astype(float))
    )


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_nearest_is_a_minimum_and_moves_with_its_arguments(data):
    n, m, d = (data.draw(st.integers(1, 6)) for _ in range(3))
    numbers = st.integers(-50, 50)
    queries, references = (
        data.draw(arrays(int, (n, d), elements=numbers)),
        data.draw(arrays(int, (m, d), elements=numbers)),
    )
    distance, index = nearest(queries, references, chunk=data.draw(st.integers(1, 8)))
    expected, expected_index = brute_force(queries, references)
    np.testing.assert_array_equal(distance, expected)
    np.testing.assert_array_equal(index, expected_index)
    shift = data.draw(arrays(int, d, elements=numbers))
    np.testing.assert_array_equal(nearest(queries + shift, references + shift)[0], distance)
    np.testing.assert_allclose(nearest(3 * queries, 3 * references)[0], 3 * distance)
    more = nearest(queries, np.concatenate([references, references + 1]))[0]
    assert (more <= distance).all()


@pytest.mark.parametrize(
    ("queries", "references", "options", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), {}, "queries must be numbers of shape"),
        (np.zeros((3, 2)), np.zeros((3, 1)), {}, "as many columns"),
        (np.zeros((3, 2)), np.zeros((0, 2)), {}, "at least 1 rows, got 0"),
        (np.zeros((1, 2)), np.zeros((1, 2)), {"exclude_self": True}, "at least 2 rows, got 1"),
        (np.zeros((3, 2)), np.zeros((4, 2)), {"exclude_self": True}, "equal shapes"),
        (np.zeros((3, 2)), np.zeros((4, 2)), {"chunk": 0}, "chunk must be at least 1, got 0"),
        (np.full((3, 2), np.nan), np.zeros((4, 2)), {}, "queries must be finite"),
        (np.zeros((3, 2)), np.full((4, 2), -np.inf), {}, "references must be finite"),
    ],
)
def test_nearest_refuses_what_it_cannot_answer(queries, references, options, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, references, **options)


def test_distance_ratio_in_closed_form_and_swapped():
    train, validation, samples = [[0.0], [10.0]], [[3.0], [14.0]], [[-1.0], [12.0]]
    ratio = distance_ratio(train, validation, samples)
    assert ratio.rho.tolist() == [3.0, 2.0]
    assert ratio.to_validation.tolist() == [3.0, 4.0] and ratio.to_sample.tolist() == [1.0, 2.0]
    assert ratio.nearest_validation.tolist() == [0, 1] and ratio.nearest_sample.tolist() == [0, 1]
    np.testing.assert_allclose(distance_ratio(train, samples, validation).rho, 1 / ratio.rho)


def test_distance_ratio_is_one_for_equal_sets_and_says_where_a_copy_is():
    train, held_out = normal(20, 4), normal(10, 4, seed=1)
    assert (distance_ratio(train, held_out, held_out).rho == 1).all()
    copied, both = held_out.copy(), held_out.copy()
    copied[7], both[2] = train[3], train[3]
    assert distance_ratio(train, held_out, copied).rho[3] == np.inf
    assert distance_ratio(train, copied, held_out).rho[3] == 0
    assert np.isnan(distance_ratio(train, both, copied).rho[3])


def test_distance_ratio_needs_as_many_samples_as_validation_images():
    with pytest.raises(ValueError, match="got 4 and 5"):
        distance_ratio(normal(3, 2), normal(5, 2), normal(4, 2))


@pytest.mark.parametrize("batch", [1, 4, 10, 256])
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
    np.testing.assert_allclose(published.rho[::batch], right.rho[::batch], rtol=1e-13)
    assert np.allclose(published.rho, right.rho) == (batch == 1)


def test_as_published_refuses_an_empty_batch():
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        distance_ratio_as_published(normal(3, 2), normal(2, 2), normal(2, 2), batch=0)


def test_binned_mean_equals_a_direct_loop():
    rng = np.random.default_rng(0)
    scores, values = rng.normal(3, 4, 200), rng.gamma(2, 1, 200)
    scores[:3], values[3] = [-5, 11, 2], np.inf
    edges, mean, sem, count = binned_mean(scores, values, 2, -5, 11)
    np.testing.assert_allclose(edges, np.arange(-5, 12, 2))
    for k in range(8):
        last = k == 7
        inside = (scores >= edges[k]) & ((scores < edges[k + 1]) | (last & (scores == edges[k + 1])))
        group = values[inside & np.isfinite(values)]
        assert count[k] == len(group)
        np.testing.assert_allclose(mean[k], group.mean() if len(group) else np.nan)
        np.testing.assert_allclose(
            sem[k], group.std(ddof=1) / np.sqrt(len(group)) if len(group) > 1 else np.nan
        )


def test_binned_mean_leaves_gaps_and_rounds_the_range_up():
    edges, mean, sem, count = binned_mean([0.5, 4.5, 4.6, 99.0, np.nan], [1.0, 2.0, 4.0, 9.0, 9.0], 2, 0, 5)
    assert edges.tolist() == [0, 2, 4, 6] and count.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(mean, [1, np.nan, 3])
    np.testing.assert_allclose(sem, [np.nan, np.nan, 1])
    assert len(binned_mean([0.1], [1.0], 0.1, 0, 0.3)[0]) == 4


@pytest.mark.parametrize("arguments", [(0, 0, 1), (1, 2, 2), (1, 3, 2), (np.nan, 0, 1), (1, 0, np.inf)])
def test_binned_mean_refuses_bins_that_are_none(arguments):
    with pytest.raises(ValueError, match="width > 0 and low < high"):
        binned_mean([0.0], [0.0], *arguments)


def test_binned_mean_refuses_arrays_of_different_length():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        binned_mean([0.0, 1.0], [0.0, 1.0, 2.0], 1, 0, 2)
