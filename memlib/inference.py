"""What can be said of scores: their errors, and what is memorized beyond chance.

`interval` and `rank_correlation` give confidence intervals, `null_mean` what the estimator makes of noise,
`p_values` and `memorized` a list with a known rate of false discoveries.
"""

import math

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from memlib.checks import Floats, Ints, check_one_of, check_range, check_share
from memlib.memorization import Estimator, checked_arrays, exchanged, memorization

DRAWS = 9999  # random choices behind p-values


def interval(scores: xr.Dataset, level: float = 0.9, name: str = "M") -> tuple[xr.DataArray, xr.DataArray]:
    """Confidence interval of a score: the estimate plus and minus its standard error times Student's t.

    The t distribution has L - 1 degrees of freedom, as the jackknife standard error comes from L repeats. The
    interval is of what the same estimator would give on average over many runs with as many repeats. Where
    models differ by several nats it holds the truth less often than `level` says, above all that of V.

    Args:
        scores: what `memlib.memorization` returns.
        level: the share of intervals that are to hold the truth, between 0 and 1.
        name: "U", "V" or "M".

    Returns:
        Lower and upper ends, (epoch, observation), nats; NaN where there is one repeat only.

    Raises:
        ValueError: a level or name that is not allowed.
    """
    check_share(level=level)
    check_one_of("UVM", name=name)
    repeats = scores.gap.sizes["repeat"]
    reach = stats.t.ppf((1 + level) / 2, repeats - 1) * scores[f"{name}_se"]
    return scores[name] - reach, scores[name] + reach


def rank_correlation(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    r"""Spearman's rank correlation with its confidence interval.

    The interval is that of Fisher's transformation, with the variance $(1 + r^2 / 2) / (n - 3)$. It is about
    the images as a sample from many, not about the models.

    Args:
        a, b: (n,), n at least 4; NaN is refused, infinities rank last.
        level: share of such intervals that are to hold the truth, between 0 and 1.

    Returns:
        The correlation and the ends of its interval; NaN where `a` or `b` is constant.

    Raises:
        ValueError: shapes, NaN or a level that are not as above.

    Source: Bonett & Wright (2000), Psychometrika 65, 23-28.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 4 or np.isnan(a).any() or np.isnan(b).any():
        given = f"{a.shape} and {b.shape}"
        raise ValueError(f"a and b must be numbers (n,), n at least 4, without NaN, got {given}")
    check_share(level=level)
    if (a == a[0]).all() or (b == b[0]).all():
        return math.nan, math.nan, math.nan
    rank = round(float(stats.spearmanr(a, b).statistic), 12)  # exactly 1 for equal orders
    reach = stats.norm.ppf((1 + level) / 2) * math.sqrt((1 + rank**2 / 2) / (len(a) - 3))
    if abs(rank) == 1:
        return rank, rank, rank
    center = math.atanh(rank)
    return rank, math.tanh(center - reach), math.tanh(center + reach)


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


def p_values(result: xr.Dataset, draws: int = DRAWS, seed: int = 0) -> xr.DataArray:
    r"""p-values of "that a model was trained on this observation makes no difference to it".

    If that is so, the K models of a repeat are exchangeable, and the one that did not see the observation is
    as likely as any other to be the one that gives it the lowest probability. The statistic is the sum over
    repeats of log p under the models that did not see it; it is compared with the same sum for one model
    chosen at random from each repeat. No distribution is assumed: where there are no more than `draws` such
    choices all of them are taken, otherwise as many at random, and the p-value is exact or, with (1 + hits) /
    (1 + draws), valid. It is about the estimates of log p(x), of encoder and decoder together: where Pareto
    k-hat is high, a worse encoder for unseen images makes a difference too.

    Args:
        result: as for `memlib.memorization`.
        draws: random choices, 1 or more.
        seed: of the choices, 0 or more.

    Returns:
        (epoch, observation), in (0, 1]. None is below K^-L, nor below 1 / (1 + draws) where they are drawn.

    Raises:
        ValueError: draws or seed that are not allowed, or arrays that `memorization` refuses.

    Source: Phipson & Smyth (2010) for the p-values of random choices.
    """
    check_range(1, draws=draws)
    check_range(0, seed=seed)
    log_px, fold_of = checked_arrays(result)
    L, K, n = log_px.shape[1:]
    if exact := K**L <= draws:
        choices = np.indices((K,) * L).reshape(L, -1).T  # (K^L, L)
    else:
        choices = np.random.default_rng(seed).integers(K, size=(draws, L))
    # a repeat's models by their distance from the held-out one: 0 is that itself
    shifted = (fold_of[:, None, :] + np.arange(K)[:, None]) % K  # (L, K, n)
    p = np.empty((len(log_px), n))
    for epoch, values in enumerate(log_px.values):
        own = np.take_along_axis(values.astype(np.float64), shifted, axis=1)
        hits = _count_lower(own, choices)
        p[epoch] = hits / len(choices) if exact else (1 + hits) / (1 + len(choices))
    coords = {name: c for name, c in result.coords.items() if set(c.dims) <= {"epoch", "observation"}}
    return xr.DataArray(p, dims=("epoch", "observation"), coords=coords, name="p_value")


def _count_lower(own: Floats, choices: Ints) -> Ints:
    """How many choices have a sum at or below that of the held-out models, (n,), from (L, K, n)."""
    L, K, n = own.shape
    own = np.maximum(own, -1e30)  # of minus infinity there is no difference
    # sums of chosen entries as a product with ones and zeros; differences from the held-out, for accuracy
    difference = (own - own[:, :1]).reshape(L * K, n)
    chosen = np.zeros((len(choices), L * K))
    chosen[np.arange(len(choices))[:, None], np.arange(L) * K + choices] = 1
    size = max(1, 2**22 // len(choices))  # observations at once, so that memory stays bounded
    parts = np.split(difference, range(size, n, size), axis=1)
    return np.concatenate([(chosen @ part <= 0).sum(axis=0) for part in parts])


def memorized(result: xr.Dataset, rate: float = 0.1, draws: int = DRAWS, seed: int = 0) -> xr.DataArray:
    """Observations to whose estimate training makes a difference, at a controlled false discovery rate.

    Of those listed no more than `rate` are there by chance, on average over runs, by the procedure of
    Benjamini and Hochberg on `p_values`; which holds for p-values that are independent or rise together.

    Args:
        result: as for `memlib.memorization`.
        rate: the false discovery rate, between 0 and 1.
        draws: of `p_values`, and so is `seed`. Where p-values cannot be small, no observation may reach a
            small rate.

    Returns:
        (epoch, observation), bool.

    Raises:
        ValueError: a rate outside (0, 1), or what `p_values` refuses.

    Source: Benjamini & Hochberg (1995).
    """
    check_share(rate=rate)
    p = p_values(result, draws, seed)
    adjusted = stats.false_discovery_control(p.values, axis=1)
    return p.copy(data=adjusted <= rate).rename("memorized")
