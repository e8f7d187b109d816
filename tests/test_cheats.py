"""Cheats: copies that are passed off as samples, and mixtures of both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memlib.chapters.planted import CHEATS, FEW, NOISE, cheat, mixture
from memlib.datasets import load_images

IMAGES = load_images("patches").images[:50]
BLACK, WHITE = (np.full((10, 1, 32, 32), level, dtype=np.uint8) for level in (0, 255))


def rows(samples, images=IMAGES):
    """Which of the images each sample is; KeyError where it is none of them."""
    of = {image.tobytes(): i for i, image in enumerate(images)}
    assert len(of) == len(images)
    return np.array([of[sample.tobytes()] for sample in samples])


@pytest.mark.parametrize("kind", CHEATS)
def test_samples_are_as_many_images_as_asked_for_drawn_by_the_seed(kind):
    before = IMAGES.copy()
    one, again, other = (cheat(kind, IMAGES, 60, seed) for seed in (4, 4, 5))
    assert one.shape == (60, *IMAGES.shape[1:]) and one.dtype == np.uint8 and one.flags.c_contiguous
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    one[:] = 7
    np.testing.assert_array_equal(IMAGES, before)


def test_copies_are_different_images_as_long_as_there_are_more():
    drawn = rows(cheat("copies", IMAGES, 120))
    assert (np.diff(drawn[:50]) < 0).any(), "at random, not the first ones in order"
    assert set(drawn[:50]) == set(drawn[50:100]) == set(range(50))
    assert len(set(drawn[100:])) == 20


def test_flipped_copies_are_mirrored_left_to_right():
    samples = cheat("flipped copies", IMAGES, 40)
    assert len(set(rows(samples[:, :, :, ::-1]))) == 40


def test_shifted_copies_are_moved_by_one_pixel_and_wrap():
    samples = cheat("shifted copies", IMAGES, 200, seed=1)
    versions = [np.roll(image, step, axis) for image in IMAGES for axis in (1, 2) for step in (1, -1)]
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


def test_few_copies_are_twenty_images_in_turn():
    drawn = rows(cheat("few copies", IMAGES, 90))
    assert len(set(drawn[:20])) == FEW == 20
    np.testing.assert_array_equal(drawn[20:], drawn[:-20])
    assert set(rows(cheat("few copies", IMAGES[:5], 12))) == set(range(5)), "all of fewer ones"


def places(share, seed=0):
    """Where a mixture has copies."""
    mixed = mixture(WHITE, BLACK, share, seed)
    copied = mixed[:, 0, 0, 0] == 255
    np.testing.assert_array_equal(mixed, np.where(copied[:, None, None, None], WHITE, BLACK))
    return copied


def test_a_mixture_is_another_array():
    mixture(WHITE, BLACK, 0)[:] = 7
    mixture(WHITE, BLACK, 1)[:] = 7
    assert (WHITE == 255).all() and (BLACK == 0).all()


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 5))
def test_a_larger_share_keeps_the_copies_of_a_smaller_one(a, b, seed):
    small, large = places(min(a, b), seed), places(max(a, b), seed)
    assert (large >= small).all()


@pytest.mark.parametrize(("share", "copies"), [(0, 0), (0.34, 3), (0.36, 4), (1, 10)])
def test_shares_are_rounded_to_whole_images(share, copies):
    assert places(share).sum() == copies


def test_places_are_drawn_by_the_seed():
    drawn = np.array([places(0.3, seed) for seed in range(40)])
    np.testing.assert_array_equal(drawn[7], places(0.3, 7))
    assert (drawn.sum(axis=0) > 3).all()  # every place has its turn, 12 times expected
