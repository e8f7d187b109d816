"""Sets of images; what is refused is in bad_inputs.py."""

import hashlib

import numpy as np
import pytest

from memlib.data import ImageSet
from memlib.datasets import load_images


def test_image_set_is_read_only_and_leaves_the_callers_array_writable():
    pixels = np.zeros((4, 3, 32, 32), np.uint8)
    images = ImageSet.of(pixels)
    for array in (images.images, images.labels, images.index):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(AttributeError):
        images.name = "other"
    assert pixels.flags.writeable


def test_arrays_of_ones_own_become_a_set():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 3, 48, 40), np.uint8)
    images = ImageSet.of(pixels, ["dog", "cat", "dog", "ant", "cat"], "pets")
    assert images.classes == ("ant", "cat", "dog") and images.labels.tolist() == [2, 1, 2, 0, 1]
    assert (images.name, images.index.tolist(), images.channels) == ("pets", [0, 1, 2, 3, 4], 3)
    np.testing.assert_array_equal(images.images, pixels)
    assert ImageSet.of(pixels, np.array([7, 3, 3, 7, 9])).classes == ("3", "7", "9")
    plain = ImageSet.of(pixels)
    assert plain.classes == ("own",) and not plain.labels.any()


def test_subset_keeps_pixels_labels_and_index():
    images = load_images("digits", "test")
    chosen = images.subset([4, 1, 1])
    np.testing.assert_array_equal(chosen.images, images.images[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.labels, images.labels[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.index, images.index[[4, 1, 1]])
    np.testing.assert_array_equal(chosen.subset(np.array([0])).index, images.index[[4]])
    assert (chosen.name, chosen.split, chosen.classes) == (images.name, images.split, images.classes)


def test_sha256_depends_on_shape_and_pixels_only():
    pixels = np.random.default_rng(1).integers(0, 256, (6, 1, 32, 32), np.uint8)
    digest = hashlib.sha256(b"(6, 1, 32, 32)" + pixels.tobytes()).hexdigest()
    assert ImageSet.of(pixels).sha256 == ImageSet.of(pixels, range(6), "other").sha256 == digest
    assert ImageSet.of(pixels.reshape(2, 3, 32, 32)).sha256 != digest


def test_the_fingerprint_is_that_of_the_pixels_of_now():
    """Images whose owner changed them are others, and no stored result of the former is taken."""
    pixels = np.zeros((2, 1, 1, 1), np.uint8)
    images = ImageSet.of(pixels)
    before = images.sha256
    pixels[1] = 7
    assert images.sha256 == hashlib.sha256(b"(2, 1, 1, 1)" + bytes([0, 7])).hexdigest() != before
