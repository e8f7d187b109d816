"""Yardsticks of others against direct loops and cases by hand, and the area under the ROC curve."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

import memlib.metrics.samples
from memlib.metrics.detection import auc, roc
from memlib.metrics.samples import (
    ENOUGH,
    authenticity,
    closer_share,
    data_copying,
    density_coverage,
    partitioned,
    precision_recall,
    radii,
)

scored = st.lists(
    st.tuples(st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 4.0, np.inf]), st.booleans()), min_size=2, max_size=30
).map(lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True)))


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


def test_one_cell_has_the_probability_of_mann_and_whitney():
    training, held_out, generated = normal(50, 4), normal(31, 4, seed=1), 1.2 * normal(44, 4, seed=2)
    far, near = (cdist(x, training).min(axis=1) for x in (generated, held_out))
    of_scipy = stats.mannwhitneyu(
        far, near, alternative="greater", method="asymptotic", use_continuity=False
    ).pvalue
    statistic = data_copying(training, held_out, generated, cells=1).statistic
    assert stats.norm.sf(statistic) == pytest.approx(of_scipy, rel=1e-9)
    assert data_copying(training, held_out, held_out, cells=1).statistic == 0  # ties count half


def test_cells_are_tested_by_themselves_and_weighted_by_their_held_out_images():
    training, held_out, generated = normal(200, 3), normal(150, 3, seed=1), normal(140, 3, seed=2)
    partition = partitioned(training, 3, seed=4)
    test = data_copying(training, held_out, generated, partition)
    inside, p, q = (partition.predict(x) for x in (training, held_out, generated))
    alone = [data_copying(training[inside == k], held_out[p == k], generated[q == k], 1) for k in range(3)]
    np.testing.assert_allclose(test.z, [cell.statistic for cell in alone], rtol=1e-12)
    shares = np.bincount(p) / 150
    np.testing.assert_allclose(test.weights, shares)
    np.testing.assert_array_equal(test.generated, np.bincount(q))
    assert test.statistic == pytest.approx(shares @ test.z)
    # of which the seed decides
    same, other = (data_copying(training, held_out, generated, 3, seed).z for seed in (4, 5))
    np.testing.assert_array_equal(same, test.z)
    assert not np.array_equal(other, test.z)


def groups(*sizes, seed=0):
    """Points around 0, 100, 200, ... on a line, as many as said."""
    places = np.repeat(100 * np.arange(len(sizes)), sizes)
    return places[:, None] + normal(sum(sizes), 2, seed=seed) * [1, 0.1]


@pytest.mark.parametrize(
    ("held_out", "generated"), [((30, 90), (ENOUGH + 1, ENOUGH)), ((30, 0), (ENOUGH + 1, 40))]
)
def test_cells_with_few_generated_or_no_held_out_images_are_left_out(held_out, generated):
    test = data_copying(groups(60, 60), groups(*held_out, seed=1), groups(*generated, seed=2), cells=2)
    used = int(test.generated[0] != ENOUGH + 1)  # k-means numbers the cells as it likes
    assert math.isnan(test.z[1 - used]) and test.statistic == test.z[used]


# which generated images are authentic


@given(two_sets())
def test_authentic_is_what_is_farther_from_an_image_than_its_neighbor_is(sets):
    training, generated, _ = sets
    authentic = []
    for g in generated.tolist():
        distances = [math.dist(g, r) for r in training.tolist()]
        nearest = distances.index(min(distances))
        others = [math.dist(training[nearest], r) for i, r in enumerate(training) if i != nearest]
        authentic.append(min(distances) > min(others))
    found = authenticity(training, generated)
    assert found.authentic.tolist() == authentic and found.share == pytest.approx(np.mean(authentic))
    assert authenticity(training, generated, np.full(len(training), 99)).share == 0, "what is given is used"


# how many training images have a generated one closer than any held-out one


@given(two_sets())
def test_shares_count_where_the_generated_image_is_closer_and_ties_half(sets):
    training, other, _ = sets
    held_out, generated = other[: len(other) // 2], other[len(other) // 2 :][: len(other) // 2]
    share = closer_share(training, held_out, generated)
    p, q = (cdist(training, x, "sqeuclidean").min(axis=1) for x in (held_out, generated))
    assert share == pytest.approx(np.mean((q < p) + (q == p) / 2))


# how far the balls of images reach


def test_few_copies_have_precision_and_little_recall(monkeypatch):
    training = normal(300, 5)
    generated = np.tile(training[:20], (15, 1))
    # balls of radius 0 hold the copied ones, and what comes in parts is whole
    chunked = memlib.metrics.samples.pairwise_distances_chunked
    for megabytes in (64, 0.05):
        monkeypatch.setattr(
            "memlib.metrics.samples.pairwise_distances_chunked",
            lambda *sets, size=megabytes, **options: chunked(*sets, **options | {"working_memory": size}),
        )
        assert precision_recall(training, generated) == (1, 20 / 300)
        density, coverage = density_coverage(training, generated)
        inside = cdist(training[:20], training) <= spheres(training, 5) + 1e-9
        assert coverage == inside.any(axis=0).mean()
        assert density == pytest.approx(inside.sum() / (5 * 20))


def test_one_image_out_of_range_does_not_change_what_holds_for_the_others():
    x, y = normal(40, 6), normal(30, 6, seed=1) + 12
    y[0] = 1e12
    assert precision_recall(x, y)[0] == 0 and density_coverage(x, y) == (0, 0)


def test_balls_on_a_line_hold_their_ends():
    training, generated = [[0.0], [1.0], [3.0], [10.0]], [[-1.0], [2.0], [17.0], [18.0]]
    # balls of training images: 0 +- 1, 1 +- 1, 3 +- 2, 10 +- 7, each with its ends: 18 is out;
    # of generated ones: -1 +- 3, 2 +- 3, 17 +- 1, 18 +- 1: 10 is out
    assert precision_recall(training, generated, k=1) == (3 / 4, 3 / 4)
    # 0 +- 1 holds -1 and 0.5, 1 +- 1 holds 2 and 0.5, 3 +- 2 holds 2, 10 +- 7 holds 17
    assert density_coverage(training, [*generated, [0.5]], k=1) == (pytest.approx(6 / 5), 1)


@given(two_sets(), st.sampled_from([0, 10**7]))
def test_balls_equal_direct_loops(sets, shift):
    training, generated, k = sets
    across = cdist(training, generated)
    of_training = across <= spheres(training, k)[:, None] + 1e-9
    of_generated = across <= spheres(generated, k) + 1e-9
    x, y = training + shift, generated + shift
    expected = of_training.any(axis=0).mean(), of_generated.any(axis=1).mean()
    assert precision_recall(x, y, k) == pytest.approx(expected)
    expected = of_training.sum() / (k * len(generated)), of_training.any(axis=1).mean()
    assert density_coverage(x, y, k) == pytest.approx(expected)


def test_known_radii_give_the_same():
    x, y = normal(40, 6), normal(30, 6, seed=1)
    assert precision_recall(x, y, 3, radii(x, 3)) == precision_recall(x, y)
    assert density_coverage(x, y, 5, radii(x, 5)) == density_coverage(x, y)
    for measure in (precision_recall, density_coverage):
        assert measure(x, y, 3, np.zeros(40)) != measure(x, y, 3), "what is given is used"


# how well a score detects


@given(scored)
def test_roc_is_what_lies_at_or_above_each_threshold(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    false, true = roc(score, positive)
    above = [score >= threshold for threshold in sorted(set(score), reverse=True)]
    np.testing.assert_allclose(false, [0, *(called[~positive].mean() for called in above)], atol=1e-12)
    np.testing.assert_allclose(true, [0, *(called[positive].mean() for called in above)], atol=1e-12)


def standard_error(theta, m, n):
    """Of an area theta, as Hanley & McNeil write it, for Newcombe with the mean of both sizes."""
    mean, beats_two, two_beat = (m + n) / 2, theta / (2 - theta), 2 * theta**2 / (1 + theta)
    both = (mean - 1) * (beats_two - theta**2 + two_beat - theta**2)
    return np.sqrt((theta * (1 - theta) + both) / (m * n))


@given(scored, st.sampled_from([0.5, 0.95, 0.99]))
@example((np.repeat([1.0, 0.0], (400, 3)), np.repeat([True, False], (400, 3))), 0.95)
def test_the_area_is_that_of_scikit_learn_and_its_interval_as_wide_as_its_error_allows(pairs, level):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive, level)
    assert area == pytest.approx(roc_auc_score(positive, np.clip(score, -9, 9)), abs=1e-12)
    z, sizes = stats.norm.interval(level)[1], (positive.sum(), (~positive).sum())
    assert low <= area <= high and low < high
    for end, extreme in ((low, 0), (high, 1)):
        if end != extreme or area != extreme:
            # the root's own error is about 1e-12, but at a wide interval's end the variance is steep
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


def test_images_of_one_original_count_as_one_case_in_the_interval():
    rng = np.random.default_rng(4)
    positive = np.arange(60) < 20
    score, times = rng.normal(positive, 1), np.full(60, 5)
    alone = auc(score, positive, original=np.arange(60))
    assert alone == auc(score, positive)
    repeated = [np.repeat(values, times) for values in (score, positive, np.arange(60))]
    np.testing.assert_allclose(auc(*repeated[:2], original=repeated[2]), alone)  # copies tell nothing new
    # Kish: of 20 positives one that is there 20 times beside 19 single ones counts as 39^2 / 419 cases
    times = np.where(np.arange(60) == 0, 20, 1)
    repeated = [np.repeat(values, times) for values in (score, positive, np.arange(60))]
    area, low, _ = auc(*repeated[:2], original=repeated[2])
    z = stats.norm.ppf(0.975)
    assert area - low == pytest.approx(z * standard_error(low, 39**2 / 419, 40), abs=1e-6)
