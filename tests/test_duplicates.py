"""The search for near-duplicates: closed forms, every pair by brute force, and real images."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memlib.data import load_images
from memlib.duplicates import Pairs, centered, equal, flat, groups, near_duplicates
from memlib.image_folder import read_images

CENTERS = ["lines", "image"]


def noise(n, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *(shape or (3, 8, 8))), dtype=np.uint8)


def reference(image, center):
    """Centering as it is defined, for one image (C, H, W)."""
    x = image.astype(float)
    if center == "image":
        return (x - x.mean()).ravel()
    rows, columns, channels = (
        x.mean(2, keepdims=True),
        x.mean(1, keepdims=True),
        x.mean((1, 2), keepdims=True),
    )
    return (x - rows - columns + channels).ravel()


def brute_force(first, second, threshold, center="lines", within=False):
    """Every pair by itself, as {(i, j): r}."""
    found = {}
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            u, v = reference(a, center), reference(b, center)
            if (not within or i < j) and u.any() and v.any():
                r = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
                if r >= threshold:
                    found[i, j] = r
    return found


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


def test_a_pair_by_hand():
    """z is (1, -1, -1, 1) / 4 in both channels of the first, and in one of the second."""
    images = np.array([[[[1, 0], [0, 0]], [[1, 0], [0, 0]]], [[[2, 1], [1, 1]], [[3, 3], [3, 3]]]], np.uint8)
    pairs = near_duplicates(images, threshold=0.7)
    np.testing.assert_allclose(pairs.correlation, [1 / np.sqrt(2)], rtol=1e-15)


@pytest.mark.parametrize("center", CENTERS)
def test_brightness_and_contrast_change_nothing(center):
    image = noise(1)[0] // 4
    versions = np.stack([image, image + 60, 2 * image, 3 * image + 11])
    pairs = near_duplicates(versions, center=center)
    assert len(pairs.first) == 6
    np.testing.assert_allclose(pairs.correlation, 1, rtol=1e-15)


def test_a_tint_changes_nothing_without_rows_and_columns():
    image = noise(1)[0] // 2
    tinted = image + np.array([90, 0, 30], np.uint8)[:, None, None]
    assert near_duplicates(np.stack([image, tinted])).correlation.tolist() == [1.0]
    assert near_duplicates(np.stack([image, tinted]), threshold=0.1, center="image").correlation < 0.99


def test_copies_have_exactly_one_and_are_told_from_near_ones():
    images = noise(20, 3, 32, 32)
    images[[7, 19]], images[11] = images[3], images[4]
    images[11, 0, 5, 5] ^= 1
    pairs = near_duplicates(images)
    assert as_dict(pairs).keys() == {(3, 7), (3, 19), (7, 19), (4, 11)}
    assert (pairs.correlation == 1).tolist() == [True, True, False, True]
    assert equal(images, pairs).tolist() == [True, True, False, True]
    assert len(equal(images, pairs.reaching(2))) == 0
    assert as_dict(pairs.reaching(1)).keys() == {(3, 7), (3, 19), (7, 19)}


@pytest.mark.parametrize("chunk", [1, 3, 7, 12, 1000])
@pytest.mark.parametrize("center", CENTERS)
def test_all_pairs_are_those_of_brute_force_whatever_the_chunk_size(chunk, center):
    images, others = noise(12, 1, 4, 4), noise(7, 1, 4, 4, seed=1)
    images[5] = images[2] // 2
    for threshold in (0.05, 0.3, 0.9):
        options = {"threshold": threshold, "center": center, "chunk": chunk}
        for mirrored in (False, True):
            order = slice(None, None, -1 if mirrored else 1)
            for second in (None, others):
                pairs = near_duplicates(images, second, mirrored=mirrored, **options)
                turned = (images if second is None else second)[..., order]
                expected = brute_force(images, turned, threshold, center, second is None)
                assert as_dict(pairs) == pytest.approx(expected, rel=1e-12)
                assert list(zip(*pairs[:2], strict=True)) == sorted(expected)
                whole = near_duplicates(images, second, mirrored=mirrored, **options | {"chunk": 50})
                np.testing.assert_array_equal(pairs, whole)


@settings(max_examples=60)
@given(st.data())
def test_pairs_are_symmetric_and_complete(data):
    n, m = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    few = st.integers(0, 3).map(np.uint8)  # ties, copies and flat images are frequent
    images, others = (data.draw(arrays(np.uint8, (k, 1, 2, 4), elements=few)) for k in (n, m))
    threshold, center = data.draw(st.floats(0.01, 0.99)), data.draw(st.sampled_from(CENTERS))
    options = {"threshold": threshold, "center": center, "chunk": data.draw(st.integers(1, 6))}
    there, back = near_duplicates(images, others, **options), near_duplicates(others, images, **options)
    assert as_dict(there) == {(i, j): r for (j, i), r in as_dict(back).items()}
    expected = brute_force(images, others, threshold, center)
    near = {
        k for k, r in brute_force(images, others, threshold - 1e-9, center).items() if r < threshold + 1e-9
    }
    assert set(as_dict(there)) ^ set(expected) <= near
    assert (there.correlation <= 1 + 1e-15).all()


def test_float32_alone_would_be_wrong_at_the_threshold():
    """Many correlations within float32's error of a threshold: each is on its right side."""
    base = noise(1, 3, 32, 32)[0]
    images = np.repeat(base[None], 200, axis=0)
    images[np.arange(200), 0, 3, 4] = np.arange(200)  # of a single pixel: differences about 1e-7
    z = centered(images)
    exact = z @ z[0] / np.sqrt((z**2).sum(1) * (z[0] ** 2).sum())
    unit = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    rough, sides = unit @ unit[0], []
    for threshold in np.quantile(exact[1:], [0.2, 0.5, 0.8]):
        pairs = near_duplicates(images[:1], images, threshold=float(threshold), chunk=64)
        assert pairs.second.tolist() == np.flatnonzero(exact >= threshold).tolist()
        sides.append(((rough >= np.float32(threshold)) != (exact >= threshold)).sum())
    assert sum(sides) > 0, "the case is no test of rounding"


