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


def matched_double_loop(log_px, fold_of):
    """U of the matched estimator: of every other fold in turn the logarithm of a mean over repeats."""
    L, K, n = log_px.shape
    U = np.empty(n)
    for i in range(n):
        logarithms = []
        for j in range(K - 1):
            terms = []
            for repeat in range(L):
                folds = [k for k in range(K) if k != fold_of[repeat, i]]
                terms.append(math.exp(log_px[repeat, folds[j], i]))
            logarithms.append(math.log(sum(terms) / L))
        U[i] = sum(logarithms) / (K - 1)
    return U


@given(st.integers(1, 4), st.integers(2, 5), st.integers(5, 12), st.integers(0, 1000))
def test_the_matched_estimator_equals_a_direct_double_loop(L, K, n, seed):
    log_px, fold_of = run_of(L, K, n, seed, level=-10)
    scores = memorization_scores(log_px, fold_of, "matched")
    U, V = matched_double_loop(log_px, fold_of), double_loop(log_px, fold_of)[1]
    np.testing.assert_allclose(scores.U, U, rtol=1e-12)
    np.testing.assert_allclose(scores.V, V, rtol=1e-12)
    np.testing.assert_allclose(scores.M, U - V, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(scores.gap, memorization_scores(log_px, fold_of).gap)


def test_with_one_model_that_saw_the_observation_both_estimators_are_one():
    log_px, fold_of = run_of(K=2)
    variance = np.random.default_rng(1).uniform(size=log_px.shape)
    paper, matched = (memorization_scores(log_px, fold_of, name, variance) for name in ("paper", "matched"))
    for ours, theirs in zip(matched, paper, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    log_px, fold_of = run_of(K=3)
    assert (memorization_scores(log_px, fold_of).M > memorization_scores(log_px, fold_of, "matched").M).all()


@pytest.mark.parametrize(("spread", "bias"), [(1, 0.06), (2, 0.42), (3, 1.04), (5, 2.68)])
def test_where_nothing_is_memorized_the_matched_estimator_has_no_bias_and_the_papers_has(spread, bias):
    """Of the mean score of many observations, K = L = 10; the observations are independent."""
    log_px, fold_of = run_of(L=10, K=10, n=20_000, spread=spread)
    paper, matched = (memorization_scores(log_px, fold_of, name).M for name in ("paper", "matched"))
    errors = paper.std() / math.sqrt(20_000), matched.std() / math.sqrt(20_000)
    assert abs(matched.mean()) < 2 * errors[1]
    assert paper.mean() > 4 * errors[0]
    assert paper.mean() == pytest.approx(bias, abs=0.05)


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


@pytest.mark.parametrize("estimator", ["paper", "matched"])
@pytest.mark.parametrize("L", [2, 5])
def test_jackknife_is_the_textbook_formula(estimator, L):
    log_px, fold_of = run_of(L=L, level=-10)
    scores = memorization_scores(log_px, fold_of, estimator)
    without = {"U": [], "V": [], "M": []}
    for r in range(L):
        rest = np.delete(log_px, r, 0), np.delete(fold_of, r, 0)
        U, V = double_loop(*rest)
        U = U if estimator == "paper" else matched_double_loop(*rest)
        for name, values in (("U", U), ("V", V), ("M", U - V)):
            without[name].append(values)
    for name, values in without.items():
        expected = np.sqrt((L - 1) / L * np.sum((values - np.mean(values, axis=0)) ** 2, axis=0))
        np.testing.assert_allclose(getattr(scores, f"{name}_se"), expected, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("estimator", ["paper", "matched"])
def test_what_sampling_does_to_a_score_is_that_of_small_errors_of_every_log_probability(estimator):
    """Against the spread of M over many runs that differ by independent normal errors alone."""
    log_px, fold_of = run_of(n=6, spread=1.0)
    rng = np.random.default_rng(0)
    variance = rng.uniform(0.1, 1, log_px.shape) * 1e-4
    scores = memorization_scores(log_px, fold_of, estimator, variance)
    runs = log_px + np.sqrt(variance) * rng.normal(size=(5000, *log_px.shape))
    spread = memorization_scores(runs, fold_of, estimator).M.std(axis=0)
    np.testing.assert_allclose(scores.M_se_sampling, spread, rtol=5 / math.sqrt(2 * 5000))
    bigger = memorization_scores(log_px, fold_of, estimator, 9 * variance)
    np.testing.assert_allclose(bigger.M_se_sampling, 3 * scores.M_se_sampling)


def test_sampling_errors_are_unknown_without_variances_and_zero_where_these_are():
    log_px, fold_of = run_of()
    assert np.isnan(memorization_scores(log_px, fold_of).M_se_sampling).all()
    exact = memorization_scores(log_px, fold_of, variance=np.zeros(log_px.shape))
    assert (exact.M_se_sampling == 0).all()


@pytest.mark.parametrize("spread", [3.0, 1000.0])
@pytest.mark.parametrize("estimator", ["paper", "matched"])
def test_a_variance_that_is_not_known_makes_the_sampling_error_infinite(estimator, spread):
    """Even where models differ by so much that the weight of most underflows."""
    log_px, fold_of = run_of(spread=spread)
    unknown = memorization_scores(log_px, fold_of, estimator, np.full(log_px.shape, np.inf))
    assert np.isposinf(unknown.M_se_sampling).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[0], r"variance has shape \(4, 17\); allowed: that of log_px, \(3, 4, 17\)"),
        (lambda v: -v, "variance is negative or NaN 204 times; allowed: 0 or more"),
        (lambda v: np.where(v == v[0, 0, 0], np.nan, v), "variance is negative or NaN 1 times"),
    ],
)
def test_bad_variances_are_named(change, message):
    log_px, fold_of = run_of()
    variance = np.random.default_rng(0).uniform(0.1, 1, log_px.shape)
    with pytest.raises(ValueError, match=message):
        memorization_scores(log_px, fold_of, variance=change(variance))


