"""How well a second run would agree, and how often intervals hold, against enumeration and closed forms."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_inference import more, null, planted

from memlib.chapters.repeats import SCORES, coverage, median_by_repeats, repeats_needed, stability
from memlib.inference import spearman_brown
from memlib.memorization import memorization

shares = st.floats(0.01, 0.99)
counts = st.integers(1, 50)


@pytest.mark.parametrize("score", SCORES)
def test_the_sets_are_any_two_that_share_no_repeat(score):
    """All numbers that such pairs of sets give at the last epoch are found, and no others."""
    result = null(4, 3, 30, epochs=2)
    agree = stability(result, draws=60)
    assert agree.repeats.values.tolist() == [1, 2] and agree.sizes["draw"] == 60
    last = result.isel(epoch=[-1])

    def scores(repeats):
        part = last.isel(repeat=list(repeats))
        return memorization(part).gap if score == "gap" else memorization(part, score).M

    for size in (1, 2):
        expected = []
        for one, two in itertools.combinations(itertools.combinations(range(4), size), 2):
            if not {*one} & {*two}:
                a, b = (scores(part).values[0] for part in (one, two))
                rank = np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]
                expected.append((rank, math.sqrt(np.mean((a - b) ** 2) / 2)))
        found = agree.sel(score=score, repeats=size)
        same = np.isclose(np.stack([found["rank"], found.error], 1)[:, None], expected, atol=1e-9).all(2)
        assert same.any(0).all() and (same.sum(1) == 1).all()


@pytest.fixture(scope="module")
def noisy():
    """Gaps with a standard deviation of 0.3 nats, and models that differ by as much."""
    gaps = xr.DataArray(np.random.default_rng(1).normal(0, 0.3, 4000), dims="observation")
    return planted(null(8, 4, 4000, spread=0.3), np.arange(4000), gaps)


@pytest.mark.parametrize("score", ["gap", "matched"])  # log-means of repeats are nearly means here
def test_scores_with_noise_agree_as_their_variances_say(noisy, score):
    agree = stability(noisy, draws=10).sel(score=score).mean("draw")
    noise = 0.3 * np.sqrt(4 / 3 / agree.repeats)  # of a mean over 3 models less one
    np.testing.assert_allclose(agree.error, noise, rtol=0.05)
    correlation = 0.3**2 / (0.3**2 + noise**2)
    expected = 6 / math.pi * np.arcsin(correlation / 2)  # of ranks, where both are normal
    np.testing.assert_allclose(agree["rank"], expected, atol=0.03)
    assert spearman_brown(agree["rank"].values[0], 1, 4) == pytest.approx(agree["rank"].values[-1], abs=0.03)


def test_what_another_scoring_of_the_models_adds_is_in_the_difference(noisy):
    """Half of the squared shift between two scorings; none of what the scorings share."""
    left = (noisy.fold_of == xr.DataArray(np.arange(4), dims="fold")).astype(float)
    agree = stability(noisy, noisy.assign(log_px=noisy.log_px - 2 * left), [3], draws=10)
    expected = math.sqrt(0.3**2 * 4 / 3 / 3 + 2**2 / 2)
    assert agree.repeats.values.tolist() == [3]
    np.testing.assert_allclose(agree.error.sel(score="gap").mean(), expected, rtol=0.01)


def test_the_seed_chooses_the_sets():
    result = null(7, 3, 30)
    one, again, other = (stability(result, draws=3, seed=seed) for seed in (1, 1, 2))
    assert one.repeats.values.tolist() == [1, 2, 3]
    assert one.identical(again) and not one.identical(other)


@pytest.mark.parametrize(
    "size", [2, 8]
)  # of 16: the others say it with an error of their own, small or large
def test_intervals_of_normal_gaps_hold_as_often_as_they_say(size):
    result = null(16, 3, 2000)
    for level in (0.5, 0.9):
        assert coverage(result, size, level, draws=3)["gap"] == pytest.approx(level, abs=0.02)


def test_intervals_of_m_hold_where_it_is_nearly_a_mean_and_fail_where_it_is_a_maximum():
    small, large = (coverage(null(16, 5, 1000, spread=spread), 5, draws=4) for spread in (0.05, 5.0))
    assert small["matched"] == pytest.approx(0.9, abs=0.03)
    assert small["paper"] == pytest.approx(0.9, abs=0.03)
    assert large["gap"] == pytest.approx(0.9, abs=0.03) and large["matched"] < 0.86 and large["paper"] < 0.86


def test_intervals_miss_what_half_of_the_repeats_have_in_common():
    """A shift of one half: the intervals that are made from either half alone cannot hold the other."""
    result = null(4, 3, 200, spread=0.0)
    left = result.fold_of == xr.DataArray(np.arange(3), dims="fold")
    apart = result.assign(log_px=result.log_px - left * xr.DataArray([0.0, 0, 1, 1], dims="repeat"))
    held = coverage(apart, 2, draws=200)["gap"]
    assert held == pytest.approx(2 / 3, abs=0.1)  # of the choices of two, those with one of each half
    assert coverage(more(result, 1.0), 2)["gap"] == 1


@settings(max_examples=50)
@given(shares, counts, counts, counts)
def test_the_formula_goes_there_and_back_and_in_steps(rank, one, two, three):
    there = spearman_brown(rank, one, two)
    assert spearman_brown(there, two, one) == pytest.approx(rank, rel=1e-9)
    assert spearman_brown(there, two, three) == pytest.approx(spearman_brown(rank, one, three), rel=1e-9)


@settings(max_examples=50)
@given(shares, counts, counts, shares)
def test_the_repeats_needed_suffice_and_one_less_does_not(rank, repeats, wanted, target):
    assert repeats_needed(rank, repeats, spearman_brown(rank, repeats, wanted)) == wanted
    needed = repeats_needed(rank, repeats, target)
    assert needed >= 1 and spearman_brown(rank, repeats, needed) >= target - 1e-7
    assert needed == 1 or spearman_brown(rank, repeats, needed - 1) < target


def test_runs_that_agree_wholly_need_one_repeat_and_those_that_do_not_infinitely_many():
    assert spearman_brown(0.0, 2, 100) == 0 and spearman_brown(1.0, 100, 2) == pytest.approx(1)
    assert repeats_needed(1.0, 5, 0.99) == 1 and repeats_needed(0.9, 1, 0.5) == 1
    assert repeats_needed(0.0, 3, 0.8) == repeats_needed(-0.1, 3, 0.8) == math.inf


def test_the_median_by_repeats_is_that_of_all_sets_and_goes_on_as_their_last_step():
    result = null(4, 3, 31, epochs=2)
    medians, error = median_by_repeats(result, more=8)
    last = result.isel(epoch=[-1])
    of = [
        [
            float(memorization(last.isel(repeat=list(s))).M.median())
            for s in itertools.combinations(range(4), l)
        ]
        for l in (1, 2, 3, 4)
    ]
    assert [medians[l] for l in (1, 2, 3, 4)] == pytest.approx([np.mean(each) for each in of])
    # a + b / L through L = 3 and 4, at L = 8: b / 12 is the last step, b / 8 the one from 4 to 8
    assert medians[8] == pytest.approx(medians[4] + 12 / 8 * (medians[4] - medians[3]))
    assert error == pytest.approx(math.sqrt(3 / 4 * np.sum((of[2] - np.mean(of[2])) ** 2)))
    assert median_by_repeats(result, more=4)[0][4] == medians[4]


def test_of_one_repeat_no_other_number_is_known():
    one = null(1, 3, 30)
    medians, error = median_by_repeats(one)
    assert medians[1] == float(memorization(one).M[-1].median())
    assert math.isnan(medians[10]) and math.isnan(error)
    with pytest.raises(ValueError, match="more is 0"):
        median_by_repeats(one, more=0)