def test_flat_images_are_in_no_pair():
    images = noise(5)
    images[1], images[3] = 9, 9  # constant, and copies of each other
    images[4] = (np.arange(8)[:, None] * 3 + np.arange(8) * 5)[None]  # a plane: only with its lines removed
    assert flat(images).tolist() == [False, True, False, True, True]
    assert flat(images, "image", chunk=2).tolist() == [False, True, False, True, False]
    with np.errstate(all="raise"):
        for pairs in (near_duplicates(images), near_duplicates(images, images[[1, 4]])):
            assert len(pairs.first) == 0
    assert np.isfinite(near_duplicates(images, threshold=0.001).correlation).all()


def test_mirror_images_are_found_only_when_asked_for():
    images = noise(4)
    images[3] = images[1][..., ::-1]
    assert len(near_duplicates(images).first) == 0
    assert as_dict(near_duplicates(images, mirrored=True)) == {(1, 3): 1.0}
    assert as_dict(near_duplicates(images[:2], images[2:], mirrored=True)) == {(1, 1): 1.0}


def test_groups_are_chains_and_the_largest_comes_first():
    ends = np.array([[5, 1], [1, 3], [8, 9], [0, 2]])
    pairs = Pairs(ends[:, 0], ends[:, 1], np.ones(4))
    assert [g.tolist() for g in groups(10, pairs)] == [[1, 3, 5], [0, 2], [8, 9]]
    joined = Pairs(np.array([2]), np.array([9]), np.ones(1))
    assert [g.tolist() for g in groups(10, pairs, joined)] == [[0, 2, 8, 9], [1, 3, 5]]
    none = Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    assert groups(3, none) == groups(3) == []


