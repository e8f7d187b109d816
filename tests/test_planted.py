"""Planted truth: what is in the sets, how they are kept, and the statistics of what is found in them."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from memlib.data import ImageSet, load_images
from memlib.planted import COPIES, KINDS, OUTLIERS, Planted, auc, by_kind, mean_interval, plant, roc, write

SETS = {name: load_images(name) for name in ("digits", "patches")}
FEW = {"ordinary": 30, "copies": {2: 3, 5: 2}, "near": 3, "outliers": {1: 4, 3: 2}, "noise": 5}
NOTHING_ELSE = {"copies": {}, "near": 0, "outliers": {}, "noise": 0}

scores = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).map(
    lambda pairs: tuple(np.array(column) for column in zip(*pairs, strict=True))
)


@pytest.fixture(params=SETS)
def given_set(request):
    return SETS[request.param]


def squares(image):
    """The 8 x 8 squares of an image (C, 32, 32), in an order that does not depend on where they are."""
    places = range(0, 32, 8)
    return sorted(
        image[:, row : row + 8, column : column + 8].tobytes() for row in places for column in places
    )


def shifted_by_one(image):
    """Down, up, right and left, what leaves on one side comes in on the other."""
    return [
        np.concatenate([image[:, -1:], image[:, :-1]], axis=1),
        np.concatenate([image[:, 1:], image[:, :1]], axis=1),
        np.concatenate([image[:, :, -1:], image[:, :, :-1]], axis=2),
        np.concatenate([image[:, :, 1:], image[:, :, :1]], axis=2),
    ]


def made(planting, kind):
    """The images of a kind, and their originals' positions."""
    chosen = planting.kind == kind
    return planting.images.images[chosen], planting.original[chosen]


def test_as_many_are_planted_of_every_kind_as_asked_for(given_set):
    planting = plant(given_set, **FEW)
    expected = {"ordinary": 30, "copy": 2 * 3 + 5 * 2, "near-duplicate": 3 * 5, "outlier": 4}
    expected |= {"copied outlier": 2 * 3, "noise": 5}
    assert {kind: (planting.kind == kind).sum() for kind in KINDS} == expected
    assert len(planting.images) == sum(expected.values())
    copies = planting.copies[planting.kind == "copy"]
    assert sorted(copies) == [2] * 6 + [5] * 10
    assert (planting.copies[planting.kind == "copied outlier"] == 3).all()
    once = ~np.isin(planting.kind, ["copy", "copied outlier"])
    assert (planting.copies[once] == 1).all()
    assert planting.images.channels == given_set.channels and planting.images.classes == given_set.classes
    np.testing.assert_array_equal(planting.images.index, np.arange(len(planting.images)))


def test_the_default_has_every_kind():
    planting = plant(SETS["digits"], 40)
    copies = sum(times * originals for times, originals in COPIES.items())
    expected = {"ordinary": 40, "copy": copies, "near-duplicate": 40, "outlier": 20, "noise": 20}
    expected["copied outlier"] = sum(times * originals for times, originals in OUTLIERS.items()) - 20
    assert {kind: (planting.kind == kind).sum() for kind in KINDS} == expected
    copied = planting.original[planting.kind == "copy"], planting.copies[planting.kind == "copy"]
    times = pd.Series(copied[1], copied[0]).groupby(level=0).first()
    assert times.value_counts().to_dict() == COPIES


def test_every_original_is_used_once(given_set):
    planting = plant(given_set, **FEW, seed=3)
    originals = [np.unique(planting.original[planting.kind == kind]) for kind in KINDS]
    assert [len(o) for o in originals] == [30, 5, 3, 4, 2, 5]
    assert len(np.unique(np.concatenate(originals))) == 49


def test_ordinary_images_are_the_originals(given_set):
    images, original = made(plant(given_set, **FEW), "ordinary")
    np.testing.assert_array_equal(images, given_set.images[original])


def test_copies_are_the_original_as_often_as_said(given_set):
    planting = plant(given_set, **FEW)
    images, original = made(planting, "copy")
    np.testing.assert_array_equal(images, given_set.images[original])
    for i, times in zip(original, planting.copies[planting.kind == "copy"], strict=True):
        assert (original == i).sum() == times


