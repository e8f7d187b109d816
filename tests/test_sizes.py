"""Images of other sizes than 32 x 32: what else takes them does the same, and what cannot refuses them."""

import numpy as np
import pytest
import torch
from vaes import models

from memlib.data import ImageSet, load_images
from memlib.ensemble import Ensemble, latent_means, reconstruct
from memlib.experiment import variant
from memlib.features import accuracy, extract, spaces, train_classifier
from memlib.planted import plant, write
from memlib.tasks import Task

DIGITS = load_images("digits")
NO_OUTLIERS = {"copies": {2: 2}, "near": 1, "outliers": {}, "noise": 2}


def images_of(n, *shape, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)
    return ImageSet.of(pixels, np.arange(n) % 2)


def squares(image):
    """The 8 x 8 squares of an image (C, H, W), in an order that does not depend on where they are."""
    places = [(row, column) for row in range(0, image.shape[1], 8) for column in range(0, image.shape[2], 8)]
    return sorted(image[:, row : row + 8, column : column + 8].tobytes() for row, column in places)


@pytest.mark.parametrize("shape", [(3, 48, 40), (1, 64, 64)])
def test_outliers_of_any_size_have_their_original_squares_in_another_order(shape):
    images = images_of(60, *shape)
    planting = plant(images, 20, copies={}, near=0, noise=0, outliers={1: 12})
    for x, original in zip(planting.images.images, planting.original, strict=True):
        assert squares(x) == squares(images.images[original])
    same = (planting.images.images == images.images[planting.original]).all((1, 2, 3))
    np.testing.assert_array_equal(same, planting.kind == "ordinary")


@pytest.mark.parametrize(("height", "width"), [(48, 44), (24, 64), (64, 24), (8, 8)])
def test_sizes_that_cannot_be_shuffled_are_refused_and_do_without_outliers(height, width):
    images = images_of(30, 1, height, width)
    message = (
        f"images are {height} x {width} pixels; allowed: no outliers, or sides that are multiples of 8, 32"
    )
    with pytest.raises(ValueError, match=message):
        plant(images, 10, copies={}, near=0, noise=0, outliers={1: 1})
    planting = plant(images, 10, **NO_OUTLIERS)
    assert planting.images.images.shape == (10 + 4 + 5 + 2, 1, height, width)


@pytest.mark.parametrize(("channels", "side"), [(1, 1), (3, 1), (1, 48), (3, 64)])
def test_planted_images_are_read_back_as_they_are_with_their_size(channels, side, tmp_path):
    planting = plant(images_of(30, channels, side, side), 10, **NO_OUTLIERS)
    held = images_of(6, channels, side, side, seed=1)
    name = write(planting, held, tmp_path / "set")
    np.testing.assert_array_equal(load_images(name, size=side).images, planting.images.images)
    np.testing.assert_array_equal(load_images(name, "test", size=side).images[3:], held.images[1::2])
    assert load_images(name).images.shape[2:] == (32, 32)


@pytest.mark.parametrize(
    ("train", "held", "message"),
    [
        ((48, 40), (48, 40), "images are 48 x 40 pixels; allowed: squares of one size"),
        ((48, 48), (32, 32), "images are 32 x 32 and 48 x 48 pixels; allowed: squares"),
    ],
)
def test_images_that_would_not_be_read_back_are_not_written(train, held, message, tmp_path):
    planting = plant(images_of(30, 1, *train), 10, **NO_OUTLIERS)
    with pytest.raises(ValueError, match=message):
        write(planting, images_of(6, 1, *held), tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(("shape", "steps"), [((4, 4), 400), ((48, 40), 30), ((33, 47), 30)])
def test_the_classifier_learns_images_of_any_size(shape, steps):
    images = images_of(80, 3, *shape)
    levels = np.where(np.arange(80) % 2, 200, 50)[:, None, None, None]
    bright = ImageSet.of(levels.astype(np.uint8) + images.images // 8, images.labels)
    network = train_classifier(bright, 8, steps)
    assert accuracy(network, bright) == 1 and extract(network[:-1], bright.images).shape == (80, 8)


def test_images_too_small_for_the_classifier_and_of_two_sizes_are_refused():
    for height, width in ((3, 32), (32, 3)):
        with pytest.raises(ValueError, match=f"images are {height} x {width} pixels; allowed: 4 x 4 or more"):
            train_classifier(images_of(8, 1, height, width))
    small, large = images_of(40, 1, 32, 32), images_of(80, 1, 64, 64)
    with pytest.raises(ValueError, match=r"are \(1, 32, 32\), the others \(1, 64, 64\); allowed: the same"):
        spaces(small, large, 8, 1)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_models_of_the_paper_refuse_other_sizes_before_anything_is_trained(architecture):
    [vae] = models(architecture, "bernoulli", 1, count=1, dtype=torch.float32)
    model, noise = Ensemble.stack([vae]), torch.Generator().manual_seed(0)
    message = "images have 2304 values; allowed: 1024, as the models are of 1 x 32 x 32"
    other = images_of(8, 1, 48, 48)
    for function in (reconstruct, latent_means):
        with pytest.raises(ValueError, match=message):
            function(model, other.images, noise)
    spec = variant("digits-lr3", architecture=architecture, width=2, folds=2, repeats=1, epochs=1)
    task = Task(spec, other, torch.device("cpu"), lambda flop: pytest.fail("trained"))
    with pytest.raises(ValueError, match=message):
        task.train_repeats([0])
