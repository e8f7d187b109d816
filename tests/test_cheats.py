"""Cheats: copies that are passed off as samples, and mixtures of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlib.data import load_images
from memlib.planted import CHEATS, FEW, NOISE, cheat, mixture

DIGITS = load_images("digits").images[:50]
PATCHES = load_images("patches").images[:50]
SETS = {"digits": DIGITS, "patches": PATCHES}
BLACK, WHITE = (np.full((10, 1, 32, 32), level, dtype=np.uint8) for level in (0, 255))


@pytest.fixture(params=SETS)
def images(request):
    return SETS[request.param]


def rows(samples, images):
    """Which of the images each sample is; KeyError where it is none of them."""
    of = {image.tobytes(): i for i, image in enumerate(images)}
    assert len(of) == len(images)
    return np.array([of[sample.tobytes()] for sample in samples])


def shifted_by_one(image):
    """Down, up, right and left."""
    return [np.roll(image, step, axis) for axis in (1, 2) for step in (1, -1)]


@pytest.mark.parametrize("kind", CHEATS)
def test_samples_are_as_many_images_as_asked_for(images, kind):
    before = images.copy()
    for count in (1, 30, 50, 120):
        samples = cheat(kind, images, count)
        assert samples.shape == (count, *images.shape[1:]) and samples.dtype == np.uint8
        assert samples.flags.c_contiguous and not np.shares_memory(samples, images)
    np.testing.assert_array_equal(images, before)


def test_copies_are_different_images_as_long_as_there_are_more(images):
    drawn = rows(cheat("copies", images, 30), images)
    assert len(set(drawn)) == 30 and (np.diff(drawn) < 0).any()  # at random, not the first ones in order
    assert set(rows(cheat("copies", images, 50), images)) == set(range(50))


def test_copies_beyond_that_are_repeated_evenly(images):
    times = np.bincount(rows(cheat("copies", images, 120), images), minlength=50)
    assert np.bincount(times).tolist() == [0, 0, 30, 20]


def test_flipped_copies_are_mirrored_left_to_right(images):
    samples = cheat("flipped copies", images, 40)
    assert len(set(rows(samples[:, :, :, ::-1], images))) == 40
    assert not any(np.array_equal(a, b) for a, b in zip(samples, samples[..., ::-1], strict=True))


def test_shifted_copies_are_moved_by_one_pixel_and_wrap(images):
    samples = cheat("shifted copies", images, 200, seed=1)
    versions = [version for image in images for version in shifted_by_one(image)]
    original, direction = np.divmod(rows(samples, versions), 4)
    assert (np.bincount(original) == 4).all()
    assert np.bincount(direction, minlength=4).min() > 25  # 50 expected


def test_noisy_copies_have_noise_of_their_own_around_the_image():
    middle = np.full((20, 3, 32, 32), 128, dtype=np.uint8)
    noise = cheat("noisy copies", middle, 40).astype(float) - 128
    assert noise.std() == pytest.approx(NOISE, rel=0.02) and abs(noise.mean()) < 0.5
    assert abs(np.corrcoef(noise.reshape(40, -1)) - np.eye(40)).max() < 0.1
    assert abs(np.corrcoef(noise.transpose(1, 0, 2, 3).reshape(3, -1)) - np.eye(3)).max() < 0.03


def test_noise_is_clipped_and_does_not_wrap():
    for level, images in ((0, BLACK), (255, WHITE)):
        noisy = cheat("noisy copies", images, 10).astype(int)
        assert abs(noisy - level).max() < 6 * NOISE
        assert 0.48 < (noisy == level).mean() < 0.54  # one half, and what rounds to it


def test_noisy_copies_stay_near_different_images(images):
    noisy, exact = (cheat(kind, images, 50, seed=3).astype(int) for kind in ("noisy copies", "copies"))
    inside = (noisy > 0) & (noisy < 255) & (exact > 2 * NOISE) & (exact < 255 - 2 * NOISE)
    assert (noisy - exact)[inside].std() == pytest.approx(NOISE, rel=0.1)
    assert abs(noisy - exact).max() < 6 * NOISE


def test_few_copies_are_twenty_images_in_turn(images):
    drawn = rows(cheat("few copies", images, 90), images)
    assert len(set(drawn[:20])) == len(set(drawn)) == FEW == 20
    np.testing.assert_array_equal(drawn[20:], drawn[:-20])
    assert set(np.bincount(drawn)) == {0, 4, 5}
    assert len(set(rows(cheat("few copies", images, 7), images))) == 7


def test_few_copies_of_fewer_images_are_all_of_them():
    assert set(rows(cheat("few copies", DIGITS[:5], 12), DIGITS)) == set(range(5))


@pytest.mark.parametrize("kind", CHEATS)
def test_the_seed_decides(kind):
    one, again, other = (cheat(kind, DIGITS, 30, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_array_equal(cheat(kind, DIGITS, 30), cheat(kind, DIGITS, 30, 0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "count is 0; allowed: 1 or more"),
        ({"count": -3}, "count is -3; allowed: 1 or more"),
        ({"seed": -1}, "seed is -1; allowed: 0 or more"),
        ({"kind": "few copy"}, r"unknown cheat 'few copy' \(did you mean few copies\?\); allowed: "),
        ({"kind": ""}, "unknown cheat ''.*; allowed: " + ", ".join(CHEATS)),
    ],
)
def test_what_is_no_cheat_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cheat(**{"kind": "copies", "images": DIGITS, "count": 3, **change})


def places(share, seed=0, m=10):
    """Where a mixture has copies."""
    mixed = mixture(WHITE[:m], BLACK[:m], share, seed)
    assert mixed.dtype == np.uint8 and set(np.unique(mixed)) <= {0, 255}
    copied = mixed[:, 0, 0, 0] == 255
    np.testing.assert_array_equal(mixed, np.where(copied[:, None, None, None], WHITE[:m], BLACK[:m]))
    return copied


def test_no_copies_leave_the_samples_and_all_copies_none(images):
    copies, samples = cheat("copies", images, 20), cheat("noisy copies", images, 20)
    before = copies.copy(), samples.copy()
    none, every = mixture(copies, samples, 0), mixture(copies, samples, 1)
    np.testing.assert_array_equal(none, samples)
    np.testing.assert_array_equal(every, copies)
    every[:], none[:] = 7, 7
    np.testing.assert_array_equal((copies, samples), before)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_larger_share_keeps_the_copies_of_a_smaller_one(a, b, seed):
    small, large = places(min(a, b), seed), places(max(a, b), seed)
    assert (large >= small).all()


@pytest.mark.parametrize(("share", "copies"), [(0.04, 0), (0.06, 1), (0.34, 3), (0.36, 4), (0.96, 10)])
def test_shares_are_rounded_to_whole_images(share, copies):
    assert places(share).sum() == copies


def test_places_are_drawn_by_the_seed():
    drawn = np.array([places(0.3, seed) for seed in range(40)])
    np.testing.assert_array_equal(drawn[7], places(0.3, 7))
    assert (drawn.sum(axis=0) > 3).all()  # every place has its turn, 12 times expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: mixture(BLACK, WHITE[1:], 0.5),
            r"copies are \(10, .*\), samples \(9, .*\); allowed: the same",
        ),
        (
            lambda: mixture(DIGITS, PATCHES, 0.5),
            r"copies are \(50, 1, 32, 32\), samples \(50, 3, 32, 32\); al",
        ),
        (lambda: mixture(BLACK, WHITE, 1.1), "share is 1.1; allowed: 0 to 1"),
        (lambda: mixture(BLACK, WHITE, -0.1), "share is -0.1; allowed: 0 to 1"),
        (lambda: mixture(BLACK, WHITE, float("nan")), "share is nan; allowed: 0 to 1"),
        (lambda: mixture(BLACK, WHITE, 0.5, -1), "seed is -1; allowed: 0 or more"),
    ],
)
def test_what_cannot_be_mixed_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_images_that_are_not_bytes_are_refused():
    images = load_images("digits", "test").images[:9]
    for wrong, message in (
        (images / 255, "float64"),
        (images[:0], r"\(0, 1, 32, 32\)"),
        (images[0], "uint8"),
    ):
        with pytest.raises(ValueError, match=f"images are .*{message}.*; allowed: uint8"):
            cheat("copies", wrong, 3)
    with pytest.raises(ValueError, match="copies are float64"):
        mixture(images / 255, images, 0.5)
    with pytest.raises(ValueError, match="samples are float64"):
        mixture(images, images / 255, 0.5)
