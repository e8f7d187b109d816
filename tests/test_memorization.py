"""U, V, M against a direct double loop, closed forms and invariances."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memlib.memorization import (
    exchanged,
    fold_assignment,
    highly_memorized,
    least_observations,
    log_mean_exp,
    memorization,
    memorization_scores,
)


def run_of(L=3, K=4, n=17, seed=0, spread=3.0, level=-100.0):
    rng = np.random.default_rng(seed)
    fold_of = np.stack([fold_assignment(n, K, rng) for _ in range(L)])
    return rng.normal(level, spread, size=(L, K, n)), fold_of


def double_loop(log_px, fold_of):
    L, K, n = log_px.shape
    U, V = np.empty(n), np.empty(n)
    for i in range(n):
        seen, left = [], []
        for repeat in range(L):
            for k in range(K):
                (left if fold_of[repeat, i] == k else seen).append(math.exp(log_px[repeat, k, i]))
        assert len(seen) == L * (K - 1) and len(left) == L
        U[i], V[i] = math.log(sum(seen) / len(seen)), math.log(sum(left) / len(left))
    return U, V


@given(st.integers(1, 4), st.integers(2, 5), st.integers(5, 12), st.integers(0, 1000))
def test_scores_equal_a_direct_double_loop(L, K, n, seed):
    log_px, fold_of = run_of(L, K, n, seed, level=-10)
    scores = memorization_scores(log_px, fold_of)
    U, V = double_loop(log_px, fold_of)
    np.testing.assert_allclose(scores.U, U, rtol=1e-12)
    np.testing.assert_allclose(scores.V, V, rtol=1e-12)
    np.testing.assert_allclose(scores.M, U - V, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 1000), st.floats(-1e5, 1e5))
def test_order_of_repeats_order_of_observations_and_constant_shifts_do_not_matter(seed, shift):
    log_px, fold_of = run_of(seed=seed)
    base = memorization_scores(log_px, fold_of)
    rng = np.random.default_rng(seed)
    repeats, observations = rng.permutation(3), rng.permutation(17)
    mixed = memorization_scores(log_px[repeats], fold_of[repeats])
    moved = memorization_scores(log_px[:, :, observations], fold_of[:, observations])
    shifted = memorization_scores(log_px + shift, fold_of)
    np.testing.assert_allclose(mixed.M, base.M, atol=1e-9)
    np.testing.assert_allclose(mixed.M_se, base.M_se, atol=1e-9)
    np.testing.assert_allclose(moved.M, base.M[observations], atol=1e-9)
    np.testing.assert_allclose(shifted.M, base.M, atol=1e-6)
    np.testing.assert_allclose(shifted.U, base.U + shift, rtol=1e-9, atol=1e-6)


def test_gap_is_the_mean_of_logarithms_and_has_no_bias_where_nothing_is_memorized():
    log_px, fold_of = run_of()
    gap = memorization_scores(log_px, fold_of).gap
    assert gap.shape == (3, 17)
    for repeat in range(3):
        for i in range(17):
            k = fold_of[repeat, i]
            seen = np.delete(log_px[repeat, :, i], k)
            assert gap[repeat, i] == pytest.approx(seen.mean() - log_px[repeat, k, i], rel=1e-12)
    log_px, fold_of = run_of(L=10, K=10, n=20_000, spread=5.0)
    null = memorization_scores(log_px, fold_of)
    standard_error = 5 * math.sqrt((1 / 9 + 1) / 200_000)
    assert abs(null.gap.mean()) < 4 * standard_error
    assert null.M.mean() > 2  # the very bias that the gap has not


def test_identical_models_memorize_nothing():
    log_px, fold_of = run_of()
    scores = memorization_scores(np.broadcast_to(log_px[:1, :1], log_px.shape), fold_of)
    np.testing.assert_allclose(scores.M, 0, atol=1e-12)
    np.testing.assert_allclose(scores.M_se, 0, atol=1e-12)
    np.testing.assert_allclose(scores.gap, 0, atol=1e-12)


def test_exchanging_seen_and_held_out_changes_the_sign():
    log_px, fold_of = run_of(K=2)
    there, back = memorization_scores(log_px, fold_of), memorization_scores(log_px, 1 - fold_of)
    np.testing.assert_allclose(there.M, -back.M, atol=1e-12)


def test_a_gap_between_seen_and_held_out_is_the_score():
    _, fold_of = run_of()
    held_out = fold_of[:, None, :] == np.arange(4)[:, None]
    scores = memorization_scores(np.where(held_out, -12_000.0, -11_993.5), fold_of)
    np.testing.assert_allclose(scores.M, 6.5)
    np.testing.assert_allclose(scores.gap, 6.5)


def test_jackknife_is_the_textbook_formula():
    log_px, fold_of = run_of(L=5)
    scores = memorization_scores(log_px, fold_of)
    without = [memorization_scores(np.delete(log_px, r, 0), np.delete(fold_of, r, 0)).M for r in range(5)]
    expected = np.sqrt(4 / 5 * np.sum((without - np.mean(without, axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(scores.M_se, expected, rtol=1e-9)


def test_jackknife_matches_the_spread_over_experiments_where_the_score_is_smooth():
    """Over many experiments with a small spread, the mean squared error bar is the variance of M."""
    rng = np.random.default_rng(0)
    fold_of = np.stack([fold_assignment(12, 3, rng) for _ in range(8)])
    log_px = rng.normal(0, 0.2, size=(3000, 8, 3, 12))
    scores = memorization_scores(log_px, fold_of)
    assert np.mean(scores.M_se**2) / scores.M.var(axis=0).mean() == pytest.approx(1, abs=0.05)


def test_a_single_repeat_has_no_standard_error():
    log_px, fold_of = run_of(L=1)
    assert np.isnan(memorization_scores(log_px, fold_of).M_se).all()


def test_an_impossible_observation_keeps_the_others():
    log_px, fold_of = run_of()
    log_px[:, :, 0] = -np.inf
    log_px[0, fold_of[0, 1], 1] = -np.inf
    with np.errstate(invalid="ignore"):
        scores = memorization_scores(log_px, fold_of)
    assert scores.U[0] == scores.V[0] == -np.inf
    assert np.isfinite(scores.M[1:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, f: (p, f[:2]), r"fold_of \(2, 17\); allowed: \(..., L, K, n\) and \(L, n\)"),
        (lambda p, f: (p[0], f), "allowed"),
        (lambda p, f: (p[:, :1], f * 0), "1 fold; allowed: 2 or more"),
        (lambda p, f: (p, f + 1), r"values 1..4; allowed: 0..3"),
        (lambda p, f: (np.where(p == p[0, 0, 0], np.nan, p), f), "log_px is NaN 1 times"),
        (lambda p, f: (p * -np.inf, f), r"log_px is NaN 0 times and \+inf 204 times"),
        (lambda p, f: (p[..., :0], f[:, :0]), r"shape \(3, 4, 0\); allowed: at least one of each"),
        (lambda p, f: (p[:0], f[:0]), r"shape \(0, 4, 17\); allowed: at least one of each"),
        (lambda p, f: (p, f / 1.0), "fold_of has type float64; allowed: integers"),
        (lambda p, f: (p.astype(str), f), "log_px has type <U32; allowed: numbers"),
    ],
)
def test_bad_arrays_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        memorization_scores(*change(*run_of()))


@given(arrays(float, (3, 4), elements=st.floats(-700, 700)))
def test_log_mean_exp_stays_between_minimum_and_maximum_and_agrees_with_numpy(values):
    ours = log_mean_exp(values, axis=1)
    assert (ours >= values.min(1) - 1e-9).all() and (ours <= values.max(1) + 1e-9).all()
    np.testing.assert_allclose(ours, np.logaddexp.reduce(values, axis=1) - np.log(4), atol=1e-9)


@given(st.integers(2, 12), st.integers(0, 50), st.integers(0, 100))
def test_folds_are_a_partition_of_nearly_equal_parts(folds, extra, seed):
    n = folds + extra
    sizes = np.bincount(fold_assignment(n, folds, np.random.default_rng(seed)), minlength=folds)
    assert len(sizes) == folds and sizes.sum() == n and sizes.max() - sizes.min() <= 1


def test_every_observation_is_as_likely_in_every_fold():
    rng = np.random.default_rng(0)
    folds = np.stack([fold_assignment(10, 5, rng) for _ in range(5000)])
    shares = np.stack([(folds == k).mean(0) for k in range(5)])
    assert np.abs(shares - 0.2).max() < 5 * math.sqrt(0.2 * 0.8 / 5000)


@pytest.mark.parametrize(
    ("n", "folds", "message"), [(10, 1, "folds is 1; allowed: 2"), (3, 4, "n is 3; allowed: at")]
)
def test_impossible_folds_are_named(n, folds, message):
    with pytest.raises(ValueError, match=message):
        fold_assignment(n, folds, np.random.default_rng(0))


def test_highly_memorized_is_the_top_five_percent():
    M = np.random.default_rng(0).permutation(1000).astype(float)
    assert set(np.flatnonzero(highly_memorized(M))) == set(np.flatnonzero(M >= 950))
    with pytest.raises(ValueError, match="quantile is 95; allowed"):
        highly_memorized(M, 95)
    with pytest.raises(ValueError, match="NaN"):
        highly_memorized(np.where(M == 3, np.nan, M))
    with pytest.raises(ValueError, match=r"M has shape \(10, 100\); allowed: \(n,\)"):
        highly_memorized(M.reshape(10, 100))


@pytest.mark.parametrize(("quantile", "least"), [(0.95, 20), (0.999, 1000), (0.9, 10), (0.5, 2), (0.05, 20)])
def test_a_quantile_of_too_few_scores_is_refused(quantile, least):
    M = np.random.default_rng(0).normal(size=least)
    assert least_observations(quantile) == least and highly_memorized(M, quantile).any()
    with pytest.raises(ValueError, match=f"M has {least - 1} observations; allowed: {least} or more"):
        highly_memorized(M[1:], quantile)


def test_infinite_scores_may_be_highly_memorized_but_not_the_quantile():
    M = np.arange(40.0)
    M[39] = np.inf
    assert np.flatnonzero(highly_memorized(M)).tolist() == [38, 39]
    M[37:] = np.inf
    with pytest.raises(ValueError, match=r"M is infinite 3 times among 40; allowed: so few that its 0.95"):
        highly_memorized(M)


def as_result(log_px, fold_of):
    variables = {
        "log_px": (("epoch", "repeat", "fold", "observation"), log_px[None]),
        "fold_of": (("repeat", "observation"), fold_of),
    }
    return xr.Dataset(variables, coords={"epoch": [1]})


def test_exchanged_run_keeps_only_models_that_saw_the_observation():
    log_px, fold_of = run_of()
    held_out = fold_of[:, None, :] == np.arange(4)[:, None]
    null = exchanged(as_result(np.where(held_out, np.inf, log_px), fold_of))
    assert null.log_px.shape == (1, 3, 3, 17) and np.isfinite(null.log_px).all()
    for repeat, i in np.ndindex(3, 17):
        expected = np.delete(log_px[repeat, :, i], fold_of[repeat, i])
        np.testing.assert_array_equal(null.log_px[0, repeat, :, i], expected)
    assert set(np.unique(null.fold_of)) == {0, 1, 2}


def test_exchanged_run_has_no_memorization_where_the_real_one_has():
    log_px, fold_of = run_of(L=4, K=5, n=4000, spread=1.0)
    held_out = fold_of[:, None, :] == np.arange(5)[:, None]
    result = as_result(np.where(held_out, log_px - 6, log_px), fold_of)
    real, null = memorization(result), memorization(exchanged(result))
    assert float(real.gap.mean()) == pytest.approx(6, abs=0.1)
    assert abs(float(null.gap.mean())) < 0.05
    assert float(real.M.median()) > 5 and abs(float(null.M.median())) < 1


def test_exchange_needs_three_folds():
    with pytest.raises(ValueError, match="the run has 2 folds; allowed: 3 or more"):
        exchanged(as_result(*run_of(K=2)))


@pytest.mark.parametrize("score", [memorization, exchanged])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: r.log_px.values,
            "the result is of type ndarray; allowed: an xarray.Dataset with log_px and fold",
        ),
        (lambda r: r.drop_vars("log_px"), "the result has no variable 'log_px'; it has fold_of"),
        (lambda r: r.drop_vars("fold_of"), "the result has no variable 'fold_of'; it has log_px"),
        (
            lambda r: r.isel(epoch=0),
            r"log_px has dimensions \('repeat', 'fold', 'observation'\); allowed: \(",
        ),
        (lambda r: r.isel(observation=[]), r"log_px has shape \(1, 3, 4, 0\); allowed: at least one"),
        (lambda r: r.isel(epoch=[]), r"log_px has shape \(0, 3, 4, 17\); allowed: at least one"),
        (lambda r: r.assign(fold_of=r.fold_of + 1), r"fold_of has values 1..4; allowed: 0..3"),
        (lambda r: r.assign(fold_of=r.fold_of / 2), "fold_of has type float64; allowed: integers"),
    ],
)
def test_what_is_no_result_is_refused(score, change, message):
    with pytest.raises(ValueError, match=message):
        score(change(as_result(*run_of())))


def test_the_seed_of_an_exchange_is_not_negative():
    with pytest.raises(ValueError, match="seed is -1; allowed: 0 or more"):
        exchanged(as_result(*run_of()), -1)


def test_data_set_of_scores_follows_the_names_of_the_dimensions():
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
    scores = memorization(result)
    assert scores.M.dims == ("epoch", "observation") and scores.M.units == "nats"
    assert scores.gap.dims == ("epoch", "repeat", "observation")
    np.testing.assert_allclose(scores.M.sel(epoch=10), memorization_scores(2 * log_px, fold_of).M)
    assert scores.label.values.tolist() == list(range(17)) and scores.folder == "somewhere"
