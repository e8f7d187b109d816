"""Scores of duplicated images against others: the choice, the bootstrap, images against themselves."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from memlib.data import load_images
from memlib.duplicate_scores import compare, unseen_group, with_ordinary
from memlib.memorization import fold_assignment, memorization
from memlib.planted import write

DIGITS = load_images("digits")


def run(gap, L=4, K=5, n=60, spread=1.0, seed=0):
    """A result in which an image's log p is lower by `gap` (n,) under the model that did not see it."""
    rng = np.random.default_rng(seed)
    fold_of = np.stack([fold_assignment(n, K, rng) for _ in range(L)])
    log_px = rng.normal(0, spread, (1, L, K, n)) - 100
    log_px -= gap * (fold_of[:, None] == np.arange(K)[:, None])
    dims = {"log_px": ("epoch", "repeat", "fold", "observation"), "fold_of": ("repeat", "observation")}
    return xr.Dataset({"log_px": (dims["log_px"], log_px), "fold_of": (dims["fold_of"], fold_of)})


def test_groups_are_taken_whole_with_as_many_others_of_each_class(tmp_path):
    found = [np.array([3, 10, 20]), np.array([5, 40]), np.array([7, 8])]
    chosen = with_ordinary(DIGITS, found, most=6, seed=1)
    ordinary = chosen.kind == "ordinary"
    assert sorted(chosen.images.index[~ordinary]) == sorted(DIGITS.index[[3, 5, 10, 20, 40]])
    assert chosen.copies[ordinary].tolist() == [1] * 5 and sorted(chosen.copies[~ordinary]) == [2, 2, 3, 3, 3]
    assert set(chosen.original[~ordinary]) == {3, 5}
    labels = chosen.images.labels
    assert sorted(labels[ordinary]) == sorted(labels[~ordinary]) and (np.diff(labels) >= 0).all()
    assert not {3, 5, 7, 8, 10, 20, 40} & set(chosen.original[ordinary].tolist())
    np.testing.assert_array_equal(chosen.images.images[ordinary], DIGITS.images[chosen.original[ordinary]])
    held = load_images("digits", "test")
    held = held.subset(np.flatnonzero(np.isin(held.labels, labels)))
    read = load_images(write(chosen, held, tmp_path / "set"))
    np.testing.assert_array_equal(read.images, chosen.images.images)


