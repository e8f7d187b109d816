"""How memlib's time grows with models, images, samples and epochs.

    MEMLIB_DATA=/path/to/data python benchmarks/scaling.py [--device cuda] [--precision bfloat16]

Sizes take turns. `--help` lists the options.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable

import numpy as np
import torch
from measure import Asked, benchmark, interleaved, machine, save, table
from workload import FOLDS, described, models, observed, setting, training

from memlib.data import ImageSet
from memlib.device import one_thread
from memlib.ensemble import Ensemble
from memlib.experiment import Stream
from memlib.scoring import score_images


@dataclasses.dataclass(frozen=True)
class Size:
    """What a call does."""

    models: int
    images: int
    samples: int
    epochs: int


BASE = Size(models=FOLDS, images=0, samples=64, epochs=1)
MODELS, SAMPLES, EPOCHS = (1, 2, 5, 10, 20), (16, 32, 64, 128, 256), (1, 2, 4, 8)
ENDLESS, WARM_UP = 10**9, 4  # epochs; calls after which a GPU's steps are recorded
PARTS = {"models": 2, "images": 2, "samples": ("scoring",), "epochs": ("training",)}
