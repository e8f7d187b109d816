"""The search for near-duplicates: closed forms, every pair by brute force, and real images."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memlib import cifar10
from memlib.datasets import load_images
from memlib.metrics import neighbors
from memlib.metrics.duplicates import Pairs, centered, groups, near_duplicates

CENTERS = ["lines", "image"]


def noise(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *(shape or (3, 8, 8))), dtype=np.uint8)


def reference(image, center):
    """Centering as it is defined, for one image (C, H, W)."""
    x = image.astype(float)
    if center == "image":
        return (x - x.mean()).ravel()
    rows, columns = x.mean(2, keepdims=True), x.mean(1, keepdims=True)
    return (x - rows - columns + x.mean((1, 2), keepdims=True)).ravel()


def correlations(first, second, center):
    """Of every image with every other; NaN where centering leaves nothing."""
    units = []
    for images in (first, second):
        z = np.array([reference(image, center) for image in images])
        norm = np.linalg.norm(z, axis=1, keepdims=True)
        units.append(z / np.where(norm > 1e-9, norm, np.nan))
    return units[0] @ units[1].T


def brute_force(first, second, threshold, center, within=False):
    """Every pair by itself, as {(i, j): r}."""
    found = np.argwhere((r := correlations(first, second, center)) >= threshold)
    return {(i, j): r[i, j] for i, j in found.tolist() if not within or i < j}


def as_dict(pairs):
    return {(i, j): r for i, j, r in zip(*(column.tolist() for column in pairs), strict=True)}


@pytest.mark.parametrize("center", CENTERS)
def test_centering_is_as_defined_and_in_whole_numbers(center):
    images = noise(3, 2, 4, 6)
    z = centered(images, center)
    scale = 48 if center == "image" else 24
    np.testing.assert_allclose(z, [scale * reference(image, center) for image in images], atol=1e-9)
    np.testing.assert_array_equal(z, z.round())


def test_smooth_images_have_nothing_in_common_without_rows_and_columns():
    sky = np.broadcast_to(np.arange(32, dtype=np.uint8)[:, None] * 7, (2, 3, 32, 32)).copy()
    sky[0, :, 10:14, 10:14], sky[1, :, 20:24, 22:26] = 255, 0
    assert near_duplicates(sky, center="image").correlation > 0.9
    assert len(near_duplicates(sky, threshold=0.2).first) == 0


def test_neither_brightness_and_contrast_nor_a_tint_change_a_correlation():
    image = noise(1)[0] // 4
    versions = np.stack([image, image + 60, 2 * image, 3 * image + 11])
    tinted = (
        image + np.array([90, 0, 30], np.uint8)[:, None, None]
    )  # of the whole image's mean it is a change
    for images, center, pairs in ((versions, "image", 6), ([*versions, tinted], "lines", 10)):
        found = near_duplicates(np.array(images), center=center)
        assert len(found.first) == pairs
        np.testing.assert_allclose(found.correlation, 1, rtol=1e-14)
    assert near_duplicates(np.stack([image, tinted]), threshold=0.1, center="image").correlation < 0.99


def test_copies_have_exactly_one_and_are_told_from_near_ones():
    images = noise(20, 3, 32, 32)
    images[[7, 19]], images[11] = images[3], images[4]
    images[11, 0, 5, 5] ^= 1
    pairs = near_duplicates(images)
    assert as_dict(pairs).keys() == {(3, 7), (3, 19), (7, 19), (4, 11)}
    assert (pairs.correlation == 1).tolist() == [True, True, False, True]
    assert as_dict(pairs.reaching(1)).keys() == {(3, 7), (3, 19), (7, 19)}


@pytest.mark.parametrize("block", [7000, 2**22])
@pytest.mark.parametrize("center", CENTERS)
def test_pairs_of_real_images_are_those_of_brute_force_whatever_is_done_at_once(monkeypatch, block, center):
    monkeypatch.setattr(neighbors, "BLOCK", block)
    digits = load_images("digits").images
    images, others = digits[:40].copy(), digits[40:70]
    images[5] = images[2] // 2
    images[9] = images[3][..., ::-1]
    for threshold in (0.3, 0.9):
        for second in (None, others):
            for mirrored in (False, True):
                options = {"threshold": threshold, "center": center, "mirrored": mirrored}
                pairs = near_duplicates(images, second, **options)
                turned = (images if second is None else second)[..., :: -1 if mirrored else 1]
                expected = brute_force(images, turned, threshold, center, second is None)
                assert as_dict(pairs) == pytest.approx(expected, rel=1e-12)
                assert list(zip(*pairs[:2], strict=True)) == sorted(expected)


@settings(max_examples=50)
@given(st.data())
def test_pairs_of_any_images_are_complete_and_symmetric(data):
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    few = st.integers(0, 3).map(np.uint8)  # ties, copies and flat images are frequent
    images, others = (data.draw(arrays(np.uint8, (k, 1, 2, 4), elements=few)) for k in (n, m))
    threshold, center = data.draw(st.floats(0.01, 0.99)), data.draw(st.sampled_from(CENTERS))
    options = {"threshold": threshold, "center": center}
    there, back = near_duplicates(images, others, **options), near_duplicates(others, images, **options)
    assert as_dict(there) == {(i, j): r for (j, i), r in as_dict(back).items()}
    r = correlations(images, others, center)
    found = np.zeros(r.shape, bool)
    found[there.first, there.second] = True
    assert (found[r >= threshold + 1e-9]).all() and not found[~(r >= threshold - 1e-9)].any()
    assert (there.correlation <= 1 + 1e-15).all()


def test_correlations_that_differ_by_less_than_the_error_of_float32_are_told_apart():
    base = noise(1, 3, 32, 32)[0]
    images = np.repeat(base[None], 200, axis=0)
    images[np.arange(200), 0, 3, 4] = np.arange(200)  # of a single pixel: differences about 1e-7
    z = centered(images)  # whole numbers, whose squares sum without rounding
    exact = z @ z[0] / np.sqrt((z**2).sum(1) * (z[0] ** 2).sum())
    for threshold in np.quantile(exact[1:], [0.2, 0.5, 0.8]):
        pairs = near_duplicates(images[:1], images, threshold=float(threshold))
        assert pairs.second.tolist() == np.flatnonzero(exact >= threshold).tolist()
    dark = noise(200) // 2  # whose copies at twice the contrast may have less than 1 in float32
    assert len(near_duplicates(dark, 2 * dark, threshold=1 - 1e-9).first) == 200


def test_flat_images_are_in_no_pair():
    images = noise(5)
    images[1], images[3] = 9, 9  # constant, and copies of each other
    images[4] = (np.arange(8)[:, None] * 3 + np.arange(8) * 5)[None]  # a plane: only with its lines removed
    assert centered(images).any(axis=1).tolist() == [True, False, True, False, False]
    assert centered(images, "image").any(axis=1).tolist() == [True, False, True, False, True]
    with np.errstate(all="raise"):
        for pairs in (near_duplicates(images), near_duplicates(images, images[[1, 4]])):
            assert len(pairs.first) == 0
    assert np.isfinite(near_duplicates(images, threshold=0.001).correlation).all()


def test_groups_are_chains_and_the_largest_comes_first():
    ends = np.array([[5, 1], [1, 3], [8, 9], [0, 2]])
    pairs = Pairs(ends[:, 0], ends[:, 1], np.ones(4))
    assert [g.tolist() for g in groups(10, pairs)] == [[1, 3, 5], [0, 2], [8, 9]]
    joined = Pairs(np.array([2]), np.array([9]), np.ones(1))
    assert [g.tolist() for g in groups(10, pairs, joined)] == [[0, 2, 8, 9], [1, 3, 5]]
    assert groups(3) == []


@pytest.mark.slow
def test_a_car_is_in_cifar10_more_than_ten_times():
    root = Path(os.environ.get("MEMLIB_DATA", "."))
    if not (root / cifar10.FOLDER / "index.npz").exists():
        pytest.skip("CIFAR-10 is not in MEMLIB_DATA")
    train = load_images("cifar10-partial", root=root)
    cars = train.images[train.labels == train.classes.index("automobile")]
    largest, second = groups(len(cars), near_duplicates(cars, threshold=0.85))[:2]
    assert len(cars) > 4900 and len(largest) > 10 > len(second)
    # most look alike without the chain, too; cars that differ do not
    z, unlike = (centered(images) for images in (cars[largest], cars[::50]))
    z, unlike = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, unlike))
    assert np.median(z @ z.T) > 0.5 > 10 * np.median(unlike @ unlike.T)
