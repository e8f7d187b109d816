"""What the estimators make of noise alone, against simulations and the textbook formula."""

import numpy as np
import pytest
from test_inference import null, planted

from memlib.chapters.null import null_mean
from memlib.memorization import exchanged, memorization


def test_the_null_of_the_matched_estimator_is_zero_and_that_of_the_papers_is_not():
    """In a run that memorizes by 6 nats; with one fold less a mean of 15 models against one of 5."""
    result = planted(null(5, 4, 200, spread=2.0), np.arange(200), 6.0)
    matched, se = null_mean(result, "matched")
    assert abs(matched) < 4 * se and 0 < se < 0.2
    paper, se = null_mean(result, "paper")
    p = np.exp(np.random.default_rng(1).normal(0, 2, (100_000, 15)))
    expected = np.log(p[:, 5:].mean(axis=1)).mean() - np.log(p[:, :5].mean(axis=1)).mean()
    assert paper > 5 * se > 0 and abs(paper - expected) < 4 * se + 0.02


def test_the_mean_of_the_null_is_over_exchanges_and_its_error_the_jackknife_over_repeats():
    result = null(4, 4, 40, epochs=2)
    for estimator in ("paper", "matched"):
        nulls = [exchanged(result.isel(epoch=[-1]), seed) for seed in (7, 8, 9)]
        means = [memorization(null, estimator).M.mean() for null in nulls]
        without = [
            np.mean([memorization(null.drop_isel(repeat=out), estimator).M for null in nulls])
            for out in range(4)
        ]
        expected = np.mean(means), np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
        assert null_mean(result, estimator, 3, seed=7) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert null_mean(result, "paper", 1, seed=7)[0] != null_mean(result, "paper", 1, seed=8)[0]
    assert np.isnan(null_mean(result.isel(repeat=[0]), "matched")).tolist() == [False, True]


def test_observations_that_are_impossible_under_all_models_are_counted():
    result = null(3, 4, 40)
    result.log_px.values[-1, :, :, [3, 5]] = -np.inf
    result.log_px.values[-1, 0, :, 7] = -np.inf  # not under all
    with pytest.raises(ValueError, match="log_px is -inf under all models for 2 observations"):
        null_mean(result, "matched")