def test_near_duplicates_are_the_original_and_its_four_shifts(given_set):
    images, original = made(plant(given_set, **FEW), "near-duplicate")
    for i in np.unique(original):
        x = given_set.images[i]
        expected = sorted(version.tobytes() for version in (x, *shifted_by_one(x)))
        assert sorted(version.tobytes() for version in images[original == i]) == expected


def test_outliers_keep_their_squares_and_lose_their_order(given_set):
    for image, i in zip(*made(plant(given_set, **FEW), "outlier"), strict=True):
        assert squares(image) == squares(given_set.images[i])
        assert not np.array_equal(image, given_set.images[i])


def test_copied_outliers_are_the_same_shuffled_image(given_set):
    images, original = made(plant(given_set, **FEW), "copied outlier")
    for i in np.unique(original):
        same = images[original == i]
        assert len(same) == 3 and (same == same[0]).all()
        assert squares(same[0]) == squares(given_set.images[i])
        assert not np.array_equal(same[0], given_set.images[i])


def test_noise_keeps_its_pixels_and_loses_its_squares(given_set):
    for image, i in zip(*made(plant(given_set, **FEW), "noise"), strict=True):
        np.testing.assert_array_equal(np.sort(image, axis=None), np.sort(given_set.images[i], axis=None))
        assert squares(image) != squares(given_set.images[i])


def test_images_are_sorted_by_label_and_keep_that_of_their_original(given_set):
    planting = plant(given_set, **FEW)
    labels, real = planting.images.labels, planting.kind != "noise"
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_array_equal(labels[real], given_set.labels[planting.original[real]])


def test_the_classes_of_noise_are_drawn():
    planting = plant(SETS["digits"], 1, {}, near=0, outliers={}, noise=400)
    drawn = planting.kind == "noise"
    label, before = planting.images.labels[drawn], SETS["digits"].labels[planting.original[drawn]]
    assert np.bincount(label, minlength=10).min() >= 20  # 40 expected
    assert 0.05 < (label == before).mean() < 0.15


def test_the_seed_decides():
    one, again, other = (plant(SETS["digits"], **FEW, seed=seed) for seed in (4, 4, 5))
    for name in ("kind", "copies", "original"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
    assert one.images.sha256 == again.images.sha256 != other.images.sha256
    assert set(one.original) != set(other.original)


def test_all_images_of_a_set_can_be_used_and_no_more():
    few = SETS["digits"].subset(range(9))
    ten = {"copies": {3: 2}, "near": 1, "outliers": {1: 2}, "noise": 1}
    assert set(plant(few, 3, **ten).original) == set(range(9))
    with pytest.raises(ValueError, match="10 originals are asked for; allowed: at most the 9 images given"):
        plant(few, 4, **ten)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ordinary": 0}, "ordinary is 0; allowed: 1 or more"),
        ({"ordinary": -1}, "ordinary is -1; allowed: 1 or more"),
        ({"near": -1}, "near is -1; allowed: 0 or more"),
        ({"outliers": {2: -2}}, r"outliers\[2\] is -2; allowed: 0 or more"),
        ({"outliers": {0: 1}}, "outliers has the key 0; allowed: 1 or more times in the set"),
        ({"noise": -1}, "noise is -1; allowed: 0 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"copies": {2: 1, 3: -1}}, r"copies\[3\] is -1; allowed: 0 or more"),
        ({"copies": {2: 1, 1: 4}}, "copies has the key 1; allowed: 2 or more times in the set"),
        ({"copies": {0: 1}}, "copies has the key 0; allowed: 2 or more"),
    ],
)
def test_what_cannot_be_planted_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plant(SETS["digits"], **{"ordinary": 3, **change})


@pytest.mark.parametrize("name", SETS)
def test_what_is_written_is_read_back(name, tmp_path):
    planting, validation = plant(SETS[name], **FEW), load_images(name, "test")
    (tmp_path / "empty").mkdir()
    written = write(planting, validation, tmp_path / "empty")
    assert written == f"folder:{tmp_path.resolve() / 'empty'}"
    order = np.argsort(validation.labels, kind="stable")  # a folder is read class by class
    for split, images in (("train", planting.images), ("test", validation.subset(order))):
        loaded = load_images(written, split)
        assert loaded.channels == images.channels
        np.testing.assert_array_equal(loaded.images, images.images)
        np.testing.assert_array_equal(loaded.labels, images.labels)
        np.testing.assert_array_equal(loaded.index, np.arange(len(images)))


