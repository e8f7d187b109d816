"""What the benchmarks compute: images, the paper's MNIST experiment with five folds, its models."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

import memlib
from memlib.data import ImageSet
from memlib.datasets import availability, load_images
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.models import VAE
from memlib.training import adam, fit

FOLDS = 5  # K, models of a repeat
GROUPS = (1, 10)  # repeats stacked on a GPU


def observed(count: int) -> ImageSet:
    """The first `count` MNIST images, where MEMLIB_DATA has them, otherwise embedded digits."""
    there = availability()["mnist"].startswith("found")
    images = load_images("mnist" if there else "digits")
    return images.subset(np.arange(min(count, len(images))))


def described(images: ImageSet) -> str:
    """The images in words."""
    name = {"mnist": "MNIST images", "digits": "embedded digits (MEMLIB_DATA has no MNIST)"}[images.name]
    return f"{len(images)} {name}"


def setting(images: ImageSet, epochs: int, precision: str = "float32") -> Experiment:
    """The paper's MNIST experiment on these images."""
    return memlib.variant("mnist-lr3", images=images.name, folds=FOLDS, epochs=epochs, precision=precision)


def models(experiment: Experiment, repeat: int, count: int = FOLDS) -> list[VAE]:
    """The models of a repeat before training."""
    generator = experiment.torch_stream(Stream.PARAMETERS, repeat)
    return [experiment.build(1, generator) for _ in range(count)]


def training_sets(experiment: Experiment, n: int, repeat: int) -> list[NDArray[np.int64]]:
    """The images of every model of a repeat, all of one size."""
    fold_of = fold_assignment(n, FOLDS, experiment.stream(Stream.FOLDS, repeat))
    size = n - math.ceil(n / FOLDS)
    return [np.flatnonzero(fold_of != k)[:size] for k in range(FOLDS)]


def training(
    experiment: Experiment,
    images: ImageSet,
    device: torch.device,
    sets: Sequence[NDArray[np.int64]],
    repeats: Sequence[int] = (0,),
) -> tuple[Ensemble, Iterator[tuple[int, NDArray[np.float64]]]]:
    """Repeats stacked into one ensemble, a model per training set, and the generator of its epochs."""
    e, count = experiment, len(sets) // len(repeats)
    model = Ensemble.stack([vae for r in repeats for vae in models(e, r, count)], device, e.precision)
    epochs = fit(
        model,
        adam(model, e.learning_rate),
        torch.tensor(images.images, device=device),
        sets,
        epochs=range(1, e.epochs + 1),
        batch_size=e.batch_size,
        flip=e.flip,
        order=[e.stream(Stream.ORDER, r) for r in repeats],
        noise=[e.torch_stream(Stream.TRAINING_NOISE, r, device) for r in repeats],
    )
    return model, epochs
