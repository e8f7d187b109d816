"""What the estimators make of runs in which nothing can be memorized."""

import math

import numpy as np
import pytest
import xarray as xr

from memlib.memorization import exchanged, fold_assignment, memorization
from memlib.significance import null_mean


def run_of(L=5, K=4, n=200, seed=0, spread=2.0, memorized=0.0):
    """Two epochs of independent normal log-probabilities, `memorized` lower under the held-out models."""
    rng = np.random.default_rng(seed)
    fold_of = np.stack([fold_assignment(n, K, rng) for _ in range(L)])
    held_out = fold_of[:, None, :] == np.arange(K)[:, None]
    values = rng.normal(-90, spread, (2, L, K, n)) - memorized * held_out
    values[0] += 40 * held_out
    dims = ("epoch", "repeat", "fold", "observation")
    variables = {"log_px": (dims, values), "fold_of": (("repeat", "observation"), fold_of)}
    return xr.Dataset(variables, coords={"epoch": [1, 2]})


@pytest.mark.parametrize("memorized", [0.0, 6.0])
def test_the_matched_estimator_makes_nothing_of_noise_and_the_papers_something(memorized):
    result = run_of(memorized=memorized)
    matched, se = null_mean(result, "matched")
    assert abs(matched) < 3 * se and 0 < se < 0.2
    paper, paper_se = null_mean(result, "paper")
    assert paper > 5 * paper_se > 0
    # the logarithm of a mean of L (K - 2) models against one of L, by simulation
    p = np.exp(np.random.default_rng(1).normal(0, 2, (100_000, 15)))
    expected = np.log(p[:, 5:].mean(axis=1)).mean() - np.log(p[:, :5].mean(axis=1)).mean()
    assert abs(paper - expected) < 3 * paper_se + 0.02


def test_the_mean_is_that_over_exchanges_and_observations_at_the_last_epoch():
    result = run_of(n=40)
    expected = [memorization(exchanged(result, 7 + k), "paper").M.values[-1].mean() for k in range(3)]
    assert null_mean(result, "paper", exchanges=3, seed=7)[0] == pytest.approx(np.mean(expected), rel=1e-12)
    assert null_mean(result, "paper", 3, seed=7) == null_mean(result, "paper", 3, seed=7)
    assert null_mean(result, "paper", 3, seed=7)[0] != null_mean(result, "paper", 3, seed=8)[0]


def test_the_standard_error_is_the_jackknife_over_repeats():
    result = run_of(L=4, n=40)
    nulls = [exchanged(result.isel(epoch=[-1]), k) for k in range(2)]
    without = [
        np.mean([memorization(null.drop_isel(repeat=out), "matched").M for null in nulls]) for out in range(4)
    ]
    expected = np.sqrt(3 / 4 * np.sum((without - np.mean(without)) ** 2))
    assert null_mean(result, "matched", exchanges=2)[1] == pytest.approx(expected, rel=1e-9)


def test_the_standard_error_is_the_spread_over_runs():
    runs = [null_mean(run_of(L=6, n=40, seed=k, spread=0.3), "matched", exchanges=2) for k in range(80)]
    means, errors = np.transpose(runs)
    assert abs(means.mean()) < 3 * means.std() / math.sqrt(80)
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.2)


def test_a_single_repeat_has_a_mean_and_no_standard_error():
    mean, se = null_mean(run_of(L=1), "matched")
    assert math.isfinite(mean) and math.isnan(se)


def test_no_exchanges_and_two_folds_are_refused():
    with pytest.raises(ValueError, match="exchanges is 0; allowed: 1 or more"):
        null_mean(run_of(), "matched", exchanges=0)
    with pytest.raises(ValueError, match="the run has 2 folds; allowed: 3 or more"):
        null_mean(run_of(K=2), "matched")
    with pytest.raises(ValueError, match="seed is -1; allowed: 0 or more"):
        null_mean(run_of(), "matched", seed=-1)
    with pytest.raises(ValueError, match="estimator is 'match'; allowed: paper, matched"):
        null_mean(run_of(), "match")


def test_observations_that_are_impossible_under_all_models_are_counted():
    result = run_of(n=40)
    result.log_px.values[-1, :, :, [3, 5]] = -np.inf
    result.log_px.values[-1, 0, :, 7] = -np.inf  # not under all
    with pytest.raises(ValueError, match="log_px is -inf under all models for 2 observations"):
        null_mean(result, "matched")
