"""Chapter 13: what the estimators make of noise alone."""

import math

import numpy as np
import xarray as xr

from memlib.checks import check_range
from memlib.memorization import Estimator, exchanged, memorization


def null_mean(
    result: xr.Dataset, estimator: Estimator, exchanges: int = 20, seed: int = 0
) -> tuple[float, float]:
    """Mean of M at the last epoch where nothing can be memorized: what the estimator makes of noise alone.

    Averages over the observations and over random exchanges, see `memlib.exchanged`. These have one fold less
    than the run, so for the paper's estimator the mean is a lower bound: with two seen models it would be 0.
    For the matched one it is 0 by symmetry, but for chance.

    Args:
        result: as for `memlib.memorization`, with at least three folds.
        estimator: "paper" or "matched".
        exchanges: how many, 1 or more.
        seed: of the first one; the others follow.

    Returns:
        The mean and its jackknife standard error over repeats, NaN if there is one only: observations share
        their models, and say nothing of each other's errors.

    Raises:
        ValueError: exchanges < 1, observations that are impossible under all models, or what `exchanged` and
            `memorization` refuse.
    """
    check_range(1, exchanges=exchanges)
    last = result[["log_px", "fold_of"]].isel(epoch=[-1])
    if lost := int(np.isneginf(last.log_px).all(("repeat", "fold")).sum()):
        raise ValueError(f"log_px is -inf under all models for {lost} observations; allowed: none")
    nulls = [exchanged(last, seed + k) for k in range(exchanges)]

    def mean(repeats: list[int]) -> float:
        return float(np.mean([memorization(null.isel(repeat=repeats), estimator).M for null in nulls]))

    every = list(range(last.sizes["repeat"]))
    if len(every) < 2:
        return mean(every), math.nan
    without = [mean([k for k in every if k != out]) for out in every]
    return mean(every), float(np.sqrt((len(every) - 1) * np.var(without)))
