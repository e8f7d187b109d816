"""How well a second run would agree, against enumeration and closed forms."""

import itertools
import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_inference import null, planted

from memlib.chapters.repeats import repeats_needed, stability
from memlib.inference import spearman_brown
from memlib.memorization import memorization

shares = st.floats(0.01, 0.99)
counts = st.integers(1, 50)


@pytest.mark.parametrize("score", ["paper", "matched", "gap"])
def test_the_sets_are_any_two_that_share_no_repeat(score):
    """All numbers that such pairs of sets give at the last epoch are found, and no others."""
    result = null(4, 3, 30, epochs=2)
    agree = stability(result, score, draws=60)
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
        found = agree.sel(repeats=size)
        same = np.isclose(np.stack([found["rank"], found.error], 1)[:, None], expected, atol=1e-9).all(2)
        assert same.any(0).all() and (same.sum(1) == 1).all()


def test_scores_with_noise_agree_as_their_variances_say():
    score_sd = sd = 0.3
    scores = xr.DataArray(np.random.default_rng(1).normal(0, score_sd, 4000), dims="observation")
    result = planted(null(8, 4, 4000, spread=sd), np.arange(4000), scores)
    agree = stability(result, draws=10)
    # M is a mean over 3 models less one; log-means of repeats are nearly means where the noise is small
    noise = sd * np.sqrt(4 / 3 / agree.repeats)
    np.testing.assert_allclose(agree.error.mean("draw"), noise, rtol=0.05)
    correlation = score_sd**2 / (score_sd**2 + noise**2)
    expected = 6 / math.pi * np.arcsin(correlation / 2)  # of ranks, where both are normal
    np.testing.assert_allclose(agree["rank"].mean("draw"), expected, atol=0.03)
    first, last = agree["rank"].mean("draw").values[[0, -1]]
    assert spearman_brown(first, 1, 4) == pytest.approx(last, abs=0.03)


def test_the_seed_chooses_the_sets():
    result = null(7, 3, 30)
    one, again, other = (stability(result, draws=3, seed=seed) for seed in (1, 1, 2))
    assert one.repeats.values.tolist() == [1, 2, 3]
    assert one.identical(again) and not one.identical(other)


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