def test_groups_link_images_that_are_no_pair():
    """Each a step from the one before: the ends of the chain have less in common than the threshold asks."""
    first, last = noise(2).astype(float)
    shares = np.linspace(0, 1, 6)[:, None, None, None]
    chain = ((1 - shares) * first + shares * last).round().astype(np.uint8)
    pairs = near_duplicates(chain, threshold=0.9)
    assert (0, 5) not in as_dict(pairs) and [g.tolist() for g in groups(6, pairs)] == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (noise(2) / 255, {}, "images must be uint8 .*float64"),
        (noise(2)[0], {}, "images must be uint8"),
        (noise(2)[:0], {}, "n at least 1"),
        (noise(2, 1, 3, 4), {}, "H and W even"),
        (noise(2), {"others": noise(2, 1, 8, 8)}, "others must have the shape of images"),
        (noise(2), {"others": noise(2).astype(int)}, "others must be uint8"),
        (noise(2), {"threshold": 0.0}, "threshold must be between 0 and 1, got 0"),
        (noise(2), {"threshold": 1.0}, "threshold must be between 0 and 1, got 1"),
        (noise(2), {"threshold": np.nan}, "threshold must be between 0 and 1, got nan"),
        (noise(2), {"chunk": 0}, "chunk must be at least 1, got 0"),
        (noise(2), {"center": "line"}, "unknown center 'line' .did you mean lines"),
    ],
)
def test_what_cannot_be_searched_is_refused(images, options, message):
    with pytest.raises(ValueError, match=message):
        near_duplicates(images, **options)


@pytest.mark.parametrize(
    ("n", "last", "message"), [(0, 0, "n must be at least 1"), (3, 3, r"0\.\.2, got 0\.\.3")]
)
def test_groups_refuse_images_that_are_not_there(n, last, message):
    with pytest.raises(ValueError, match=message):
        groups(n, Pairs(np.array([0]), np.array([last]), np.ones(1)))


def test_versions_planted_among_digits_are_all_found():
    """Brighter, paler, noisy and mirrored versions of real digits, and nothing else at this threshold."""
    x = load_images("digits").images
    rng, chosen = np.random.default_rng(0), np.arange(0, 1500, 50)
    paler = (x[chosen] // 2 + 40).astype(np.uint8)
    noisy = np.clip(x[chosen] + rng.normal(0, 2, paler.shape), 0, 255).astype(np.uint8)
    mixed = np.concatenate([x, paler, noisy, x[chosen][..., ::-1]])
    found = as_dict(near_duplicates(mixed, threshold=0.99))
    turned = as_dict(near_duplicates(mixed, threshold=0.99, mirrored=True))
    k = np.arange(len(chosen))
    for start, pairs in ((1500, found), (1530, found), (1560, turned)):
        assert set(zip(chosen.tolist(), (start + k).tolist(), strict=True)) <= pairs.keys()
    among_digits = as_dict(near_duplicates(x, threshold=0.99))
    assert len(found) == 3 * len(chosen) + len(among_digits)


def test_a_car_is_in_cifar10_more_than_ten_times():
    archive = Path(os.environ.get("MEMLIB_DATA", ".")) / "cifar10-jpeg-train.zip"
    if not archive.exists():
        pytest.skip("CIFAR-10 is not in MEMLIB_DATA")
    with zipfile.ZipFile(archive) as source:
        paths = sorted(
            p for p in source.namelist() if p.endswith(".jpg") and Path(p).parent.name == "automobile"
        )
        cars = read_images(paths, (3, 32, 32), lambda image: image.convert("RGB"), source.open)
    assert len(cars) == 5000
    pairs = near_duplicates(cars, threshold=0.85)
    largest, second = groups(len(cars), pairs)[:2]
    assert len(largest) > 10 > len(second)
    # most look alike without the chain, too; cars that differ do not
    z = centered(cars[largest])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    unlike = centered(cars[::50])
    unlike /= np.linalg.norm(unlike, axis=1, keepdims=True)
    assert np.median(z @ z.T) > 0.5 > 10 * np.median(unlike @ unlike.T)