@pytest.mark.parametrize(
    ("found", "most", "seed", "message"),
    [
        ([], 9, 0, "no groups"),
        ([np.arange(5)], 4, 0, "most is 4 with 5 images in the first group"),
        ([np.arange(2)], 4, -1, "seed is -1; allowed: 0 or more"),
        ([np.flatnonzero(DIGITS.labels == 3)[:100]], 100, 0, "100 ordinary images of class 3"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(found, most, seed, message):
    with pytest.raises(ValueError, match=message):
        with_ordinary(DIGITS, found, most, seed)


ORIGINAL = np.repeat(np.arange(45), [2] * 15 + [1] * 30)  # fifteen pairs, thirty without
SEVERAL = np.arange(60) < 30


def test_means_are_of_groups_and_the_first_row_is_the_reference():
    result = run(np.where(SEVERAL, 2.0, 10.0))
    odd = ORIGINAL.copy()
    odd[:10] = 0  # a group of ten counts as much as one of two
    table = compare(result, odd, {"once": ~SEVERAL, "several": SEVERAL}, draws=200)
    last = memorization(result, "matched").isel(epoch=-1)
    for name, values in (("M", last.M.values), ("gap", last.gap.mean("repeat").values)):
        means = [values[odd == g].mean() for g in np.unique(odd[:30])]
        assert table[name]["several"] == pytest.approx(np.mean(means))
        assert table[name]["once"] == pytest.approx(values[30:].mean())
        assert table[f"more {name}"].tolist() == pytest.approx([0, np.mean(means) - values[30:].mean()])
    assert table.groups.tolist() == [30, 11] and table.images.tolist() == [30, 30]
    again = compare(result, odd, {"once": ~SEVERAL, "several": SEVERAL}, draws=200)
    assert again.equals(table)


def test_a_difference_is_found_and_one_that_is_none_is_not():
    low = compare(run(np.where(SEVERAL, 2.0, 10.0)), ORIGINAL, {"once": ~SEVERAL, "several": SEVERAL})
    assert (low.loc["several", ["more M high", "more gap high"]] < -6).all()
    assert (low["M low"] <= low.M).all() and (low.M <= low["M high"]).all()
    same = compare(run(np.full(60, 5.0)), ORIGINAL, {"once": ~SEVERAL, "several": SEVERAL})
    assert (same.loc["several", ["more M low", "more gap low"]] < 0).all()
    assert (same.loc["several", ["more M high", "more gap high"]] > 0).all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """With effects of groups and of repeats, and no difference on average."""
    held, runs = [], 60
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        gap = rng.normal(0, 3, 45)[ORIGINAL]
        table = compare(run(gap, seed=seed), ORIGINAL, {"a": ~SEVERAL, "b": SEVERAL}, draws=300, seed=seed)
        held.append(table["more gap low"]["b"] <= 0 <= table["more gap high"]["b"])
    assert stats.binomtest(sum(held), runs, 0.95).pvalue > 0.001


def test_images_of_a_group_are_no_independent_cases():
    """Fifteen copies of each of four scores: the interval is that of four, not of sixty."""
    four = np.repeat(np.arange(4), 15)
    result = run(np.array([0.0, 4.0, 8.0, 12.0])[four], spread=1e-3)
    every = {"all": np.ones(60, bool)}
    grouped, single = (compare(result, o, every).loc["all"] for o in (four, np.arange(60)))
    ratio = (grouped["gap high"] - grouped["gap low"]) / (single["gap high"] - single["gap low"])
    assert ratio == pytest.approx(np.sqrt(15), rel=0.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"original": ORIGINAL[1:]}, r"original is \(59,\)"),
        ({"rows": {}}, "with 0 rows"),
        ({"rows": {"a": np.ones(60)}}, r"rows\['a'\] must be bool"),
        ({"rows": {"a": np.zeros(60, bool)}}, "at least one image"),
        ({"level": 1.0}, "level, draws, seed are 1.0"),
        ({"draws": 0}, "draws, seed are 0.95, 0"),
        ({"seed": -1}, "allowed: between 0 and 1, 1 or more, 0 or more"),
    ],
)
def test_comparisons_that_make_no_sense_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        compare(**{"result": run(np.zeros(60)), "original": ORIGINAL, "rows": {"a": SEVERAL}} | change)


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


def test_the_effect_of_duplicates_is_found():
    rng, n = np.random.default_rng(0), 60
    fold_of = np.stack([fold_assignment(n, 3, rng) for _ in range(12)])
    together = np.zeros((12, n), bool)
    together[:, :30] = np.repeat(fold_of[:, 0:30:2] == fold_of[:, 1:30:2], 2, axis=1)
    gap = (
        rng.normal(0, 1, (12, n)) + 5 * together + rng.normal(0, 20, (12, 1))
    )  # repeats differ in their mean
    found = unseen_group(gap, fold_of, ORIGINAL)
    assert len(found) > 10 and found.mean() == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4), (2, 4), (3,)), r"original \(3,\)"),
        (((2, 4), (3, 4), (4,)), r"fold_of \(3, 4\)"),
        (((4,), (4,), (4,)), r"gap is \(4,\)"),
        (((2, 4), (2, 4), (4,)), "every image has duplicates"),
    ],
)
def test_images_that_cannot_be_compared_with_themselves_are_refused(shapes, message):
    with pytest.raises(ValueError, match=message):
        unseen_group(*(np.zeros(shape, int) for shape in shapes))
