"""Planted truth: what is in the sets, how they are kept, and the statistics of what is found in them."""

import numpy as np
import pytest

from memlib.chapters.planted import KINDS, plant
from memlib.datasets import load_images

SETS = {name: load_images(name) for name in ("digits", "patches")}
FEW = {"ordinary": 30, "copies": {2: 3, 5: 2}, "near": 3, "outliers": {1: 4, 3: 2}, "noise": 5}
PLANTED = {name: plant(images, **FEW) for name, images in SETS.items()}


@pytest.fixture(params=SETS)
def given_set(request):
    return SETS[request.param]


@pytest.fixture
def planting(given_set):
    return PLANTED[given_set.name]


def squares(image):
    """The 8 x 8 squares of an image (C, 32, 32), in an order that does not depend on where they are."""
    places = range(0, 32, 8)
    return sorted(
        image[:, row : row + 8, column : column + 8].tobytes() for row in places for column in places
    )


def made(planting, *kinds):
    """The images of some kinds, and their originals' positions."""
    chosen = np.isin(planting.kind, kinds)
    return planting.images.images[chosen], planting.original[chosen]


def test_as_many_are_planted_of_every_kind_as_asked_for_each_of_another_original(planting):
    images = {"ordinary": 30, "copy": 2 * 3 + 5 * 2, "near-duplicate": 3 * 5, "outlier": 4}
    images |= {"copied outlier": 2 * 3, "noise": 5}
    assert {kind: (planting.kind == kind).sum() for kind in KINDS} == images
    assert sorted(planting.copies[planting.kind == "copy"]) == [2] * 6 + [5] * 10
    assert (planting.copies[planting.kind == "copied outlier"] == 3).all()
    assert (planting.copies[~np.isin(planting.kind, ["copy", "copied outlier"])] == 1).all()
    originals = [np.unique(planting.original[planting.kind == kind]) for kind in KINDS]
    assert [len(o) for o in originals] == [30, 5, 3, 4, 2, 5]
    assert len(np.unique(np.concatenate(originals))) == 49


def test_ordinary_images_and_copies_are_the_originals_as_often_as_said(planting, given_set):
    images, original = made(planting, "ordinary", "copy")
    np.testing.assert_array_equal(images, given_set.images[original])
    times = np.isin(planting.kind, ["ordinary", "copy"])
    for i, copies in zip(original, planting.copies[times], strict=True):
        assert (original == i).sum() == copies


def test_near_duplicates_are_the_original_and_its_four_shifts(planting, given_set):
    images, original = made(planting, "near-duplicate")
    for i in np.unique(original):
        x = given_set.images[i]  # what leaves on one side comes in on the other
        shifted = [np.roll(x, step, axis) for axis in (1, 2) for step in (1, -1)]
        expected = sorted(version.tobytes() for version in (x, *shifted))
        assert sorted(version.tobytes() for version in images[original == i]) == expected


def test_outliers_keep_their_squares_and_lose_their_order(planting, given_set):
    images, original = made(planting, "outlier", "copied outlier")
    for i in np.unique(original):
        same = images[original == i]
        assert (same == same[0]).all()  # copies of one are shuffled alike
        assert squares(same[0]) == squares(given_set.images[i])
        assert not np.array_equal(same[0], given_set.images[i])


def test_noise_keeps_its_pixels_and_loses_its_squares(planting, given_set):
    for image, i in zip(*made(planting, "noise"), strict=True):
        np.testing.assert_array_equal(np.sort(image, axis=None), np.sort(given_set.images[i], axis=None))
        assert squares(image) != squares(given_set.images[i])


def test_images_are_sorted_by_label_and_keep_that_of_their_original(planting, given_set):
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
    again, other = (plant(SETS["digits"], **FEW, seed=seed) for seed in (0, 1))
    assert PLANTED["digits"].images.sha256 == again.images.sha256 != other.images.sha256
    assert set(again.original) != set(other.original)


def test_all_images_of_a_set_can_be_used():
    nine = plant(SETS["digits"].subset(range(9)), 3, {3: 2}, near=1, outliers={1: 2}, noise=1)
    assert set(nine.original) == set(range(9))


def test_kinds_are_told_with_their_number_and_share_no_image():
    kinds = PLANTED["digits"].kinds
    names = ["ordinary", "copy, 2 times", "copy, 5 times", "near-duplicate", "outlier"]
    assert list(kinds) == [*names, "copied outlier, 3 times", "noise"]
    assert [chosen.sum() for chosen in kinds.values()] == [30, 6, 10, 15, 4, 6, 5]
    assert (np.sum(list(kinds.values()), axis=0) == 1).all()
    assert list(plant(SETS["digits"], 4, {}, near=0, outliers={}, noise=1).kinds) == ["ordinary", "noise"]
