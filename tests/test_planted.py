"""Planted truth: what is in the sets, how they are kept, and the statistics of what is found in them."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from memlib.data import ImageSet, load_images
from memlib.planted import COPIES, KINDS, OUTLIERS, Planted, by_kind, mean_interval, plant, write

SETS = {name: load_images(name) for name in ("digits", "patches")}
FEW = {"ordinary": 30, "copies": {2: 3, 5: 2}, "near": 3, "outliers": {1: 4, 3: 2}, "noise": 5}
NOTHING_ELSE = {"copies": {}, "near": 0, "outliers": {}, "noise": 0}


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


def test_a_planted_set_is_an_image_set_with_columns():
    planting = plant(SETS["patches"], 3, **NOTHING_ELSE)
    assert isinstance(planting, Planted) and isinstance(planting.images, ImageSet)
    assert planting.images.name == "planted" and planting.images.split == "train"


def test_labels_of_one_set_alone_are_refused(tmp_path):
    images = load_images("digits")
    few = images.subset(np.flatnonzero(images.labels != 7)[:30])
    with pytest.raises(ValueError, match=r"only one of the two sets has labels \[7\]; allowed: the same"):
        write(plant(images, 200, seed=1), few, tmp_path / "set")
    assert not (tmp_path / "set").exists()