def test_the_order_stays_where_a_label_is_absent(tmp_path):
    rows = np.flatnonzero(np.isin(SETS["digits"].labels, (0, 3, 9)))
    planting = plant(SETS["digits"].subset(rows), 60, {2: 2}, near=2, outliers={1: 2}, noise=0)
    assert set(planting.images.labels) == {0, 3, 9}
    loaded = load_images(write(planting, planting.images, tmp_path / "three"))
    np.testing.assert_array_equal(loaded.images, planting.images.images)
    np.testing.assert_array_equal(loaded.labels, np.searchsorted([0, 3, 9], planting.images.labels))


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    planting = plant(SETS["digits"], 2, **NOTHING_ELSE)
    (tmp_path / "a file").write_text("kept")
    with pytest.raises(ValueError, match="is not empty; allowed: a new or empty one"):
        write(planting, planting.images, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.parametrize("level", [0.5, 0.95])
@pytest.mark.parametrize("images", [1, 4])
def test_the_interval_is_students_over_the_originals(images, level):
    rng = np.random.default_rng(0)
    original = np.repeat([40, 7, 19, 3], images)
    values = rng.normal(5, 2, 4)[np.repeat(range(4), images)] + rng.normal(0, 1, 4 * images)
    order = rng.permutation(4 * images)
    means = pd.Series(values).groupby(original).mean()
    low, high = stats.t.interval(level, 3, means.mean(), means.std() / 2)
    assert mean_interval(values[order], original[order], level) == pytest.approx((low, high), rel=1e-12)


def test_copies_of_one_original_do_not_shorten_the_interval():
    values, original = np.array([1.0, 3.0, 4.0]), np.arange(3)
    once, often = (mean_interval(np.repeat(values, k), np.repeat(original, k)) for k in (1, 20))
    assert often == pytest.approx(once, rel=1e-12)


def test_one_original_has_no_interval():
    assert all(map(math.isnan, mean_interval(np.array([1.0, 2.0]), np.array([5, 5]))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval(np.zeros(3), np.zeros(2, int)), r"values are \(3,\) and original \(2,\)"),
        (lambda: mean_interval(np.zeros((2, 2)), np.zeros((2, 2), int)), r"allowed: \(n,\) both"),
        (lambda: mean_interval(np.zeros(0), np.zeros(0, int)), "n at least 1"),
        (lambda: mean_interval(np.zeros(3), np.arange(3), 0.0), "level is 0.0; allowed: between 0 and 1"),
        (lambda: mean_interval(np.zeros(3), np.arange(3), 1.0), "level is 1.0; allowed: between 0 and 1"),
        (lambda: mean_interval(np.zeros(3), np.arange(3), math.nan), "level is nan"),
    ],
)
def test_means_of_nothing_and_other_levels_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_rows_by_kind_equal_a_direct_computation():
    planting = plant(SETS["digits"], **FEW)
    values = np.random.default_rng(0).normal(size=len(planting.images))
    table = by_kind(planting, values, 0.8)
    names = ["ordinary", "copy, 2 times", "copy, 5 times", "near-duplicate", "outlier"]
    assert list(table.index) == [*names, "copied outlier, 3 times", "noise"]
    assert table.images.tolist() == [30, 6, 10, 15, 4, 6, 5]
    assert table.originals.tolist() == [30, 3, 2, 3, 4, 2, 5]
    assert table.times.tolist() == [1, 2, 5, 1, 1, 3, 1]
    for name, row in table.iterrows():
        assert row.kind == name.partition(",")[0]
        group = (planting.kind == row.kind) & (planting.copies == row.times)
        assert row["mean"] == pytest.approx(values[group].mean(), rel=1e-12)
        means = pd.Series(values[group]).groupby(planting.original[group]).mean()
        ends = stats.t.interval(0.8, len(means) - 1, means.mean(), means.sem())
        assert (row.low, row.high) == pytest.approx(ends, rel=1e-9)