@pytest.mark.parametrize("estimator", ["Paper", "match", "", None])
def test_an_unknown_estimator_is_named(estimator):
    log_px, fold_of = run_of()
    with pytest.raises(ValueError, match=f"estimator is {estimator!r}; allowed: paper, matched"):
        memorization_scores(log_px, fold_of, estimator)


def test_jackknife_matches_the_spread_over_experiments_where_the_score_is_smooth():
    """Over many experiments with a small spread, the mean squared error bar is the variance of M."""
    rng = np.random.default_rng(0)
    fold_of = np.stack([fold_assignment(12, 3, rng) for _ in range(8)])
    log_px = rng.normal(0, 0.2, size=(3000, 8, 3, 12))
    scores = memorization_scores(log_px, fold_of)
    assert np.mean(scores.M_se**2) / scores.M.var(axis=0).mean() == pytest.approx(1, abs=0.05)


def test_a_single_repeat_has_no_standard_error():
    log_px, fold_of = run_of(L=1)
    for estimator in ("paper", "matched"):
        scores = memorization_scores(log_px, fold_of, estimator)
        for values in (scores.U_se, scores.V_se, scores.M_se):
            assert values.shape == (17,) and np.isnan(values).all()


@pytest.mark.parametrize("estimator", ["paper", "matched"])
@pytest.mark.parametrize("L", [1, 2, 3])
def test_an_impossible_observation_keeps_the_others_and_gives_no_warning(estimator, L):
    log_px, fold_of = run_of(L=L)
    log_px[:, :, 0] = -np.inf  # under all models
    log_px[0, fold_of[0, 1], 1] = -np.inf  # under one that did not see it
    log_px[0, fold_of[0, 2] - 1, 2] = -np.inf  # under one that did
    log_px[0, :, 3] = -np.inf  # in a repeat
    variance = np.ones(log_px.shape)
    scores = memorization_scores(log_px, fold_of, estimator, variance)
    assert scores.U[0] == scores.V[0] == -np.inf and np.isnan(scores.M[0])
    assert np.isfinite(scores.M[4:]).all() and np.isfinite(scores.M_se_sampling[4:]).all()
    if L > 1:
        assert np.isfinite(scores.M[1:]).all() and np.isfinite(scores.M_se[4:]).all()
    else:
        assert scores.M[1] == np.inf


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


def test_a_data_set_of_scores_names_its_estimator():
    log_px, fold_of = run_of()
    result = as_result(log_px, fold_of)
    for estimator in ("paper", "matched"):
        scores, expected = memorization(result, estimator), memorization_scores(log_px, fold_of, estimator)
        assert scores.estimator == estimator and set(scores.data_vars) == set(expected._fields)
        for name, values in zip(expected._fields, expected, strict=True):
            np.testing.assert_array_equal(scores[name][0], values, err_msg=name)
            assert scores[name].units == "nats"
    assert memorization(result).estimator == "paper" and "estimator" not in result.attrs
    with pytest.raises(ValueError, match="estimator is 'match'; allowed: paper, matched"):
        memorization(result, "match")


@pytest.mark.parametrize("estimator", ["paper", "matched"])
def test_sampling_errors_come_from_effective_sample_sizes(estimator):
    log_px, fold_of = run_of()
    rng = np.random.default_rng(0)
    num_samples = rng.choice([64, 256], size=(3, 17))
    ess = (rng.uniform(0.1, 1, log_px.shape) * num_samples[:, None]).astype(np.float32)
    ess[0, 0, 0] = num_samples[0, 0] * (1 + 1e-6)  # rounded up
    result = as_result(log_px, fold_of).assign(
        ess=(("fold", "epoch", "repeat", "observation"), ess.transpose(1, 0, 2)[:, None]),
        num_samples=(("observation", "repeat", "epoch"), num_samples.T[..., None]),
    )
    variance = np.maximum(1 / ess.astype(float) - 1 / num_samples[:, None], 0)
    expected = memorization_scores(log_px, fold_of, estimator, variance).M_se_sampling
    scores = memorization(result, estimator)
    np.testing.assert_allclose(scores.M_se_sampling[0], expected, rtol=1e-9)
    assert np.isfinite(scores.M_se_sampling).all()
    for name in ("ess", "num_samples"):
        assert np.isnan(memorization(result.drop_vars(name)).M_se_sampling).all()
    single = result.assign(ess=result.ess * 0 + 1, num_samples=result.num_samples * 0 + 1)
    assert np.isposinf(memorization(single, estimator).M_se_sampling).all()
    single.num_samples[0, 1, 0] = 5  # but this image has some of another repeat
    assert np.isposinf(memorization(single, estimator).M_se_sampling).all()


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
