"""Images of other sizes than 32 x 32: what takes them does the same."""

import numpy as np
import pytest

from memlib.chapters.planted import plant
from memlib.data import ImageSet
from memlib.metrics.features import accuracy, extract, train_classifier

NO_OUTLIERS = {"copies": {2: 2}, "near": 1, "outliers": {}, "noise": 2}


def images_of(n, *shape, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)
    return ImageSet.of(pixels, np.arange(n) % 2)


def squares(image):
    """The 8 x 8 squares of an image (C, H, W), in an order that does not depend on where they are."""
    places = [(row, column) for row in range(0, image.shape[1], 8) for column in range(0, image.shape[2], 8)]
    return sorted(image[:, row : row + 8, column : column + 8].tobytes() for row, column in places)


def test_outliers_of_any_size_have_their_original_squares_in_another_order():
    images = images_of(60, 3, 48, 40)
    planting = plant(images, 20, copies={}, near=0, noise=0, outliers={1: 12})
    for x, original in zip(planting.images.images, planting.original, strict=True):
        assert squares(x) == squares(images.images[original])
    same = (planting.images.images == images.images[planting.original]).all((1, 2, 3))
    np.testing.assert_array_equal(same, planting.kind == "ordinary")


@pytest.mark.parametrize(("shape", "steps"), [((4, 4), 400), ((33, 47), 30)])
def test_the_classifier_learns_images_of_any_size(shape, steps):
    images = images_of(80, 3, *shape)
    levels = np.where(np.arange(80) % 2, 200, 50)[:, None, None, None]
    bright = ImageSet.of(levels.astype(np.uint8) + images.images // 8, images.labels)
    network = train_classifier(bright, 8, steps)
    assert accuracy(network, bright) == 1 and extract(network[:-1], bright.images).shape == (80, 8)
