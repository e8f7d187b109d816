"""Yardsticks of others against direct loops and cases by hand, and the area under the ROC curve."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import memlib.metrics
from memlib.metrics import (
    ENOUGH,
    auc,
    authenticity,
    closer_share,
    data_copying,
    density_coverage,
    partitioned,
    precision_recall,
    radii,
    roc,
)

scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).map(
    lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True))
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Where processors are shared, the threads of k-means wait for each other most of the time."""
    with threadpool_limits(1):
        yield


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def spheres(training, k):
    """Distance of every row to its k-th nearest other one, by sorting."""
    distances = cdist(training, training)
    np.fill_diagonal(distances, -1)  # first of all, also before its twins
    return np.sort(distances, axis=1)[:, k]


@st.composite
def two_sets(draw):
    """Two sets of points on a grid, with ties and duplicates, and a k for both."""
    d, k = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    sizes = draw(st.integers(k + 1, 8)), draw(st.integers(k + 1, 8))
    return *(draw(arrays(int, (n, d), elements=st.integers(-4, 4))) for n in sizes), k


# whether generated images lie closer to training images than held-out ones


def test_one_cell_counts_pairs():
    training, held_out, generated = normal(40, 3), normal(30, 3, seed=1), normal(25, 3, seed=2) * 1.1
    held_out[4] = generated[7]  # a tie
    test = data_copying(training, held_out, generated, cells=1)
    far, near = (cdist(x, training).min(axis=1) for x in (generated, held_out))
    u = sum(1.0 if q > p else 0.5 if q == p else 0.0 for q in far for p in near)
    assert test.statistic == pytest.approx((u - 30 * 25 / 2) / math.sqrt(30 * 25 * 56 / 12), rel=1e-12)
    assert test.z.tolist() == [test.statistic] and test.weights.tolist() == [1]
    assert test.generated.tolist() == [25]


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_one_cell_has_the_statistic_of_mann_and_whitney(scale):
    training, held_out, generated = normal(50, 4), normal(31, 4, seed=1), scale * normal(44, 4, seed=2)
    far, near = (cdist(x, training).min(axis=1) for x in (generated, held_out))
    u = stats.mannwhitneyu(far, near).statistic
    m, n = len(far), len(near)
    z = (u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12)
    assert data_copying(training, held_out, generated, cells=1).statistic == pytest.approx(z, rel=1e-10)


@pytest.mark.parametrize("cells", [1, 3])
def test_copies_are_far_below_zero_and_strangers_far_above(cells):
    training, held_out = normal(300, 4), normal(150, 4, seed=1)
    copies = training[:150] + 1e-3 * normal(150, 4, seed=2)
    alike, strangers = normal(150, 4, seed=3), 3 * normal(150, 4, seed=3)
    statistics = [data_copying(training, held_out, x, cells).statistic for x in (copies, alike, strangers)]
    assert statistics[0] < -5 and abs(statistics[1]) < 3 and statistics[2] > 5
    assert data_copying(training, training[:150], copies, cells).statistic > 0  # the held-out are closer yet


def test_the_statistic_is_standard_normal_where_both_are_drawn_alike():
    rng, draws = np.random.default_rng(0), 200
    training = rng.normal(size=(100, 3))
    found = [
        data_copying(training, rng.normal(size=(60, 3)), rng.normal(size=(50, 3)), cells=1).statistic
        for _ in range(draws)
    ]
    assert abs(np.mean(found)) < 4 / np.sqrt(draws)
    assert np.std(found) == pytest.approx(1, abs=4 / np.sqrt(2 * draws))


def groups(*sizes, seed=0):
    """Points around 0, 100, 200, ... on a line, as many as said."""
    places = np.repeat(100 * np.arange(len(sizes)), sizes)
    return places[:, None] + normal(sum(sizes), 2, seed=seed) * [1, 0.1]


