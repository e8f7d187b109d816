"""What is said of scores, against enumeration, closed forms and simulations of a known truth."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from memlib.inference import (
    corrected_correlation,
    halves,
    interval,
    memorized,
    p_values,
    rank_correlation,
    reliability,
)
from memlib.memorization import fold_assignment, memorization


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
    log_px = rng.normal(-100, spread, (epochs, L, K, n))
    return as_result(log_px, np.stack([fold_assignment(n, K, rng) for _ in range(L)]))


def planted(result, observations, by):
    """The same where models that did not see some observations give them less, by so many nats (each)."""
    left = result.fold_of == xr.DataArray(np.arange(result.sizes["fold"]), dims="fold")
    chosen = xr.DataArray(np.isin(np.arange(result.sizes["observation"]), observations), dims="observation")
    return result.assign(log_px=result.log_px - by * (left & chosen).astype(float))


def more(result, by, dims=None):
    """The same with so many nats more."""
    return result.assign(log_px=result.log_px + (by if dims is None else xr.DataArray(by, dims=dims)))


def test_intervals_of_the_gap_hold_the_truth_as_often_as_they_say_and_those_of_m_do_not():
    """Models that differ by 4.4 nats, versions of an image that differ by 4.9 nats from repeat to repeat."""
    rng, n, L = np.random.default_rng(1), 6000, 5
    result, truth = null(L, 5, n, spread=4.4), xr.DataArray(rng.normal(3, 2, n), dims="observation")
    result = more(result, rng.normal(0, 4.9, (L, n)), ("repeat", "observation"))
    scores = memorization(planted(result, np.arange(n), truth), "matched")
    holds = {}
    for name in ("gap", "M"):
        low, high = interval(scores, 0.9, name)
        holds[name] = float(((low <= truth) & (truth <= high)).mean())
    assert 0.87 < holds["gap"] < 0.93 and holds["M"] < 0.85


def test_an_interval_is_the_estimate_and_its_error_times_students_t():
    """With two repeats the distribution has one degree of freedom, whose upper quartile is 1."""
    scores = memorization(null(2, 3, 9, epochs=2))
    for name in ("gap", "U", "V", "M"):
        low, high = interval(scores, 0.5, name)
        xr.testing.assert_allclose(high, scores[name] + scores[f"{name}_se"], rtol=1e-9)
        xr.testing.assert_allclose(low, scores[name] - scores[f"{name}_se"], rtol=1e-9)
    for end in interval(memorization(null(1, 3, 9))):
        assert np.isnan(end).all()


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


@settings(max_examples=50)
@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 1000), st.booleans())
def test_exact_p_values_are_the_share_of_all_choices(L, K, seed, ties):
    result = null(L, K, 8, seed, spread=3)
    log_px, fold_of = result.log_px.values[0].astype(np.float32), result.fold_of.values
    log_px = np.round(log_px) if ties else log_px  # either way float64 sums them without error
    p = p_values(as_result(log_px, fold_of))
    np.testing.assert_allclose(p[0], enumerated(log_px.astype(float), fold_of), rtol=1e-12)
    assert p.dims == ("epoch", "observation") and p.name == "p_value"


def test_choices_are_drawn_where_all_of_them_are_more_than_the_draws():
    result = null(3, 3, 12)
    exact = enumerated(result.log_px.values[0], result.fold_of.values)
    for seed in (0, 1):
        np.testing.assert_allclose(p_values(result, 27, seed)[0], exact, rtol=1e-12)
    assert (p_values(result, 26, seed=0) != p_values(result, 26, seed=1)).any()


def test_random_choices_agree_with_all_of_them():
    result, draws = null(6, 4, 200), 4000
    exact, drawn = p_values(result, 4**6), p_values(result, draws)
    error = np.sqrt(exact * (1 - exact) / draws) + 1 / draws
    assert (np.abs(drawn - exact) < 5 * error).all() and (drawn != exact).any()
    hits = drawn * (draws + 1)
    np.testing.assert_allclose(hits, np.round(hits), atol=1e-6)  # (1 + hits) / (1 + draws)


@pytest.mark.parametrize(("L", "K", "draws"), [(4, 3, 9999), (10, 10, 999)])
def test_p_values_are_uniform_where_nothing_is_memorized(L, K, draws):
    """No more than a share a is at or below a; and where all choices are taken exactly so many."""
    n = 10_000
    p, exact = p_values(null(L, K, n), draws).values[0], K**L <= draws
    for a in (0.01, 0.05, 0.1, 0.3, 0.5, 0.9):
        # random choices are the same for all observations
        error = math.sqrt(a * (1 - a) * (1 / n + (0 if exact else 1 / draws)))
        level = math.floor(a * K**L * (1 + 1e-12)) / K**L if exact else a - 1 / draws
        assert (p <= a * (1 + 1e-12)).mean() == pytest.approx(level, abs=4 * error)


@pytest.mark.parametrize(("L", "K", "least"), [(3, 5, 5**-3), (10, 10, 1e-4)])
def test_strong_memorization_has_the_least_p_value_and_its_opposite_the_largest(L, K, least):
    result = planted(planted(null(L, K, 40), [3, 17], 50.0), [5], -50.0)
    p = p_values(result).values[0]
    np.testing.assert_allclose(p[[3, 17, 5]], [least, least, 1], rtol=1e-9)
    others = np.delete(p, [3, 17, 5])
    assert others.min() > least and 0.2 < others.mean() < 0.8


def test_p_values_are_of_each_observation_by_itself_and_in_its_place():
    """Of so many that their sums are not all taken at once."""
    result = null(7, 4, 600, epochs=2)
    order = np.random.default_rng(1).permutation(600)
    p, moved = p_values(result), p_values(result.isel(observation=order).transpose())
    xr.testing.assert_equal(moved, p.isel(observation=order))
    few = slice(400, 430)
    xr.testing.assert_equal(p_values(result.isel(epoch=[1], observation=few)), p[[1], few])


@pytest.mark.parametrize("draws", [9999, 50])
def test_impossible_observations_have_p_values_too(draws):
    result, exact = null(3, 4, 12), draws > 4**3
    log_px, fold_of = result.log_px.values[0].copy(), result.fold_of.values
    log_px[:, :, 0] = -np.inf  # under every model: no difference
    for repeat in range(3):
        log_px[repeat, fold_of[repeat, 1], 1] = -np.inf  # under those that did not see it
        log_px[repeat, (fold_of[repeat, 2] + 1) % 4, 2] = -np.inf  # under one each that did
    p = p_values(as_result(log_px, fold_of), draws).values[0]
    assert p[0] == 1
    assert p[1] == (1 / 64 if exact else pytest.approx(1 / 51, abs=5 / 51))
    assert p[2] > 37 / 64 - (0 if exact else 0.15)  # every choice with one of those is below
    np.testing.assert_array_equal(p[3:], p_values(result, draws).values[0, 3:])


def test_what_is_listed_is_what_benjamini_and_hochberg_list():
    result = planted(null(4, 5, 60, epochs=3), np.arange(15), 2.0)
    p, listed = p_values(result, draws=99, seed=3).values, memorized(result, 0.2, 99, 3)
    assert listed.dims == ("epoch", "observation") and listed.dtype == bool and listed.name == "memorized"
    assert 0 < listed.sum() < listed.size
    for row, chosen in zip(p, listed.values, strict=True):
        order = np.sort(row)
        passing = np.flatnonzero(order <= 0.2 * np.arange(1, 61) / 60 + 1e-12)
        limit = order[passing[-1]] if len(passing) else -1.0
        np.testing.assert_array_equal(chosen, row <= limit)


def test_no_more_than_the_rate_of_what_is_listed_is_there_by_chance():
    """On average over 200 runs, of 100 observations each, 20 of which are memorized by three spreads."""
    truth, rate = np.arange(100) < 20, 0.2
    listed = memorized(planted(null(5, 5, 100, epochs=200), np.flatnonzero(truth), 3.0), rate)
    false, total = (listed.values & ~truth).sum(axis=1), listed.values.sum(axis=1)
    assert rate / 4 < (false / np.maximum(total, 1)).mean() <= rate
    assert listed.values[:, truth].mean() > 0.8


def test_rank_correlation_of_equal_opposite_and_constant_orders():
    a = np.arange(10.0)
    assert rank_correlation(a, np.exp(a)) == (1, 1, 1)
    assert rank_correlation(a, -a) == (-1, -1, -1)
    assert all(map(math.isnan, rank_correlation(a, np.ones(10))))
    assert rank_correlation(a, np.append(a[:-1], np.inf))[0] == 1  # infinity ranks last


def test_rank_correlation_by_hand():
    # rank differences 1, 1, 1, 1, 0: 1 - 6 * 4 / (5 * 24) = 0.8
    reach = 1.959964 * math.sqrt((1 + 0.32) / 2)
    ends = math.tanh(math.atanh(0.8) - reach), math.tanh(math.atanh(0.8) + reach)
    assert rank_correlation([1, 2, 3, 4, 5], [20, 10, 40, 30, 50]) == pytest.approx((0.8, *ends))


def test_rank_correlation_intervals_hold_the_truth():
    rng, correlation, runs, hits = np.random.default_rng(0), 0.6, 400, 0
    truth = 6 / math.pi * math.asin(correlation / 2)  # of a normal pair
    for _ in range(runs):
        a, rest = rng.normal(size=(2, 80))
        b = correlation * a + math.sqrt(1 - correlation**2) * rest
        _, low, high = rank_correlation(a, b, level=0.9)
        hits += low <= truth <= high
    assert hits / runs == pytest.approx(0.9, abs=4 * math.sqrt(0.9 * 0.1 / runs))


def test_halves_share_no_repeat_and_are_of_the_last_epoch():
    result = null(5, 3, 9, epochs=2).assign_coords(repeat=np.arange(5))
    pairs = [[half.repeat.values.tolist() for half in pair] for pair in halves(result, 40)]
    assert all(len(one) == len(two) == 2 and not {*one} & {*two} for one, two in pairs)
    assert len({tuple(sorted(one)) for one, _ in pairs}) == 10  # all pairs of five
    assert next(halves(result, size=1))[0].sizes == {"epoch": 1, "repeat": 1, "fold": 3, "observation": 9}


def test_reliability_is_the_share_of_the_variance_that_repeats():
    """Gaps with a standard deviation of 2 nats and, in each repeat, noise of variance 9 (1 + 1 / 3)."""
    n, L = 20_000, 6
    gaps = xr.DataArray(np.random.default_rng(1).normal(0, 2, n), dims="observation")
    result = planted(null(L, 4, n, spread=3.0), np.arange(n), gaps)
    share = 4 / (4 + 12 / L)
    assert reliability(result, ranks=False, splits=10) == pytest.approx(share, abs=0.02)
    normal = 6 / math.pi * math.asin(share / 2)  # of ranks
    assert reliability(result, splits=10) == pytest.approx(normal, abs=0.02)
    # of another score as it is measured, in halves
    own = reliability(result, lambda run: memorization(run).gap[-1], ranks=False, splits=10)
    assert own == pytest.approx(4 / (4 + 12 / 3), abs=0.02)


def test_a_score_that_is_noise_has_no_reliability_and_one_without_noise_all():
    assert abs(reliability(null(6, 4, 4000))) < 0.05
    exact = planted(
        null(4, 4, 50, spread=0.0), np.arange(50), xr.DataArray(np.arange(50.0), dims="observation")
    )
    assert reliability(exact) == pytest.approx(1) and reliability(exact, ranks=False) == pytest.approx(1)
    assert math.isnan(reliability(null(4, 4, 50, spread=0.0)))


def related(correlation, n=1500, L=4, memorized=4.0):
    """A run with noisy gaps, and means of log p over models, without noise, so correlated with true gaps."""
    K, rng = 4, np.random.default_rng(2)
    normal, rest = rng.normal(size=(2, n))
    level = 3 * (correlation * normal + math.sqrt(1 - correlation**2) * rest)
    gap = xr.DataArray(memorized * normal, dims="observation")
    result = planted(null(L, K, n, spread=4.4), np.arange(n), gap)
    return more(result, level + gap / K), level


def mean_log_px(run):
    return run.log_px[-1].mean(("repeat", "fold"))


@pytest.mark.parametrize(("correlation", "verdict"), [(-0.7, "negative"), (0.5, "positive")])
def test_a_corrected_correlation_is_that_without_noise(correlation, verdict):
    """Of a normal pair, with the level known and measured by the same repeats."""
    result, level = related(correlation)
    truth = 6 / math.pi * math.asin(correlation / 2)
    for other in (level, mean_log_px):
        found = corrected_correlation(result, other, draws=300)
        assert found.low < truth < found.high and found.verdict == verdict
        assert found.corrected == pytest.approx(truth, abs=0.05) and found.high - found.low < 0.2
        assert abs(found.observed) < 0.8 * abs(truth) and 0.3 < found.reliability < 0.9


def test_noise_in_common_makes_no_correlation():
    """That of held-out models is in V and in the gap, which have nothing to do with each other without it."""
    rng, n = np.random.default_rng(3), 1500
    level, gap = (xr.DataArray(rng.normal(0, 4, n), dims="observation") for _ in range(2))
    result = more(planted(null(4, 4, n, spread=4.4), np.arange(n), gap), level + gap)
    scores = memorization(result).isel(epoch=-1)
    assert rank_correlation(scores.gap, scores.V)[2] < -0.1
    found = corrected_correlation(result, lambda run: memorization(run).V[-1], draws=300)
    assert found.verdict == "undecided" and found.high < 0.2


def test_of_a_gap_that_is_noise_nothing_is_decided():
    result, level = related(0.9, memorized=0.0)
    found = corrected_correlation(result, level, draws=300)
    assert found.verdict == "undecided" and np.isnan([found.corrected, found.low, found.high]).all()
