"""The area under the ROC curve against scikit-learn, its interval by definition and by simulation."""

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from memlib.metrics.detection import auc

scored = st.lists(
    st.tuples(st.sampled_from([-np.inf, -1.0, 0.0, 1.0, 4.0, np.inf]), st.booleans()), min_size=2, max_size=30
).map(lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True)))


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
