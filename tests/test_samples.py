"""Yardsticks of others against direct loops and cases by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from sklearn.cluster import BisectingKMeans, KMeans, MeanShift, MiniBatchKMeans
from sklearn.metrics.pairwise import cosine_similarity, laplacian_kernel, rbf_kernel
from threadpoolctl import threadpool_limits

import memlib.metrics.samples
from memlib.metrics.neighbors import nearest
from memlib.metrics.samples import (
    ENOUGH,
    authenticity,
    closer_share,
    data_copying,
    density_coverage,
    partitioned,
    precision_recall,
    radii,
    vendi,
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


@pytest.mark.parametrize("kind", [KMeans, MiniBatchKMeans, BisectingKMeans, MeanShift])
def test_cells_are_those_of_the_images_whatever_the_clusterer_was_fitted_to(kind):
    """Three groups far apart, so that all partitions are the same but for their numbers."""
    training, held_out, generated = groups(60, 60, 60), groups(50, 40, 30, seed=1), groups(*[40] * 3, seed=2)
    order = np.random.default_rng(0).permutation(180)
    options = {"bandwidth": 20} if kind is MeanShift else {"random_state": 0}
    options |= {"n_clusters": 3} if "n_clusters" in kind().get_params() else {}
    alone = [
        data_copying(training[a : a + 60], held_out[slice(*b)], generated[c : c + 40], 1).statistic
        for a, b, c in ((0, (0, 50), 0), (60, (50, 90), 40), (120, (90, 120), 80))
    ]
    right = np.dot(alone, [50, 40, 30]) / 120
    for points in (training, training[order], groups(60, 60, 60, seed=3), groups(7, 8, 9, seed=3)):
        found = data_copying(training, held_out, generated, kind(**options).fit(points))
        assert len(found.z) == 3 and found.statistic == pytest.approx(right, rel=1e-12)


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
    assert authenticity(training, generated).tolist() == authentic
    assert not authenticity(training, generated, np.full(len(training), 99)).any(), "what is given is used"


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


@pytest.mark.parametrize("unit", [2.0**330, 2.0**490, 2.0**-330, 2.0**-900])
def test_units_are_no_matter(unit):
    """Also those whose squares are beyond the range of floating point."""
    x, y, z = normal(60, 4), normal(40, 4, seed=1), normal(40, 4, seed=2)
    near = nearest(y, x)
    for one, other in zip(near, nearest(y * unit, x * unit), strict=True):
        np.testing.assert_array_equal(other, one * unit if one.dtype == float else one)
    np.testing.assert_array_equal(radii(x * unit, 3), radii(x, 3) * unit)
    for measure in (authenticity, precision_recall, density_coverage):
        np.testing.assert_array_equal(measure(x * unit, y * unit), measure(x, y))
    assert precision_recall(x * unit, y * unit, 3, radii(x, 3) * unit) == precision_recall(x, y)
    assert closer_share(x * unit, y * unit, z * unit) == closer_share(x, y, z)
    by_unit = data_copying(x * unit, y * unit, z * unit, 1).statistic
    assert by_unit == data_copying(x, y, z, 1).statistic


def test_tensors_count_as_their_values():
    x, y = torch.tensor(normal(40, 4)), torch.tensor(normal(30, 4, seed=1))
    right = authenticity(x.bfloat16().double().numpy(), y.bfloat16().double().numpy())
    np.testing.assert_array_equal(authenticity(x.bfloat16(), y.bfloat16()), right)
    right = precision_recall(x.numpy(), y.numpy())
    assert precision_recall(x.requires_grad_(), y.requires_grad_()) == right


# how many images that have nothing in common would be as diverse

ORDERS = [0, 0.1, 1, 2, 7.5, np.inf]


@pytest.mark.parametrize("order", ORDERS)
def test_groups_that_have_nothing_in_common_count_whatever_the_order(order):
    axes = ortho_group.rvs(5, random_state=0)
    lengths = np.random.default_rng(0).uniform(0.1, 9, (20, 1))  # which cosines do not see
    for k in range(1, 6):
        x = lengths[: 4 * k] * np.repeat(axes[:k], 4, axis=0)
        assert vendi(x, order=order) == pytest.approx(k, rel=1e-9)
    assert vendi(axes, lambda x: np.eye(5), order) == pytest.approx(5)
    assert vendi(axes, lambda x: np.ones((5, 5)), order) == pytest.approx(1)


@given(st.floats(0.01, 0.99), st.sampled_from(ORDERS[2:]))
def test_two_images_have_the_diversity_of_their_cosine(cosine, order):
    """The eigenvalues of [[1, c], [c, 1]] / 2 are (1 + c) / 2 and (1 - c) / 2."""
    p, q = (1 + cosine) / 2, (1 - cosine) / 2
    if order == 1:
        expected = p**-p * q**-q
    else:
        expected = 1 / p if order == np.inf else (p**order + q**order) ** (1 / (1 - order))
    x = [[2.0, 0.0], [-cosine, -math.sqrt(1 - cosine**2)]]  # cosine -c, as diverse
    assert vendi(x, order=order) == pytest.approx(expected, rel=1e-9)
    assert vendi(x, lambda x: [[1, cosine], [cosine, 1]], order) == pytest.approx(expected, rel=1e-9)


def test_the_examples_of_the_authors_have_their_numbers():
    samples = [[0.0], [0.0], [10.0], [10.0], [20.0], [20.0]]
    assert vendi(samples, lambda x: laplacian_kernel(x, gamma=1)) == pytest.approx(2.9999, abs=1e-4)
    K = np.array([[1, 0.9, 0], [0.9, 1, 0], [0, 0, 1]])
    assert vendi(np.eye(3), lambda x: K) == pytest.approx(2.1573, abs=1e-4)


@pytest.mark.parametrize(("n", "d"), [(30, 8), (8, 30)])
def test_other_images_have_the_diversity_of_the_definition(n, d):
    x = normal(n, d)
    for kernel in (cosine_similarity, rbf_kernel):
        values = np.linalg.eigvalsh(kernel(x) / n)
        p = values[values > 1e-12]
        given = {} if kernel is cosine_similarity else {"kernel": kernel}
        assert vendi(x, **given) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)
        assert vendi(x, order=2, **given) == pytest.approx(1 / (p**2).sum(), rel=1e-9)
        assert vendi(x, order=0, **given) == pytest.approx(len(p))
        assert vendi(x, order=1 + 1e-6, **given) == pytest.approx(vendi(x, **given), rel=1e-5)
        by_order = [vendi(x, order=order, **given) for order in ORDERS]
        assert by_order == sorted(by_order, reverse=True) and by_order[-1] >= 1


def test_diversity_is_of_directions_and_shares_alone():
    x, right = normal(20, 6), vendi(normal(20, 6))
    assert vendi(np.tile(x, (3, 1))) == pytest.approx(right), "each there three times"
    assert vendi(-x[::-1] @ ortho_group.rvs(6, random_state=0)) == pytest.approx(right)
    for unit in (2.0**490, 2.0**-900):
        assert vendi(x * unit) == pytest.approx(right)
    assert vendi(torch.tensor(x).float()) == pytest.approx(right, rel=1e-6)
    assert vendi(np.vstack([x, np.tile(x[:1], (20, 1))])) < right, "some images more often than others"
