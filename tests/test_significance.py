"""Intervals and p-values against enumeration and simulations whose truth is known."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import memlib.significance
from memlib.memorization import fold_assignment, memorization
from memlib.significance import interval, memorized, p_values, rank_correlation


def folds(L, K, n, rng):
    return np.stack([fold_assignment(n, K, rng) for _ in range(L)])


def as_result(log_px, fold_of):
    """A result from (epoch, repeat, fold, observation) or one epoch of it."""
    log_px = log_px if log_px.ndim == 4 else log_px[None]
    variables = {
        "log_px": (("epoch", "repeat", "fold", "observation"), log_px),
        "fold_of": (("repeat", "observation"), fold_of),
    }
    coords = {"epoch": np.arange(1, len(log_px) + 1), "label": ("observation", fold_of[0] + 7)}
    return xr.Dataset(variables, coords=coords)


def null(L, K, n, seed=0, spread=1.0, epochs=1):
    """Models that differ by normal noise alone: nothing is memorized."""
    rng = np.random.default_rng(seed)
    return as_result(rng.normal(-100, spread, (epochs, L, K, n)), folds(L, K, n, rng))


def planted(result, observations, by):
    """The same where models that did not see some observations give them less, by so many nats."""
    left = result.fold_of == xr.DataArray(np.arange(result.sizes["fold"]), dims="fold")
    chosen = xr.DataArray(np.isin(np.arange(result.sizes["observation"]), observations), dims="observation")
    return result.assign(log_px=result.log_px - by * (left & chosen).astype(float))


@pytest.mark.parametrize("spread", [0.3, 1.0])
@pytest.mark.parametrize("L", [5, 10])
def test_intervals_hold_the_truth_as_often_as_they_say(L, spread):
    """Under no memorization the matched M is 0 on average, and what V is, the mean over many runs tells."""
    scores = memorization(null(L, 5, 6000, spread=spread), "matched")
    for name, truth in (("M", 0.0), ("V", float(scores.V.mean()))):
        low, high = interval(scores, 0.9, name)
        assert 0.85 < float(((low <= truth) & (truth <= high)).mean()) < 0.95, name
    low, high = interval(scores, 0.5)
    assert 0.45 < float(((low <= 0) & (high >= 0)).mean()) < 0.6


def test_an_interval_is_the_estimate_and_its_error_times_students_t():
    """With two repeats the distribution has one degree of freedom, whose upper quartile is 1."""
    scores = memorization(null(2, 3, 9, epochs=2))
    for name in ("U", "V", "M"):
        low, high = interval(scores, 0.5, name)
        assert low.dims == high.dims == ("epoch", "observation") and low.shape == (2, 9)
        np.testing.assert_allclose(high, scores[name] + scores[f"{name}_se"])
        np.testing.assert_allclose(low, scores[name] - scores[f"{name}_se"])
        assert (
            low.epoch.values.tolist() == [1, 2] and low.label.values.tolist() == scores.label.values.tolist()
        )
    scores = memorization(null(10, 3, 9))
    low, high = interval(scores)
    np.testing.assert_allclose((high - low) / scores.M_se, 2 * 1.8331129)  # a table's t of 9 for 90 %


def test_a_single_repeat_has_no_interval():
    low, high = interval(memorization(null(1, 3, 9)))
    assert np.isnan(low).all() and np.isnan(high).all()


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, 90, math.nan])
def test_a_level_that_is_no_share_is_named(level):
    with pytest.raises(ValueError, match=f"level is {level}; allowed: between 0 and 1"):
        interval(memorization(null(2, 3, 9)), level)


@pytest.mark.parametrize("name", ["X", "M_se", "gap", "m"])
def test_a_score_that_is_not_there_is_named(name):
    with pytest.raises(ValueError, match=f"name is '{name}'; allowed: U, V, M"):
        interval(memorization(null(2, 3, 9)), name=name)


def enumerated(log_px, fold_of):
    """Shares of all choices of one model per repeat with a sum at or below that of the held-out ones."""
    L, K, n = log_px.shape
    p = np.empty(n)
    for i in range(n):
        own = math.fsum(log_px[repeat, fold_of[repeat, i], i] for repeat in range(L))
        sums = [
            math.fsum(log_px[repeat, k, i] for repeat, k in enumerate(choice))
            for choice in itertools.product(range(K), repeat=L)
        ]
        p[i] = sum(s <= own for s in sums) / K**L
    return p


@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 1000), st.booleans())
def test_exact_p_values_are_the_share_of_all_choices(L, K, seed, ties):
    rng = np.random.default_rng(seed)
    log_px = rng.normal(-100, 3, (L, K, 8))
    log_px = np.round(log_px) if ties else log_px.astype(np.float32).astype(float)
    fold_of = folds(L, K, 8, rng)
    p = p_values(as_result(log_px, fold_of))
    np.testing.assert_allclose(p[0], enumerated(log_px, fold_of), rtol=1e-12)
    assert p.dims == ("epoch", "observation") and p.name == "p_value"
    assert (p >= K**-L * (1 - 1e-12)).all() and (p <= 1).all()


@pytest.mark.parametrize(("L", "K"), [(1, 2), (4, 3), (5, 3), (3, 10), (5, 10), (5, 9), (3, 7)])
def test_all_choices_are_taken_where_there_are_no_more_than_draws(L, K):
    for draws, exact in ((K**L, True), (K**L + 1, True), (K**L - 1, False)):
        choices, all_of_them = memlib.significance._choices(L, K, draws, np.random.default_rng(0))
        assert all_of_them == exact and choices.shape == (min(draws, K**L), L)
        if exact:
            assert len(np.unique(choices, axis=0)) == K**L


@pytest.mark.parametrize(("L", "K", "draws"), [(4, 3, 9999), (3, 6, 9999), (8, 4, 999), (10, 10, 999)])
def test_p_values_are_uniform_where_nothing_is_memorized(L, K, draws):
    """No more than a share a is at or below a; and where all choices are taken exactly so many."""
    n = 20_000
    p, exact = p_values(null(L, K, n), draws).values[0], K**L <= draws
    for a in (0.01, 0.05, 0.1, 0.3, 0.5, 0.9):
        # random choices are the same for all observations
        error = math.sqrt(a * (1 - a) * (1 / n + (0 if exact else 1 / draws)))
        share = (p <= a * (1 + 1e-12)).mean()
        assert share <= a + 4 * error
        level = math.floor(a * K**L * (1 + 1e-12)) / K**L if exact else a - 1 / draws
        assert share == pytest.approx(level, abs=4 * error)


def test_random_choices_agree_with_all_of_them():
    result, draws = null(6, 4, 200), 4000
    exact, drawn = p_values(result, 4**6), p_values(result, draws)
    error = np.sqrt(exact * (1 - exact) / draws) + 1 / draws
    assert (np.abs(drawn - exact) < 5 * error).all() and (drawn != exact).any()
    hits = drawn * (draws + 1)
    np.testing.assert_allclose(hits, np.round(hits), atol=1e-6)  # (1 + hits) / (1 + draws)
    np.testing.assert_array_equal(p_values(result, draws), drawn)
    assert (p_values(result, draws, seed=1) != drawn).any()


@pytest.mark.parametrize(("L", "K", "least"), [(3, 5, 5**-3), (10, 10, 1e-4)])
def test_strong_memorization_has_the_least_p_value(L, K, least):
    result = planted(null(L, K, 40), [3, 17], 50.0)
    p = p_values(result).values[0]
    np.testing.assert_allclose(p[[3, 17]], least, rtol=1e-9)
    others = np.delete(p, [3, 17])
    assert others.min() > least and 0.2 < others.mean() < 0.8


def test_the_opposite_of_memorization_has_large_p_values():
    p = p_values(planted(null(4, 5, 20), np.arange(20), -50.0))
    np.testing.assert_allclose(p, 1)


@pytest.mark.parametrize("draws", [9999, 50])
def test_neither_the_order_of_observations_nor_the_blocks_of_the_sums_matter(monkeypatch, draws):
    result = null(5, 4, 31, epochs=2)
    order = np.random.default_rng(1).permutation(31)
    p = p_values(result, draws)
    moved = p_values(result.isel(observation=order), draws)
    np.testing.assert_array_equal(moved, p.isel(observation=order))
    assert moved.label.values.tolist() == result.label.values[order].tolist()
    monkeypatch.setattr(memlib.significance._count_lower, "__defaults__", (7 * min(draws, 4**5),))
    np.testing.assert_array_equal(p_values(result, draws), p)
    np.testing.assert_array_equal(p_values(result.isel(epoch=[1]), draws)[0], p[1])
    np.testing.assert_array_equal(p_values(result.transpose(), draws), p)


@pytest.mark.parametrize("draws", [9999, 50])
def test_impossible_observations_have_p_values_too(draws):
    result = null(3, 4, 12)
    assert 4**3 > 50
    log_px, fold_of = result.log_px.values[0].copy(), result.fold_of.values
    log_px[:, :, 0] = -np.inf  # under every model: no difference
    for repeat in range(3):
        log_px[repeat, fold_of[repeat, 1], 1] = -np.inf  # under those that did not see it
        log_px[repeat, (fold_of[repeat, 2] + 1) % 4, 2] = -np.inf  # under one each that did
    p = p_values(as_result(log_px, fold_of), draws).values[0]
    exact = draws > 50
    assert p[0] == 1
    assert p[1] == (1 / 64 if exact else pytest.approx(1 / 51, abs=5 / 51))
    assert p[2] > 37 / 64 - 0.15  # every choice with one of those is below
    np.testing.assert_array_equal(p[3:], p_values(result, draws).values[0, 3:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"draws": 0}, "draws is 0; allowed: 1 or more"),
        ({"draws": -5}, "draws is -5; allowed: 1 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
    ],
)
@pytest.mark.parametrize("function", [p_values, memorized])
def test_draws_and_seeds_that_cannot_be_are_named(function, options, message):
    with pytest.raises(ValueError, match=message):
        function(null(2, 3, 9), **options)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("function", [p_values, memorized])
def test_log_probabilities_that_are_none_are_refused_as_by_the_scores(function, value):
    result = null(2, 3, 9)
    result.log_px[0, 0, 0, 0] = value
    for refuse in (function, memorization):
        with pytest.raises(ValueError, match=r"log_px is NaN \d times and \+inf \d times; allowed"):
            refuse(result)


@pytest.mark.parametrize("function", [p_values, memorized])
def test_what_is_no_result_is_refused(function):
    with pytest.raises(ValueError, match="the result has no variable 'log_px'"):
        function(null(2, 3, 9).drop_vars("log_px"))


@pytest.mark.parametrize("rate", [0, 1, 2, -0.5, math.nan])
def test_a_rate_that_is_no_share_is_named(rate):
    with pytest.raises(ValueError, match=f"rate is {rate}; allowed: between 0 and 1"):
        memorized(null(2, 3, 9), rate)


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_no_more_than_the_rate_of_what_is_listed_is_there_by_chance(rate):
    """On average over 200 runs, of 200 observations each, 40 of which are memorized by three spreads."""
    truth = np.arange(200) < 40
    result = planted(null(5, 5, 200, epochs=200), np.flatnonzero(truth), 3.0)
    listed = memorized(result, rate)
    assert listed.dims == ("epoch", "observation") and listed.dtype == bool and listed.name == "memorized"
    false, total = (listed.values & ~truth).sum(axis=1), listed.values.sum(axis=1)
    proportion = false / np.maximum(total, 1)
    assert proportion.mean() <= rate
    assert proportion.mean() > rate / 4, "no more than the rate, but not much less"
    assert listed.values[:, truth].mean() > 0.8


def test_where_nothing_is_memorized_hardly_any_run_lists_something():
    """Then whatever is listed is false, so that the rate is the share of runs with a list."""
    listed = memorized(null(5, 5, 100, seed=1, epochs=400), rate=0.1)
    share = listed.any("observation").mean()
    assert share <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 400)


def test_what_is_listed_is_what_benjamini_and_hochberg_list():
    result = planted(null(4, 5, 60, epochs=3), np.arange(15), 2.0)
    p, listed = p_values(result, draws=99, seed=3).values, memorized(result, 0.2, 99, 3).values
    assert 0 < listed.sum() < listed.size
    for row, chosen in zip(p, listed, strict=True):
        order = np.sort(row)
        passing = np.flatnonzero(order <= 0.2 * np.arange(1, 61) / 60 + 1e-12)
        limit = order[passing[-1]] if len(passing) else -1.0
        np.testing.assert_array_equal(chosen, row <= limit)


def test_few_repeats_may_reach_no_small_rate():
    """Two repeats and two folds: the least p-value is a quarter."""
    result = planted(null(2, 2, 50), np.arange(25), 100.0)
    assert not memorized(result, 0.1).any()
    assert memorized(result, 0.6)[0, :25].all()


def test_a_stated_null_gives_the_uniform_distribution_of_a_test():
    p = p_values(null(6, 5, 2000)).values[0]
    assert scipy.stats.kstest(p, "uniform").pvalue > 1e-3
    shifted = p_values(planted(null(6, 5, 2000), np.arange(2000), 0.3)).values[0]
    assert scipy.stats.kstest(shifted, "uniform").pvalue < 1e-6


def test_rank_correlation_of_equal_opposite_and_constant_orders():
    a = np.arange(10.0)
    assert rank_correlation(a, np.exp(a)) == (1, 1, 1)
    assert rank_correlation(a, -a) == (-1, -1, -1)
    assert all(map(math.isnan, rank_correlation(a, np.ones(10))))
    assert rank_correlation(a, np.append(a[:-1], np.inf))[0] == 1  # infinity ranks last


def test_rank_correlation_by_hand():
    # rank differences 1, 1, 1, 1, 0: 1 - 6 * 4 / (5 * 24) = 0.8
    rank, low, high = rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50])
    assert rank == pytest.approx(0.8)
    reach = 1.959964 * math.sqrt((1 + 0.32) / 2)
    assert (low, high) == pytest.approx(
        (math.tanh(math.atanh(0.8) - reach), math.tanh(math.atanh(0.8) + reach))
    )


def test_rank_correlation_intervals_hold_the_truth():
    rng, correlation, hits = np.random.default_rng(0), 0.6, 0
    truth = 6 / math.pi * math.asin(correlation / 2)  # of a normal pair
    for _ in range(500):
        pair = rng.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], size=80)
        _, low, high = rank_correlation(*pair.T, level=0.9)
        hits += low <= truth <= high
    assert 0.86 <= hits / 500 <= 0.94


@pytest.mark.parametrize(
    ("a", "b", "level", "message"),
    [
        ([1, 2, 3], [1, 2, 3], 0.9, "n at least 4"),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5], 0.9, r"got \(4,\) and \(5,\)"),
        ([1, 2, 3, math.nan], [1, 2, 3, 4], 0.9, "without NaN"),
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0, "level is 1.0; allowed: between 0 and 1"),
    ],
)
def test_rank_correlation_refuses(a, b, level, message):
    with pytest.raises(ValueError, match=message):
        rank_correlation(a, b, level)
