"""Agreement of independent repeats, and what it says of more of them."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from memlib import stability as module
from memlib.memorization import fold_assignment, memorization
from memlib.stability import reliability, repeats_needed, stability

shares = st.floats(0.01, 0.99)
counts = st.integers(1, 50)


def run_of(log_px, L=4, K=3, n=30, seed=0):
    """A run of two epochs; `log_px` gives (L, K, n) of the last from held-out (L, K, n) and a generator."""
    rng = np.random.default_rng(seed)
    fold_of = np.stack([fold_assignment(n, K, rng) for _ in range(L)])
    last = log_px(fold_of[:, None, :] == np.arange(K)[:, None], rng)
    values = np.stack([rng.normal(0, 50, last.shape), last])
    dims = ("epoch", "repeat", "fold", "observation")
    variables = {"log_px": (dims, values), "fold_of": (("repeat", "observation"), fold_of)}
    return xr.Dataset(variables, coords={"epoch": [3, 7], "repeat": np.arange(L)})


def noise(held_out, rng):
    return rng.normal(-80, 1, held_out.shape)


@pytest.mark.parametrize("estimator", ["paper", "matched", "gap"])
def test_runs_that_give_the_same_scores_agree_wholly(estimator):
    def same(held_out, rng):
        return np.where(held_out, -100, -100 + 5 * rng.normal(size=held_out.shape[-1]))

    agree = stability(run_of(same), estimator, draws=6)
    assert agree["rank"].dims == agree.error.dims == ("repeats", "draw") and agree.error.shape == (2, 6)
    np.testing.assert_allclose(agree["rank"], 1, rtol=1e-12)
    np.testing.assert_allclose(agree.error, 0, atol=1e-12)


def test_noise_does_not_agree_and_its_error_is_its_standard_deviation():
    s, K = 0.2, 4

    def independent(held_out, rng):
        return rng.normal(-50, s, held_out.shape)

    agree = stability(run_of(independent, L=6, K=K, n=4000), draws=10)
    assert (abs(agree["rank"]) < 5 / math.sqrt(4000)).all() and agree["rank"].std() > 0
    # M is a mean over K - 1 models less one; log-means of L repeats are nearly means where s is small
    expected = s * np.sqrt(K / (K - 1) / agree.repeats)
    np.testing.assert_allclose(agree.error.mean("draw"), expected, rtol=0.04)


def test_scores_with_noise_agree_as_their_variances_say():
    score_sd, s, K = 0.3, 0.3, 4

    def both(held_out, rng):
        score = rng.normal(0, score_sd, held_out.shape[-1])
        return np.where(held_out, 0, score) + rng.normal(0, s, held_out.shape)

    agree = stability(run_of(both, L=8, K=K, n=4000), draws=10)
    correlation = score_sd**2 / (score_sd**2 + s**2 * K / (K - 1) / agree.repeats)
    expected = 6 / math.pi * np.arcsin(correlation / 2)  # of ranks, where both are normal
    np.testing.assert_allclose(agree["rank"].mean("draw"), expected, atol=0.03)
    first, last = agree["rank"].mean("draw").values[[0, -1]]
    assert reliability(first, 1, 4) == pytest.approx(last, abs=0.03)


@pytest.mark.parametrize(("L", "sizes"), [(2, [1]), (3, [1]), (4, [1, 2]), (7, [1, 2, 3])])
def test_sets_have_one_to_half_of_the_repeats(L, sizes):
    agree = stability(run_of(noise, L=L), draws=2)
    assert agree.repeats.values.tolist() == sizes and agree.sizes["draw"] == 2


@pytest.mark.parametrize("estimator", ["paper", "matched"])
def test_the_two_sets_share_no_repeat(monkeypatch, estimator):
    calls = []

    def recorded(part, estimator):
        calls.append((part.repeat.values.tolist(), part.epoch.values.tolist(), estimator))
        return memorization(part, estimator)

    monkeypatch.setattr(module, "memorization", recorded)
    stability(run_of(noise, L=5), estimator, draws=8)
    assert {(tuple(epochs), name) for _, epochs, name in calls} == {((7,), estimator)}
    pairs = [(one, two) for (one, *_), (two, *_) in zip(calls[::2], calls[1::2], strict=True)]
    assert [len(one) for one, _ in pairs] == [1] * 8 + [2] * 8
    for one, two in pairs:
        assert len(one) == len(two) and len({*one, *two}) == 2 * len(one) and {*one, *two} <= {*range(5)}
    assert {repeat for one, two in pairs for repeat in one + two} == {*range(5)}


def test_the_numbers_are_those_of_the_scores():
    result = run_of(noise, L=2)
    agree = stability(result, "paper", draws=1)
    one, two = (memorization(result.isel(repeat=[k]), "paper").M.values[-1] for k in range(2))
    assert agree.error.item() == pytest.approx(np.sqrt(np.mean((one - two) ** 2)) / math.sqrt(2), rel=1e-12)
    ranks = [np.argsort(np.argsort(M)) for M in (one, two)]
    assert agree["rank"].item() == pytest.approx(np.corrcoef(ranks)[0, 1], rel=1e-12)


def test_the_seed_chooses_the_sets():
    result = run_of(noise, L=6)
    one, again, other = (stability(result, draws=3, seed=seed) for seed in (1, 1, 2))
    assert one.identical(again) and not one.identical(other)


@pytest.mark.parametrize(
    ("L", "options", "message"),
    [
        (1, {}, "the run has 1 repeat; allowed: 2 or more, one for each of two sets"),
        (2, {"draws": 0}, "draws is 0; allowed: 1 or more"),
        (2, {"seed": -1}, "seed is -1; allowed: 0 or more"),
        (2, {"score": "papers"}, "score is 'papers'; allowed: paper, matched, gap"),
    ],
)
def test_what_has_no_two_sets_is_refused(L, options, message):
    with pytest.raises(ValueError, match=message):
        stability(run_of(noise, L=L), **options)


def test_a_run_without_scores_is_refused():
    result = run_of(noise, L=2)
    result.log_px[-1, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="log_px is NaN 1 times"):
        stability(result)


def test_reliability_in_small_cases():
    assert reliability(0.5, 1, 4) == pytest.approx(0.8) and reliability(0.8, 4, 1) == pytest.approx(0.5)
    assert reliability(0.5, 3, 12) == pytest.approx(0.8)
    assert reliability(0.0, 2, 100) == 0
    assert reliability(1.0, 2, 100) == pytest.approx(1) == reliability(1.0, 100, 2)
    assert reliability(0.3, 7, 7) == pytest.approx(0.3)


@given(shares, counts, counts, counts)
def test_reliability_goes_there_and_back_and_in_steps(rank, one, two, three):
    there = reliability(rank, one, two)
    assert 0 < there < 1
    assert there > rank if two > one else there < rank if two < one else there == pytest.approx(rank)
    assert reliability(there, two, one) == pytest.approx(rank, rel=1e-9)
    assert reliability(there, two, three) == pytest.approx(reliability(rank, one, three), rel=1e-9)


@given(shares, counts, counts)
def test_as_many_repeats_are_needed_as_give_the_reliability(rank, repeats, wanted):
    assert repeats_needed(rank, repeats, reliability(rank, repeats, wanted)) == wanted


@given(shares, counts, shares)
def test_the_repeats_needed_suffice_and_one_less_does_not(rank, repeats, target):
    needed = repeats_needed(rank, repeats, target)
    assert needed >= 1 and reliability(rank, repeats, needed) >= target - 1e-7
    assert needed == 1 or reliability(rank, repeats, needed - 1) < target


def test_runs_that_agree_wholly_need_one_repeat_and_those_that_do_not_infinitely_many():
    assert repeats_needed(0.5, 1, 0.8) == 4 and repeats_needed(0.5, 3, 0.8) == 12
    assert repeats_needed(1.0, 5, 0.99) == 1 and repeats_needed(0.9, 1, 0.5) == 1
    assert repeats_needed(0.0, 3, 0.8) == repeats_needed(-0.1, 3, 0.8) == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reliability(-0.1, 1, 1), "rank is -0.1; allowed: 0 to 1"),
        (lambda: reliability(1.1, 1, 1), "rank is 1.1; allowed: 0 to 1"),
        (lambda: reliability(math.nan, 1, 1), "rank is nan; allowed: 0 to 1"),
        (lambda: reliability(0.5, 0, 1), "repeats is 0; allowed: 1 or more"),
        (lambda: reliability(0.5, 1, 0), "wanted is 0; allowed: 1 or more"),
        (lambda: repeats_needed(0.5, 1, 0.0), "target is 0.0; allowed: between 0 and 1"),
        (lambda: repeats_needed(0.5, 1, 1.0), "target is 1.0; allowed: between 0 and 1"),
        (lambda: repeats_needed(0.5, 1, math.nan), "target is nan"),
        (lambda: repeats_needed(1.5, 1, 0.8), "rank is 1.5; allowed: 0 to 1"),
        (lambda: repeats_needed(math.nan, 1, 0.8), "rank is nan; allowed: 0 to 1"),
        (lambda: repeats_needed(0.5, 0, 0.8), "repeats is 0; allowed: 1 or more"),
        (lambda: repeats_needed(0.0, 0, 0.8), "repeats is 0; allowed: 1 or more"),
    ],
)
def test_other_ranks_counts_and_targets_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