def test_cells_are_weighted_by_their_held_out_images():
    training, held_out, generated = groups(60, 60), groups(30, 90, seed=1), groups(40, 25, seed=2)
    generated[:40] *= 3
    test = data_copying(training, held_out, generated, cells=2)
    first = int(test.generated[0] != 40)  # k-means numbers the cells as it likes
    assert test.generated[[first, 1 - first]].tolist() == [40, 25]
    assert test.weights[[first, 1 - first]].tolist() == [0.25, 0.75]
    alone = [
        data_copying(training[:60], held_out[:30], generated[:40], 1).statistic,
        data_copying(training[60:], held_out[30:], generated[40:], 1).statistic,
    ]
    np.testing.assert_allclose(test.z[[first, 1 - first]], alone, rtol=1e-12)
    assert test.statistic == pytest.approx(0.25 * alone[0] + 0.75 * alone[1], rel=1e-12)


@pytest.mark.parametrize("few", [0, 1, ENOUGH])
def test_cells_with_few_generated_images_are_left_out(few):
    training, held_out, generated = groups(60, 60), groups(30, 90, seed=1), groups(ENOUGH + 1, few, seed=2)
    test = data_copying(training, held_out, generated, cells=2)
    used = int(test.generated.argmax())
    assert test.generated[[used, 1 - used]].tolist() == [ENOUGH + 1, few]
    assert math.isnan(test.z[1 - used]) and test.statistic == test.z[used]
    assert test.weights.sum() == 1


def test_cells_without_held_out_images_are_left_out():
    test = data_copying(groups(60, 60), groups(30, seed=1), groups(40, 40, seed=2), cells=2)
    assert np.isnan(test.z).sum() == 1 and sorted(test.weights) == [0, 1]
    assert test.statistic == np.nansum(test.z)


