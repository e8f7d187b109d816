"""U, V, M, the gap and their errors against direct loops, closed forms and what noise alone gives."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from memlib.memorization import (
    exchanged,
    fold_assignment,
    highly_memorized,
    log_mean_exp,
    memorization,
    memorization_scores,
)

ESTIMATORS = ("paper", "matched")


def run_of(L=3, K=4, n=17, seed=0, spread=3.0, level=-100.0):
    rng = np.random.default_rng(seed)
    fold_of = np.stack([fold_assignment(n, K, rng) for _ in range(L)])
    return rng.normal(level, spread, size=(L, K, n)), fold_of


def held_out_of(fold_of, K):
    """Which models did not see which observation, (L, K, n)."""
    return fold_of[:, None, :] == np.arange(K)[:, None]


def as_result(log_px, fold_of):
    """A result from (epoch, repeat, fold, observation) or one epoch of it."""
    log_px = log_px if log_px.ndim == 4 else log_px[None]
    variables = {
        "log_px": (("epoch", "repeat", "fold", "observation"), log_px),
        "fold_of": (("repeat", "observation"), fold_of),
    }
    return xr.Dataset(variables, coords={"epoch": np.arange(len(log_px))})


def log_mean(values):
    return math.log(math.fsum(map(math.exp, values)) / len(values))


def direct(log_px, fold_of, estimator):
    """U, V and M (n,), and the gap (L, n), as they are defined: by loops over observations and repeats."""
    L, K, n = log_px.shape
    U, V, gap = np.empty(n), np.empty(n), np.empty((L, n))
    for i in range(n):
        left, seen = [], []  # (L,), (L, K - 1)
        for repeat in range(L):
            own = fold_of[repeat, i]
            left.append(log_px[repeat, own, i])
            seen.append([log_px[repeat, k, i] for k in range(K) if k != own])
            gap[repeat, i] = math.fsum(seen[-1]) / (K - 1) - left[-1]
        together = [log_mean([p for row in seen for p in row])]
        alike = [log_mean([row[j] for row in seen]) for j in range(K - 1)]
        U[i] = np.mean(together if estimator == "paper" else alike)
        V[i] = log_mean(left)
    return U, V, U - V, gap


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(2, 5), st.integers(5, 12), st.integers(0, 1000))
def test_scores_and_gaps_equal_direct_loops(estimator, L, K, n, seed):
    log_px, fold_of = run_of(L, K, n, seed, level=-10)
    scores = memorization_scores(log_px, fold_of, estimator)
    expected = direct(log_px, fold_of, estimator)
    # sums of a few numbers of the order of ten: the absolute error is a few hundred roundings at most
    for ours, theirs in zip((scores.U, scores.V, scores.M, scores.gap_by_repeat), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_what_the_models_that_saw_an_observation_give_it_more_is_the_score(estimator):
    """At a level whose probability is no float; models that are identical but for that have no errors."""
    _, fold_of = run_of()
    more = np.arange(17) / 2
    log_px = np.where(held_out_of(fold_of, 4), -12_000.0, more - 12_000.0)
    scores = memorization_scores(log_px, fold_of, estimator)
    for values in (scores.M, *scores.gap_by_repeat):
        np.testing.assert_allclose(values, more, rtol=0, atol=1e-10)
    np.testing.assert_allclose(scores.M_se, 0, atol=1e-10)


def test_the_gap_is_the_mean_over_repeats_with_its_textbook_standard_error():
    scores = memorization_scores(*run_of(L=5))
    np.testing.assert_allclose(scores.gap, scores.gap_by_repeat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(scores.gap_se, stats.sem(scores.gap_by_repeat), rtol=1e-12)


def test_effective_repeats_count_those_that_share_in_v():
    """Equal ones count all, one far above the others alone; of weights 3 and 1 it is 16 / 10."""
    fold_of = np.zeros((4, 3), dtype=int)
    log_px = np.full((4, 2, 3), -5000.0)
    log_px[1, 0, 1] += 800
    log_px[:, 0, 2] += [math.log(3), 0, -np.inf, -np.inf]
    effective = memorization_scores(log_px, fold_of).effective_repeats
    np.testing.assert_allclose(effective, [4, 1, 1.6], rtol=1e-9)


def test_exchanging_seen_and_held_out_changes_the_sign():
    log_px, fold_of = run_of(K=2)
    there, back = memorization_scores(log_px, fold_of), memorization_scores(log_px, 1 - fold_of)
    np.testing.assert_allclose(there.M, -back.M, rtol=0, atol=1e-11)


def test_where_nothing_is_memorized_the_papers_score_has_a_bias_and_the_others_have_none():
    """Of 100 models whose log-probabilities differ by 3 nats; the bias is that of means of 90 and of 10."""
    n, spread = 10_000, 3.0
    log_px, fold_of = run_of(L=10, K=10, n=n, spread=spread)
    paper, matched = (memorization_scores(log_px, fold_of, name) for name in ESTIMATORS)
    assert abs(matched.M.mean()) < 4 * matched.M.std() / math.sqrt(n)
    assert abs(paper.gap.mean()) < 4 * spread * math.sqrt((1 / 9 + 1) / (10 * n))
    draws = np.random.default_rng(1).normal(0, spread, (n, 100))
    bias = log_mean_exp(draws[:, 10:], 1) - log_mean_exp(draws[:, :10], 1)
    assert paper.M.mean() == pytest.approx(bias.mean(), abs=4 * math.sqrt(2 / n) * bias.std())
    assert paper.M.mean() > 0.9


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_jackknife_is_the_textbook_formula(estimator):
    L = 3
    log_px, fold_of = run_of(L=L, level=-10)
    scores = memorization_scores(log_px, fold_of, estimator)
    rest = [(np.delete(log_px, r, 0), np.delete(fold_of, r, 0)) for r in range(L)]
    without = [direct(*arguments, estimator)[:3] for arguments in rest]
    for name, values in zip("UVM", map(np.stack, zip(*without, strict=True)), strict=True):
        expected = np.sqrt((L - 1) / L * np.sum((values - values.mean(axis=0)) ** 2, axis=0))
        np.testing.assert_allclose(getattr(scores, f"{name}_se"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_single_repeat_has_no_standard_error(estimator):
    scores = memorization_scores(*run_of(L=1), estimator)
    for values in (scores.U_se, scores.V_se, scores.M_se, scores.gap_se):
        assert values.shape == (17,) and np.isnan(values).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_errors_of_sampling_go_into_the_score_by_its_derivatives(estimator):
    """Against differences of the score, each log-probability moved a little by itself."""
    log_px, fold_of = run_of(n=6, spread=1.0)
    variance = np.random.default_rng(0).uniform(0.1, 1, log_px.shape)
    step, expected = 1e-4, 0.0
    for model in np.ndindex(3, 4):
        moved = np.zeros(log_px.shape)
        moved[model] = step
        up, down = (memorization_scores(log_px + by, fold_of, estimator).M for by in (moved, -moved))
        expected += ((up - down) / (2 * step)) ** 2 * variance[model]
    scores = memorization_scores(log_px, fold_of, estimator, variance)
    # differences of second order, of numbers of the order of 100: steps squared, roundings over steps
    np.testing.assert_allclose(scores.M_se_sampling, np.sqrt(expected), rtol=1e-6)
    assert np.isnan(memorization_scores(log_px, fold_of, estimator).M_se_sampling).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_variance_that_is_not_known_makes_the_sampling_error_infinite(estimator):
    """Even where models differ by so much that the weight of most underflows."""
    log_px, fold_of = run_of(spread=1000.0)
    unknown = memorization_scores(log_px, fold_of, estimator, np.full(log_px.shape, np.inf))
    assert np.isposinf(unknown.M_se_sampling).all()


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("L", [1, 2])
def test_an_impossible_observation_keeps_the_others_and_gives_no_warning(estimator, L):
    log_px, fold_of = run_of(L=L)
    log_px[:, :, 0] = -np.inf  # under all models
    log_px[0, fold_of[0, 1], 1] = -np.inf  # under one that did not see it
    log_px[0, fold_of[0, 2] - 1, 2] = -np.inf  # under one that did
    log_px[0, :, 3] = -np.inf  # in a repeat
    scores = memorization_scores(log_px, fold_of, estimator, np.ones(log_px.shape))
    assert scores.U[0] == scores.V[0] == -np.inf
    assert np.isnan([scores.M[0], scores.gap[0], scores.effective_repeats[0]]).all()
    assert np.isfinite(scores.M[4:]).all() and np.isfinite(scores.M_se_sampling[4:]).all()
    if L == 1:
        assert scores.M[1] == np.inf
    else:
        assert np.isfinite(scores.M[1:]).all() and np.isfinite(scores.M_se[4:]).all()


@given(arrays(float, (3, 4), elements=st.floats(-700, 700)))
def test_log_mean_exp_agrees_with_numpy(values):
    expected = np.logaddexp.reduce(values, axis=1) - np.log(4)
    np.testing.assert_allclose(log_mean_exp(values, axis=1), expected, rtol=0, atol=1e-11)


@given(st.integers(2, 12), st.integers(0, 50), st.integers(0, 100))
def test_folds_differ_in_size_by_one_at_most(folds, extra, seed):
    sizes = np.bincount(fold_assignment(folds + extra, folds, np.random.default_rng(seed)))
    assert len(sizes) == folds and sizes.max() - sizes.min() <= 1


def test_every_observation_is_as_likely_in_every_fold():
    rng, draws = np.random.default_rng(0), 3000
    folds = np.stack([fold_assignment(10, 5, rng) for _ in range(draws)])
    shares = (folds == np.arange(5)[:, None, None]).mean(axis=1)  # (5, 10)
    assert np.abs(shares - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / draws)


def test_highly_memorized_is_the_top_five_percent_of_no_fewer_than_twenty():
    M = np.random.default_rng(0).permutation(1000).astype(float)
    assert set(np.flatnonzero(highly_memorized(M))) == set(np.flatnonzero(M >= 950))
    assert np.flatnonzero(highly_memorized(np.arange(20.0))).tolist() == [19]
    M = np.append(np.arange(39.0), np.inf)  # a score may be infinite where their quantile is not
    assert np.flatnonzero(highly_memorized(M)).tolist() == [38, 39]


def test_exchanged_run_keeps_only_models_that_saw_the_observation():
    log_px, fold_of = run_of()
    null = exchanged(as_result(log_px, fold_of))
    assert null.log_px.shape == (1, 3, 3, 17)
    for repeat, i in np.ndindex(3, 17):
        expected = np.delete(log_px[repeat, :, i], fold_of[repeat, i])
        np.testing.assert_array_equal(null.log_px[0, repeat, :, i], expected)
    assert set(np.unique(null.fold_of)) == {0, 1, 2}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_data_set_of_scores_has_them_by_epoch_whatever_the_order_of_dimensions(estimator):
    log_px, fold_of = run_of()
    both = np.stack([log_px, 2 * log_px])  # (epoch, repeat, fold, observation)
    result = xr.Dataset(
        {
            "log_px": (("observation", "fold", "epoch", "repeat"), both.transpose(3, 2, 0, 1)),
            "fold_of": (("observation", "repeat"), fold_of.T),
        },
        coords={"epoch": [5, 10], "label": ("observation", np.arange(17))},
        attrs={"folder": "somewhere"},
    )
    scores, expected = memorization(result, estimator), memorization_scores(2 * log_px, fold_of, estimator)
    assert set(scores.data_vars) == set(expected._fields)
    for name, values in zip(expected._fields, expected, strict=True):
        dims = ("epoch", "repeat", "observation") if name == "gap_by_repeat" else ("epoch", "observation")
        assert scores[name].dims == dims
        assert scores[name].units == ("1" if name == "effective_repeats" else "nats")
        np.testing.assert_array_equal(scores[name].sel(epoch=10), values, err_msg=name)
    assert scores.estimator == estimator and scores.folder == "somewhere"
    assert scores.label.values.tolist() == list(range(17))


def test_sampling_errors_come_from_effective_sample_sizes():
    log_px, fold_of = run_of()
    rng = np.random.default_rng(0)
    num_samples = rng.choice([64, 256], size=(3, 17))
    ess = (rng.uniform(0.1, 1, log_px.shape) * num_samples[:, None]).astype(np.float32)
    ess[0, 0, 0] = num_samples[0, 0] * (1 + 1e-6)  # rounded up
    result = as_result(np.stack([log_px, log_px]), fold_of).assign(
        ess=(("fold", "epoch", "repeat", "observation"), np.stack([ess / 2, ess]).transpose(2, 0, 1, 3)),
        num_samples=(("observation", "repeat", "epoch"), np.stack([num_samples, num_samples]).T),
    )
    variance = np.maximum(1 / ess.astype(float) - 1 / num_samples[:, None], 0)
    expected = memorization_scores(log_px, fold_of, variance=variance).M_se_sampling
    np.testing.assert_allclose(memorization(result).M_se_sampling[1], expected, rtol=1e-9)
    for name in ("ess", "num_samples"):
        assert np.isnan(memorization(result.drop_vars(name)).M_se_sampling).all()
    # one sample says nothing of its error; nor does a score with one of a single sample
    result.num_samples[:, 1], result.ess[:, :, 1] = 1, 1
    assert np.isposinf(memorization(result).M_se_sampling).all()
