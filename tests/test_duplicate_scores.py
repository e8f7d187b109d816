"""Scores of duplicated images against others: the choice, the bootstrap, images against themselves."""

import itertools

import numpy as np
import pytest
import xarray as xr

from memlib.chapters.duplicate_scores import by_kind, compare, unseen_group, with_ordinary
from memlib.chapters.planted import plant
from memlib.datasets import load_images
from memlib.memorization import fold_assignment, memorization

DIGITS = load_images("digits")


def run(gap, L=4, K=5, spread=1.0):
    """The model that did not see an image gives it less by `gap`, (n,) or (L, n), in the second epoch."""
    rng, n = np.random.default_rng(0), np.shape(gap)[-1]
    fold_of = np.stack([fold_assignment(n, K, rng) for _ in range(L)])
    held_out = fold_of[:, None] == np.arange(K)[:, None]  # (L, K, n)
    first = rng.normal(-100, spread, (L, K, n))
    last = first - np.broadcast_to(gap, (L, n))[:, None] * held_out
    variables = {
        "log_px": (("epoch", "repeat", "fold", "observation"), np.stack([first, last])),
        "fold_of": (("repeat", "observation"), fold_of),
    }
    return xr.Dataset(variables)


def test_groups_are_taken_whole_with_as_many_others_of_each_class():
    """All other images are in a group that is not taken, but for one of each class that is asked for."""
    taken, left = [3, 10, 20, 5, 40], []
    for label in DIGITS.labels[taken]:
        left.append(np.setdiff1d(np.flatnonzero(DIGITS.labels == label), taken + left)[-1])
    rest = np.setdiff1d(np.arange(len(DIGITS)), taken + left)
    chosen = with_ordinary(DIGITS, [np.array(taken[:3]), np.array(taken[3:]), rest], most=5)
    ordinary = chosen.kind == "ordinary"
    assert sorted(chosen.images.index[~ordinary]) == sorted(DIGITS.index[taken])
    assert sorted(chosen.original[ordinary]) == sorted(left)
    assert chosen.copies[ordinary].tolist() == [1] * 5 and sorted(chosen.copies[~ordinary]) == [2, 2, 3, 3, 3]
    assert set(chosen.original[~ordinary]) == {3, 5}
    assert (np.diff(chosen.images.labels) >= 0).all()
    np.testing.assert_array_equal(chosen.images.images[ordinary], DIGITS.images[chosen.original[ordinary]])


def test_means_are_of_groups_and_the_first_row_is_the_reference():
    several = np.arange(60) < 30
    result = run(np.where(several, 2.0, 10.0))
    original = np.repeat(np.arange(41), [10] + [2] * 10 + [1] * 30)  # ten count as much as two
    rows = {"once": ~several, "several": several}
    table = compare(result, original, rows)
    last = memorization(result, "matched").isel(epoch=-1)
    for name, values in (("M", last.M.values), ("gap", last.gap.values)):
        means = [values[original == g].mean() for g in range(11)]
        assert table[name]["several"] == pytest.approx(np.mean(means))
        assert table[name]["once"] == pytest.approx(values[30:].mean())
        assert table[f"more {name}"].tolist() == pytest.approx([0, np.mean(means) - values[30:].mean()])
    assert table.groups.tolist() == [30, 11] and table.images.tolist() == [30, 30]
    assert (table.loc["several", ["more M high", "more gap high"]] < -6).all()
    assert compare(result, original, rows).equals(table)


def test_planted_kinds_are_compared_by_original_with_intervals_over_models():
    """Where every image has the same gap in a repeat, all doubt is of the repeats."""
    planting = plant(DIGITS, 20, {2: 3}, near=2, outliers={}, noise=3)
    gap = np.repeat([[1.0], [2.0], [4.0], [5.0]], len(planting.images), axis=1)
    table = by_kind(planting, run(gap, spread=1e-6))
    assert list(table.index) == ["ordinary", "copy, 2 times", "near-duplicate", "noise"]
    assert table.kind.tolist() == ["ordinary", "copy", "near-duplicate", "noise"]
    assert table.times.tolist() == [1, 2, 1, 1] and table.images.tolist() == [20, 6, 10, 3]
    assert table.groups.tolist() == [20, 3, 2, 3]
    assert table.gap.tolist() == pytest.approx([3] * 4, abs=1e-4)
    assert (table["gap high"] - table["gap low"] > 2).all() and (table["more gap high"] < 1e-4).all()


def resampled(values, share):
    """A quantile of the means of all samples with replacement of as many."""
    means = [np.mean(sample) for sample in itertools.product(values, repeat=len(values))]
    return np.quantile(means, share)


@pytest.mark.parametrize("over", ["groups", "repeats"])
def test_intervals_are_of_means_of_groups_and_of_repeats_drawn_with_replacement(over):
    """Against all draws, where the scores differ by groups or by repeats alone."""
    values, four = np.array([0.0, 4.0, 9.0, 11.0]), np.repeat(np.arange(4), 15)
    gap = values[four] if over == "groups" else np.repeat(values[:, None], 60, axis=1)
    rows = {"all": np.ones(60, bool), "half": np.arange(60) % 15 < 7}
    table = compare(run(gap, spread=1e-6), four, rows)
    for end, share in (("low", 0.025), ("high", 0.975)):
        # of 2000 draws the share below a quantile has a standard error of 0.0035
        least, most = (resampled(values, s) - 1e-4 for s in (share - 0.014, share + 0.014))
        assert least <= table[f"gap {end}"]["all"] <= most + 2e-4
    assert table.gap.tolist() == pytest.approx([6, 6], abs=1e-4)
    if over == "repeats":  # which both kinds of images share
        assert abs(table.loc["half", ["more gap low", "more gap high"]]).max() < 1e-4
    else:  # each kind has groups of its own
        assert table["more gap low"]["half"] < -3 and table["more gap high"]["half"] > 3


def test_an_image_is_compared_with_itself_in_a_case_by_hand():
    original = np.array([0, 0, 1, 2, 2])
    fold_of = np.array([[0, 0, 1, 0, 1], [0, 1, 1, 1, 2]])
    gap = np.array([[7.0, 9.0, 1.0, 0.0, 0.0], [2.0, 4.0, -1.0, 0.0, 0.0]])
    # without the gap of image 2: together 6 and 8, apart 3 and 5; the last group was never left out together
    assert unseen_group(gap, fold_of, original).tolist() == [3.0]
    assert unseen_group(gap[1:], fold_of[1:], original).size == 0


def test_in_a_group_of_three_only_all_or_none_count():
    original = np.array([0, 0, 0, 1])
    fold_of = np.array([[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 2, 1]])
    gap = np.array([[10.0, 10, 10, 0], [50.0, 50, 2, 0], [3.0, 3, 4, 0]])
    # together: 10; apart: the third image of the second repeat, and all of the third
    assert unseen_group(gap, fold_of, original).tolist() == [10 - 3.0]