def test_only_kinds_that_are_there_have_a_row_and_shares_are_means():
    planting = plant(SETS["digits"], 4, **{**NOTHING_ELSE, "noise": 1})
    listed = planting.kind == "noise"
    table = by_kind(planting, listed)
    assert table["mean"].to_dict() == {"ordinary": 0.0, "noise": 1.0}
    assert table.low["ordinary"] == table.high["ordinary"] == 0 and math.isnan(table.low["noise"])


def test_values_of_other_images_and_levels_are_refused_by_kind():
    planting = plant(SETS["digits"], 4, **NOTHING_ELSE)
    with pytest.raises(ValueError, match="level is 2"):
        by_kind(planting, np.zeros(4), level=2)
    with pytest.raises(ValueError, match="values are"):
        by_kind(planting, np.zeros(5))


@given(scores)
def test_roc_is_what_lies_at_or_above_each_threshold(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    false, true = roc(score, positive)
    above = [score >= threshold for threshold in sorted(set(score), reverse=True)]
    np.testing.assert_allclose(false, [0, *(called[~positive].mean() for called in above)], atol=1e-12)
    np.testing.assert_allclose(true, [0, *(called[positive].mean() for called in above)], atol=1e-12)


def test_roc_in_a_small_case():
    false, true = roc([3, 1, 2, 2], np.array([True, False, True, False]))
    assert false.tolist() == [0, 0, 0.5, 1] and true.tolist() == [0, 0.5, 1, 1]
    false, true = roc([7.0] * 3, np.array([True, False, False]))
    assert false.tolist() == true.tolist() == [0, 1]


def test_infinite_scores_have_their_place_in_the_order():
    score = np.array([np.inf, 4.0, np.inf, -np.inf, 0.0, -np.inf, 4.0])
    positive = np.array([1, 0, 0, 0, 1, 1, 1], bool)
    finite = np.clip(score, -9, 9)
    np.testing.assert_array_equal(roc(score, positive), roc(finite, positive))
    assert auc(score, positive) == auc(finite, positive)


@given(scores)
def test_the_area_is_that_of_scikit_learn_and_that_under_the_curve(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive)
    assert area == pytest.approx(roc_auc_score(positive, score), abs=1e-12)
    false, true = roc(score, positive)
    assert area == pytest.approx(np.trapezoid(true, false), abs=1e-12)
    assert 0 <= low <= area <= high <= 1 and low < high


@given(scores)
def test_swapped_signs_give_the_rest_of_the_area(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive)
    assert auc(-score, positive) == pytest.approx((1 - area, 1 - high, 1 - low), abs=1e-9)
    assert auc(score, ~positive) == pytest.approx((1 - area, 1 - high, 1 - low), abs=1e-9)


@given(scores)
def test_only_the_order_of_scores_counts(pairs):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    for stretched in (100 + 7 * score, np.exp(5.0 * score), score**3):
        assert auc(stretched, positive) == auc(score, positive)


def standard_error(theta, m, n):
    """Of an area theta, as Hanley & McNeil write it, for Newcombe with the mean of both sizes."""
    mean, beats_two, two_beat = (m + n) / 2, theta / (2 - theta), 2 * theta**2 / (1 + theta)
    both = (mean - 1) * (beats_two - theta**2 + two_beat - theta**2)
    return np.sqrt((theta * (1 - theta) + both) / (m * n))


@given(scores, st.sampled_from([0.5, 0.9, 0.99]))
def test_the_interval_ends_where_the_area_is_as_far_as_its_error_allows(pairs, level):
    score, positive = pairs
    assume(0 < positive.sum() < len(positive))
    area, low, high = auc(score, positive, level)
    z, sizes = stats.norm.interval(level)[1], (positive.sum(), (~positive).sum())
    for end, extreme in ((low, 0), (high, 1)):
        if end != extreme or area != extreme:
            assert abs(area - end) == pytest.approx(z * standard_error(end, *sizes), abs=1e-6)
            assert 0 < end < 1


def test_the_interval_covers_the_area_as_often_as_it_says():
    rng, simulations, truth = np.random.default_rng(0), 400, 0.76
    positive = np.arange(100) < 40
    shift = np.sqrt(2) * stats.norm.ppf(truth) * positive
    found = [auc(shift + rng.normal(size=100), positive) for _ in range(simulations)]
    area, low, high = np.transpose(found)
    assert area.mean() == pytest.approx(truth, abs=4 * area.std() / np.sqrt(simulations))
    assert 0.92 < np.mean((low <= truth) & (truth <= high)) < 0.98


@pytest.mark.parametrize("kinds", [(10, 20), (1, 1), (400, 3)])
def test_what_is_wholly_apart_has_an_interval_that_ends_at_one(kinds):
    positive = np.repeat([True, False], kinds)
    area, low, high = auc(positive * 1.0, positive)
    assert area == high == 1 and 0 < low < 0.99
    assert abs(1 - low) == pytest.approx(stats.norm.ppf(0.975) * standard_error(low, *kinds), abs=1e-6)
    assert auc(positive * -1.0, positive) == pytest.approx((0, 0, 1 - low), abs=1e-9)


@pytest.mark.parametrize("kinds", [(8, 5), (2, 3), (40, 60)])
def test_scores_that_are_all_equal_tell_nothing(kinds):
    positive = np.repeat([True, False], kinds)
    area, low, high = auc(np.full(len(positive), 3.0), positive)
    assert area == 0.5 and low < 0.5 < high and low == pytest.approx(1 - high)


HALF = np.arange(6) < 3


@pytest.mark.parametrize("call", [roc, auc])
@pytest.mark.parametrize(
    ("score", "positive", "message"),
    [
        (np.arange(6.0), HALF[1:], r"score is \(6,\) and positive bool \(5,\)"),
        (np.zeros((6, 1)), HALF[:, None], r"score is \(6, 1\)"),
        (np.arange(6.0), HALF.astype(int), r"positive int64 \(6,\); allowed: \(n,\), bool \(n,\)"),
        ([], np.zeros(0, bool), "0 of 0 are positive; allowed: some, and not all"),
        ([0, np.nan, 1, 2, np.nan, 3], HALF, "score is NaN 2 times; allowed: numbers that have an order"),
        (np.arange(6.0), HALF | True, "6 of 6 are positive"),
        (np.arange(6.0), HALF & False, "0 of 6 are positive"),
    ],
)
def test_what_has_no_order_or_one_kind_is_refused(call, score, positive, message):
    with pytest.raises(ValueError, match=message):
        call(score, positive)


def test_areas_at_other_levels_are_refused():
    for level in (0, 1, 95, math.nan):
        with pytest.raises(ValueError, match=f"level is {level}; allowed: between 0 and 1"):
            auc(np.arange(6.0), HALF, level)


def test_a_planted_set_is_an_image_set_with_columns():
    planting = plant(SETS["patches"], 3, **NOTHING_ELSE)
    assert isinstance(planting, Planted) and isinstance(planting.images, ImageSet)
    assert planting.images.name == "planted" and planting.images.split == "train"


def test_images_of_one_original_count_as_one_case_in_the_interval():
    rng = np.random.default_rng(4)
    positive = np.arange(60) < 20
    score = rng.normal(positive, 1)
    alone = auc(score, positive)
    assert auc(score, positive, original=np.arange(60)) == alone
    again = np.repeat(score, 5), np.repeat(positive, 5)
    repeated = auc(*again, original=np.repeat(np.arange(60), 5))
    np.testing.assert_allclose(repeated, alone)  # copies tell nothing new
    area, low, high = auc(*again)
    assert area == pytest.approx(alone[0]) and high - low < 0.6 * (alone[2] - alone[1])
    with pytest.raises(ValueError, match=r"original is \(3,\); allowed: as score, \(60,\)"):
        auc(score, positive, original=np.arange(3))


def test_labels_of_one_set_alone_are_refused(tmp_path):
    images = load_images("digits")
    few = images.subset(np.flatnonzero(images.labels != 7)[:30])
    with pytest.raises(ValueError, match=r"only one of the two sets has labels \[7\]; allowed: the same"):
        write(plant(images, 200, seed=1), few, tmp_path / "set")
    assert not (tmp_path / "set").exists()