def test_the_seed_decides_where_cells_are():
    x = normal(200, 3), normal(150, 3, seed=1), normal(150, 3, seed=2)
    one, again, other = (data_copying(*x, cells=3, seed=seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.z, again.z)
    assert not np.array_equal(one.z, other.z)


@pytest.mark.parametrize(
    ("generated", "options", "message"),
    [
        (normal(40, 2), {"cells": 0}, "cells is 0; allowed: 1 to 50, the training images"),
        (normal(40, 2), {"cells": 51}, "cells is 51; allowed: 1 to 50"),
        (
            normal(20, 2),
            {"cells": 1},
            r"no cell has held-out and more than 20 generated images: \[20\] of 20",
        ),
        (normal(30, 2), {"cells": 3}, "of 30; allowed: more generated images, or fewer cells than 3"),
        (normal(40, 3), {"cells": 1}, "features|columns"),
        (np.full((40, 2), np.nan), {"cells": 1}, "NaN"),
    ],
)
def test_what_cannot_be_tested_is_refused(generated, options, message):
    with pytest.raises(ValueError, match=message):
        data_copying(normal(50, 2), normal(30, 2, seed=1), generated, **options)


# which generated images are authentic


def test_authentic_is_what_is_farther_from_an_image_than_its_neighbor_is():
    training = [[0.0, 0.0], [0.0, 3.0], [10.0, 0.0]]  # spaced 3, 3 and 10
    generated = [[2.0, 0.0], [0.0, -4.0], [3.0, 0.0], [10.0, 9.0], [21.0, 0.0], [0.0, 3.0]]
    found = authenticity(training, generated)
    # at the same distance it is not authentic
    assert found.authentic.tolist() == [False, True, False, False, True, False]
    assert found.share == pytest.approx(2 / 6)


def test_copies_are_never_authentic():
    training = normal(40, 5)
    found = authenticity(training, training[[3, 3, 17, 39]])
    assert found.share == 0 and not found.authentic.any()
    assert authenticity(training, training + 100).share == 1


def test_a_training_image_that_is_there_twice_leaves_only_its_copies():
    """Its nearest other one is at distance 0, so that everything else near it is authentic."""
    training = [[0.0], [0.0], [5.0]]
    assert authenticity(training, [[0.0], [1e-6], [4.0], [10.0]]).authentic.tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_a_given_spacing_is_used():
    training, generated = normal(40, 3), normal(60, 3, seed=1)
    distances = cdist(training, training)
    np.fill_diagonal(distances, np.inf)
    found, given_it = (
        authenticity(training, generated),
        authenticity(training, generated, distances.min(axis=1)),
    )
    np.testing.assert_array_equal(given_it.authentic, found.authentic)
    assert 0 < found.share == given_it.share < 1
    assert authenticity(training, generated, np.zeros(40)).share == 1
    assert authenticity(training, generated, np.full(40, np.inf)).share == 0


@pytest.mark.parametrize("shape", [(), (3,), (4, 1), (5,)])
def test_the_spacing_of_other_images_is_refused(shape):
    with pytest.raises(ValueError, match=rf"spacing is \({', '.join(map(str, shape))},?\); allowed: \(4,\)"):
        authenticity(normal(4, 2), normal(7, 2), np.ones(shape))


@given(two_sets())
def test_authenticity_equals_a_direct_loop(sets):
    training, generated, _ = sets
    authentic = []
    for g in generated.tolist():
        distances = [math.dist(g, r) for r in training.tolist()]
        nearest = distances.index(min(distances))
        others = [math.dist(training[nearest], r) for i, r in enumerate(training) if i != nearest]
        authentic.append(min(distances) > min(others))
    found = authenticity(training, generated)
    assert found.authentic.tolist() == authentic and found.share == pytest.approx(np.mean(authentic))


# how many training images have a generated one closer than any held-out one


def test_the_share_is_one_half_where_both_are_drawn_alike():
    shares = [
        closer_share(normal(100, 3), normal(100, 3, seed=seed), normal(100, 3, seed=-seed % 1000))
        for seed in range(1, 31)
    ]
    assert np.mean(shares) == pytest.approx(0.5, abs=4 * np.std(shares) / np.sqrt(30))
    assert 0 < np.std(shares) < 0.15


def test_copies_raise_the_share_up_to_one():
    training, held_out = normal(60, 3), normal(60, 3, seed=1)
    alike = normal(60, 3, seed=2)
    half = np.concatenate([training[:30], alike[30:]])
    shares = [closer_share(training, held_out, x) for x in (alike, half, training)]
    assert shares[0] < 0.65 < shares[1] < shares[2] == 1
    assert closer_share(training, training, held_out) == 0


def test_ties_count_half():
    training = [[0.0], [10.0], [20.0], [30.0]]
    # 0: both at 1; 10: both a copy; 20: generated closer; 30: held-out closer
    held_out, generated = [[1.0], [10.0], [18.0], [30.5]], [[-1.0], [10.0], [21.0], [32.0]]
    assert closer_share(training, held_out, generated) == (0.5 + 0.5 + 1 + 0) / 4
    assert closer_share(normal(9, 2), normal(5, 2, seed=1), normal(5, 2, seed=1)) == 0.5


@given(two_sets())
def test_shares_of_exchanged_sets_add_to_one(sets):
    training, other, _ = sets
    held_out, generated = other[: len(other) // 2], other[len(other) // 2 :][: len(other) // 2]
    share = closer_share(training, held_out, generated)
    assert share + closer_share(training, generated, held_out) == pytest.approx(1)
    p, q = (cdist(training, x, "sqeuclidean").min(axis=1) for x in (held_out, generated))
    assert share == pytest.approx(np.mean((q < p) + (q == p) / 2))


def test_another_number_of_generated_than_of_held_out_images_is_refused():
    with pytest.raises(ValueError, match="as many as validation observations, got 4 and 5"):
        closer_share(normal(9, 2), normal(5, 2), normal(4, 2))


# how far the balls of images reach


def test_the_same_images_have_full_precision_recall_and_coverage():
    x = normal(40, 6) + 100
    assert precision_recall(x, x) == precision_recall(x, x[::-1], k=1) == (1, 1)
    assert density_coverage(x, x)[1] == 1


def test_images_far_apart_have_none():
    x, y = normal(40, 6), normal(30, 6, seed=1) + 50
    assert precision_recall(x, y) == density_coverage(x, y) == (0, 0)


def test_one_image_out_of_range_does_not_change_what_holds_for_the_others():
    x, y = normal(40, 6), normal(30, 6, seed=1) + 12
    y[0] = 1e12
    assert precision_recall(x, y)[0] == 0 and density_coverage(x, y) == (0, 0)


def test_precision_and_recall_on_a_line():
    training, generated = [[0.0], [1.0], [3.0], [10.0]], [[-1.0], [2.0], [17.0], [18.0]]
    # balls of training images: 0 +- 1, 1 +- 1, 3 +- 2, 10 +- 7, each with its ends: 18 is out;
    # of generated ones: -1 +- 3, 2 +- 3, 17 +- 1, 18 +- 1: 10 is out
    assert precision_recall(training, generated, k=1) == (3 / 4, 3 / 4)
    # by turns
    assert precision_recall(generated, training, k=1) == (3 / 4, 3 / 4)
    # to the second neighbor: 0 +- 3, 1 +- 2, 3 +- 3, 10 +- 9 and -1 +- 18, 2 +- 15, 17 +- 15, 18 +- 16
    assert precision_recall(training, generated, k=2) == (1, 1)


def test_few_copies_have_precision_and_little_recall():
    training = normal(300, 5)
    generated = np.tile(training[:20], (15, 1))
    assert precision_recall(training, generated) == (1, 20 / 300)  # balls of radius 0 hold the copied ones
    density, coverage = density_coverage(training, generated)
    radii = spheres(training, 5)
    inside = cdist(training[:20], training) <= radii + 1e-9
    assert coverage == pytest.approx(inside.any(axis=0).mean()) and 20 / 300 <= coverage < 0.4
    assert density == pytest.approx(inside.sum() / (5 * 20))


def test_images_that_are_there_twice_have_a_ball_without_radius():
    training = [[0.0, 0.0], [0.0, 0.0], [4.0, 0.0], [4.0, 3.0]]
    generated = [[0.0, 0.0], [1.0, 0.0], [4.0, -2.0], [30.0, 0.0]]
    # radii 0, 0, 3, 3 and 1, 1, sqrt(13), 26
    assert precision_recall(training, generated, k=1) == (3 / 4, 3 / 4)
    assert density_coverage(training, generated, k=1) == (4 / 4, 3 / 4)


def test_density_and_coverage_on_a_line():
    training, generated = [[0.0], [1.0], [3.0], [10.0]], [[-1.0], [2.0], [17.0], [18.0], [0.5]]
    # 0 +- 1 holds -1 and 0.5, 1 +- 1 holds 2 and 0.5, 3 +- 2 holds 2, 10 +- 7 holds 17
    assert density_coverage(training, generated, k=1) == (pytest.approx(6 / 5), 1)
    assert density_coverage(training, [[3.5], [2.5]], k=1) == (
        3 / 2,
        2 / 4,
    )  # one in the last two, one in 3 +- 2


@given(two_sets(), st.integers(-1000, 1000))
def test_balls_equal_direct_loops(sets, shift):
    training, generated, k = sets
    across = cdist(training, generated)
    of_training = across <= spheres(training, k)[:, None] + 1e-9
    of_generated = across <= spheres(generated, k) + 1e-9
    for moved in (0, shift):
        found = precision_recall(training + moved, generated + moved, k)
        assert found == pytest.approx((of_training.any(axis=0).mean(), of_generated.any(axis=1).mean()))
        density, coverage = density_coverage(training + moved, generated + moved, k)
        assert density == pytest.approx(of_training.sum() / (k * len(generated)))
        assert coverage == pytest.approx(of_training.any(axis=1).mean())
    assert precision_recall(generated, training, k) == pytest.approx(found[::-1])


def test_many_images_go_through_in_parts(monkeypatch):
    training, generated = normal(300, 3), 1.3 * normal(200, 3, seed=1)
    whole = precision_recall(training, generated), density_coverage(training, generated)
    chunked, parts = memlib.metrics.pairwise_distances_chunked, []

    def small(*sets, **options):
        for part in chunked(*sets, **options | {"working_memory": 0.05}):
            parts.append(len(part))
            yield part

    monkeypatch.setattr(memlib.metrics, "pairwise_distances_chunked", small)
    assert (precision_recall(training, generated), density_coverage(training, generated)) == whole
    assert max(parts) < 50


@pytest.mark.parametrize("call", [precision_recall, density_coverage])
@pytest.mark.parametrize(
    ("training", "generated", "k", "message"),
    [
        (normal(9, 2), normal(9, 2), 0, "k is 0 and training are 9; allowed: k from 1 to below their number"),
        (normal(9, 2), normal(9, 2), -1, "k is -1 and training are 9"),
        (normal(4, 2), normal(9, 2), 4, "k is 4 and training are 4"),
        (normal(9, 2), normal(4, 2), 4, "k is 4 and generated are 4"),
        (normal(9, 2), normal(9, 3), 1, "generated have 3 features; allowed: 2 in all sets"),
        (normal(9), normal(9, 1), 1, r"training must be numbers of shape \(n, d\), got float64 \(9,\)"),
        (normal(9, 1), normal(9), 1, r"generated must be .*, got float64 \(9,\)"),
        (np.full((9, 2), "a"), normal(9, 2), 1, r"training must be .*, got <U1 \(9, 2\)"),
        (np.full((9, 2), np.nan), normal(9, 2), 1, "training must be finite"),
        (normal(9, 2), np.full((9, 2), np.inf), 1, "generated must be finite"),
        (normal(9, 2), normal(9, 2) * 1e200, 1, "generated must be finite and below 1e150 in size"),
    ],
)
def test_what_has_no_balls_is_refused(call, training, generated, k, message):
    with pytest.raises(ValueError, match=message):
        call(training, generated, k)


# how well a score detects


@given(scores)
def test_roc_is_what_lies_at_or_above_each_threshold(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    false, true = roc(score, positive)
    above = [score >= threshold for threshold in sorted(set(score), reverse=True)]
    np.testing.assert_allclose(false, [0, *(called[~positive].mean() for called in above)], atol=1e-12)
    np.testing.assert_allclose(true, [0, *(called[positive].mean() for called in above)], atol=1e-12)


def test_roc_in_a_small_case():
    false, true = roc([3, 1, 2, 2], np.array([True, False, True, False]))
    assert false.tolist() == [0, 0, 0.5, 1] and true.tolist() == [0, 0.5, 1, 1]
    false, true = roc([7.0] * 3, np.array([True, False, False]))
    assert false.tolist() == true.tolist() == [0, 1]


def test_infinite_scores_have_their_place_in_the_order():
    score = np.array([np.inf, 4.0, np.inf, -np.inf, 0.0, -np.inf, 4.0])
    positive = np.array([1, 0, 0, 0, 1, 1, 1], bool)
    finite = np.clip(score, -9, 9)
    np.testing.assert_array_equal(roc(score, positive), roc(finite, positive))
    assert auc(score, positive) == auc(finite, positive)


@given(scores)
def test_the_area_is_that_of_scikit_learn_and_that_under_the_curve(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive)
    assert area == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    false, true = roc(score, positive)
    assert area == pytest.approx(np.trapezoid(true, false), abs=1e-12)
    assert 0 <= low <= area <= high <= 1 and low < high


@given(scores)
def test_swapped_signs_give_the_rest_of_the_area(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive)
    assert auc(-score, positive) == pytest.approx((1 - area, 1 - high, 1 - low), abs=1e-9)
    assert auc(score, ~positive) == pytest.approx((1 - area, 1 - high, 1 - low), abs=1e-9)


@given(scores)
def test_only_the_order_of_scores_counts(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    for stretched in (100 + 7 * score, np.exp(5.0 * score), score**3):
        assert auc(stretched, positive) == auc(score, positive)


def standard_error(theta, m, n):
    """Of an area theta, as Hanley & McNeil write it, for Newcombe with the mean of both sizes."""
    mean, beats_two, two_beat = (m + n) / 2, theta / (2 - theta), 2 * theta**2 / (1 + theta)
    both = (mean - 1) * (beats_two - theta**2 + two_beat - theta**2)
    return np.sqrt((theta * (1 - theta) + both) / (m * n))


@given(scores, st.sampled_from([0.5, 0.9, 0.99]))
def test_the_interval_ends_where_the_area_is_as_far_as_its_error_allows(pairs, level):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive, level)
    z, sizes = stats.norm.interval(level)[1], (positive.sum(), (~positive).sum())
    for end, extreme in ((low, 0), (high, 1)):
        if end != extreme or area != extreme:
            assert abs(area - end) == pytest.approx(z * standard_error(end, *sizes), abs=1e-6)
            assert 0 < end < 1


def test_the_interval_covers_the_area_as_often_as_it_says():
    rng, simulations, truth = np.random.default_rng(0), 400, 0.76
    positive = np.arange(100) < 40
    shift = np.sqrt(2) * stats.norm.ppf(truth) * positive
    found = [auc(shift + rng.normal(size=100), positive) for _ in range(simulations)]
    area, low, high = np.transpose(found)
    assert area.mean() == pytest.approx(truth, abs=4 * area.std() / np.sqrt(simulations))
    assert 0.92 < np.mean((low <= truth) & (truth <= high)) < 0.98


@pytest.mark.parametrize("kinds", [(10, 20), (1, 1), (400, 3)])
def test_what_is_wholly_apart_has_an_interval_that_ends_at_one(kinds):
    positive = np.repeat([True, False], kinds)
    area, low, high = auc(positive * 1.0, positive)
    assert area == high == 1 and 0 < low < 0.99
    assert abs(1 - low) == pytest.approx(stats.norm.ppf(0.975) * standard_error(low, *kinds), abs=1e-6)
    assert auc(positive * -1.0, positive) == pytest.approx((0, 0, 1 - low), abs=1e-9)


@pytest.mark.parametrize("kinds", [(8, 5), (2, 3), (40, 60)])
def test_scores_that_are_all_equal_tell_nothing(kinds):
    positive = np.repeat([True, False], kinds)
    area, low, high = auc(np.full(len(positive), 3.0), positive)
    assert area == 0.5 and low < 0.5 < high and low == pytest.approx(1 - high)


HALF = np.arange(6) < 3


@pytest.mark.parametrize("call", [roc, auc])
@pytest.mark.parametrize(
    ("score", "positive", "message"),
    [
        (np.arange(6.0), HALF[1:], r"score is \(6,\) and positive bool \(5,\)"),
        (np.zeros((6, 1)), HALF[:, None], r"score is \(6, 1\)"),
        (np.arange(6.0), HALF.astype(int), r"positive int64 \(6,\); allowed: \(n,\), bool \(n,\)"),
        ([], np.zeros(0, bool), "0 of 0 are positive; allowed: some, and not all"),
        ([0, np.nan, 1, 2, np.nan, 3], HALF, "score is NaN 2 times; allowed: numbers that have an order"),
        (np.arange(6.0), HALF | True, "6 of 6 are positive"),
        (np.arange(6.0), HALF & False, "0 of 6 are positive"),
    ],
)
def test_what_has_no_order_or_one_kind_is_refused(call, score, positive, message):
    with pytest.raises(ValueError, match=message):
        call(score, positive)


def test_areas_at_other_levels_are_refused():
    for level in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match=f"level is {level}; allowed: between 0 and 1"):
            auc(np.arange(6.0), HALF, level)


def test_images_of_one_original_count_as_one_case_in_the_interval():
    rng = np.random.default_rng(4)
    positive = np.arange(60) < 20
    score = rng.normal(positive, 1)
    alone = auc(score, positive)
    assert auc(score, positive, original=np.arange(60)) == alone
    again = np.repeat(score, 5), np.repeat(positive, 5)
    repeated = auc(*again, original=np.repeat(np.arange(60), 5))
    np.testing.assert_allclose(repeated, alone)  # copies tell nothing new
    area, low, high = auc(*again)
    assert area == pytest.approx(alone[0]) and high - low < 0.6 * (alone[2] - alone[1])
    with pytest.raises(ValueError, match=r"original is \(3,\); allowed: as score, \(60,\)"):
        auc(score, positive, original=np.arange(3))


def test_known_radii_give_the_same_and_those_of_others_are_refused():
    x, y = normal(40, 6), normal(30, 6, seed=1)
    assert precision_recall(x, y, 3, radii(x, 3)) == precision_recall(x, y)
    assert density_coverage(x, y, 5, radii(x, 5)) == density_coverage(x, y)
    assert precision_recall(x, y, 3, np.zeros(40)) != precision_recall(x, y), "what is given is used"
    for measure in (precision_recall, density_coverage):
        with pytest.raises(ValueError, match=r"reach is \(30,\); allowed: \(40,\)"):
            measure(x, y, 3, radii(y, 3))


def test_a_known_partition_gives_the_same_data_copying():
    training, held_out, generated = normal(90, 3), normal(60, 3, seed=1), normal(70, 3, seed=2)
    once = data_copying(training, held_out, generated, partitioned(training, 2, seed=5))
    again = data_copying(training, held_out, generated, 2, seed=5)
    assert once.statistic == again.statistic and once.weights.tolist() == again.weights.tolist()
