"""What can be said of scores: their errors, how far they repeat, and what is memorized beyond chance.

`interval` and `rank_correlation` give confidence intervals, `reliability` how well a second run would agree,
`corrected_correlation` what the score has to do with another quantity once its noise is allowed for,
`p_values` and `memorized` a list with a known rate of false discoveries.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from memlib.checks import Floats, Ints, as_array, check_one_of, check_range, check_share
from memlib.memorization import checked_arrays, memorization

DRAWS = 9999  # random choices behind p-values
ROUNDING = 1e-12  # of a float64 number that was computed, relative to it; equal ones differ by no more

Score = Callable[[xr.Dataset], ArrayLike]  # from a run of some repeats, last epoch only, to (n,) numbers


def interval(scores: xr.Dataset, level: float = 0.9, name: str = "gap") -> tuple[xr.DataArray, xr.DataArray]:
    """Confidence interval of a score: the estimate plus and minus its standard error times Student's t.

    The t distribution has L - 1 degrees of freedom. For the gap, a mean over repeats, it is exact where their
    gaps are normal. It covers folds, seeds and what else is drawn anew in each repeat, not the choice of
    noisy versions that all repeats share. For U, V and M, where it is about what the estimator gives on
    average over runs with as many repeats, it is too short where models or versions differ by several nats:
    the jackknife of a near-maximum has about one degree of freedom, and of nominal 90 % intervals of M about
    80 % hold the truth, of V about 70 %.

    Args:
        scores: what `memlib.memorization` returns.
        level: the share of intervals that are to hold the truth, between 0 and 1.
        name: "gap", "U", "V" or "M".

    Returns:
        Lower and upper ends, (epoch, observation), nats; NaN where there is one repeat only.

    Raises:
        ValueError: a level or name that is not allowed.
    """
    check_share(level=level)
    check_one_of(("gap", "U", "V", "M"), name=name)
    reach = stats.t.ppf((1 + level) / 2, scores.sizes["repeat"] - 1) * scores[f"{name}_se"]
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
    a, b = as_array("a", a, np.float64), as_array("b", b, np.float64)
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


def last_gap(result: xr.Dataset) -> Floats:
    """The gap of every observation at the last epoch, (n,), nats."""
    return memorization(result.isel(epoch=[-1])).gap.values[0]


def halves(
    result: xr.Dataset, splits: int = 20, seed: int = 0, size: int | None = None
) -> Iterator[tuple[xr.Dataset, xr.Dataset]]:
    """Random pairs of sets of repeats that share none.

    Repeats are independent, so these are two runs of the same images; with paired noise they share its
    versions of them.

    Args:
        result: as for `memlib.memorization`, with at least 2 repeats; its last epoch counts.
        splits: how many pairs, 1 or more.
        seed: of the choice, 0 or more.
        size: repeats in each set, 1 to half of those there are; None for half of them.

    Raises:
        ValueError: fewer than 2 repeats, or an argument outside of these.
    """
    check_range(1, splits=splits)
    check_range(0, seed=seed)
    checked_arrays(result)
    last, rng = result[["log_px", "fold_of"]].isel(epoch=[-1]), np.random.default_rng(seed)
    check_range(2, **{"the number of repeats": (L := last.sizes["repeat"])})
    size = L // 2 if size is None else size
    check_range(1, L // 2, size=size)
    for _ in range(splits):
        one, two = np.split(rng.permutation(L)[: 2 * size], 2)
        yield last.isel(repeat=one), last.isel(repeat=two)


def reliability(
    result: xr.Dataset, score: Score | None = None, ranks: bool = True, splits: int = 20, seed: int = 0
) -> float:
    """How well the scores of a second run would agree with those of this one: their correlation.

    Measured between two halves of the repeats that share none, averaged over random halves. Of the gap, a
    mean over repeats, it is then stepped up from runs of half the repeats to runs of all, see
    `spearman_brown`. Other scores stay as measured: of M a second run with as many repeats agrees better.

    Args:
        result: as for `halves`.
        score: None for the gap; or from a run to (n,) numbers, such as
            `lambda run: memlib.memorization(run, "matched").M[-1]`.
        ranks: whether the correlation is Spearman's, or Pearson's.
        splits, seed: as for `halves`.

    Returns:
        1 where two runs would give the same, 0 where a score is noise; NaN where all images have one score.

    Raises:
        ValueError: what `halves` refuses, or scores that are NaN or not (n,).
    """
    both = _of_halves(result, score or last_gap, splits, seed)
    one, two = (stats.rankdata(values, axis=1) for values in both) if ranks else both
    n, L = one.shape[1], result.sizes["repeat"]
    half = float(_correlations(one, two, np.full((1, n), 1 / n)).mean())
    return spearman_brown(half, L // 2, L) if score is None and half > 0 else half


def spearman_brown(correlation: float, repeats: int, wanted: int) -> float:
    r"""The correlation of means over `wanted` repeats, if that of means over `repeats` is `correlation`.

    $$r_L = \frac{L r_1}{1 + (L - 1) r_1}$$

    Args:
        correlation: between two runs, 0 to 1.
        repeats: in each of them, 1 or more.
        wanted: repeats of the other runs, 1 or more.

    Raises:
        ValueError: an argument outside of these.

    Source: Spearman (1910), Brown (1910); for rank correlations an approximation.

    >>> spearman_brown(0.5, 1, 4), round(spearman_brown(0.8, 4, 1), 9)
    (0.8, 0.5)
    """
    check_range(0, 1, correlation=correlation)
    check_range(1, repeats=repeats, wanted=wanted)
    return wanted * correlation / (wanted * correlation + repeats * (1 - correlation))


class Corrected(NamedTuple):
    """A rank correlation: `observed` with the gap of half the repeats, whose own is `reliability`."""

    observed: float
    reliability: float
    corrected: float
    low: float
    high: float
    verdict: Literal["positive", "negative", "undecided"]


def corrected_correlation(
    result: xr.Dataset,
    other: ArrayLike | Score,
    level: float = 0.95,
    splits: int = 20,
    draws: int = 1000,
    seed: int = 0,
) -> Corrected:
    r"""Rank correlation of the gap with another quantity, corrected for attenuation: noise brings it to zero.

    $$r = \frac{r_{go}}{\sqrt{r_{gg} \, r_{oo}}}$$

    with $r_{go}$ between the gap of one half of the repeats and the other quantity, $r_{gg}$ between the gaps
    of both halves, $r_{oo}$ likewise, each averaged over random halves. A quantity that the repeats measure,
    such as log p, has noise in common with their gap; so it is taken from the half that the gap is not from.
    One that is given counts as it is, with $r_{oo} = 1$.

    The interval is that of a bootstrap over images, in which all three correlations, of ranks among all
    images, are taken anew. It covers the choice of images, not that of models or of noisy versions that all
    repeats share, and the correction is an approximation for ranks.

    Args:
        result: as for `halves`.
        other: (n,) numbers, such as distances or counts; or from a run to (n,) numbers that its repeats
            measure, such as `lambda run: run.log_px[-1].mean(("repeat", "fold"))`.
        level: share of such intervals that are to hold the truth, between 0 and 1.
        splits: as for `halves`.
        draws: of the bootstrap, 1 or more.
        seed: of halves and bootstrap, 0 or more.

    Returns:
        With the interval `low`, `high`; what is beyond -1 or 1 is given as these. The verdict is "undecided"
        where the interval holds zero, or where that of a reliability does: then `corrected` is NaN.

    Raises:
        ValueError: what `halves` refuses, a level or draws that are not allowed, or numbers that are NaN or
            not (n,).

    Source: Spearman (1904) for the correction; Efron (1979) for the bootstrap.
    """
    check_share(level=level)
    check_range(1, draws=draws)
    gaps = _of_halves(result, last_gap, splits, seed)
    measured = other if callable(other) else lambda run: other
    others = _of_halves(result, measured, splits if callable(other) else 1, seed)
    (g1, g2), (o1, o2) = ([stats.rankdata(x, axis=1) for x in pair] for pair in (gaps, others))
    n, rng, drawn = g1.shape[1], np.random.default_rng(seed), []
    for batch in (0, *np.diff([*range(0, draws, 100), draws])):  # first the images as they are
        times = rng.multinomial(n, np.full(n, 1 / n), batch) if batch else np.ones((1, n))
        across = (_correlations(g1, o2, times) + _correlations(g2, o1, times)) / 2  # (batch, splits)
        each = across, _correlations(g1, g2, times), _correlations(o1, o2, times)
        drawn.append(np.stack([r.mean(1) for r in each]))
    observed, gap, own = np.concatenate(drawn, axis=1)  # each (1 + draws,)
    ends = (1 - level) / 2, (1 + level) / 2
    corrected = np.full(1 + draws, np.nan)
    if all(np.quantile(r[1:], ends[0]) > 0 for r in (gap, own)):
        with np.errstate(divide="ignore"):  # the few draws without reliability count as -1 or 1
            corrected = np.clip(observed / np.sqrt(np.maximum(gap * own, 0)), -1, 1)
    low, high = np.quantile(corrected[1:], ends)
    verdict = "positive" if low > 0 else "negative" if high < 0 else "undecided"
    return Corrected(*map(float, (observed[0], gap[0], corrected[0], low, high)), verdict)


def _of_halves(result: xr.Dataset, score: Score, splits: int, seed: int) -> tuple[Floats, Floats]:
    """The scores of one and of the other half of the repeats, each (splits, n)."""
    n = result.sizes["observation"]

    def numbers(run: xr.Dataset) -> Floats:
        values = as_array("scores", score(run), np.float64)
        if values.shape != (n,) or np.isnan(values).any():
            given = f"{values.shape}, NaN {np.isnan(values).sum()} times"
            raise ValueError(f"scores are {given}; allowed: ({n},), one of each image, without NaN")
        return values

    one, two = zip(*(map(numbers, pair) for pair in halves(result, splits, seed)), strict=True)
    return np.stack(one), np.stack(two)


def _correlations(a: Floats, b: Floats, times: Ints | Floats) -> Floats:
    """Pearson's correlations (draws, m) of rows (m, n), each observation counted so often, (draws, n)."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    share = times / times.sum(1, keepdims=True)
    mean_a, mean_b, of_a, of_b, both = (share @ x.T for x in (a, b, a * a, b * b, a * b))
    with np.errstate(invalid="ignore"):  # NaN of what is constant
        r = (both - mean_a * mean_b) / np.sqrt((of_a - mean_a**2) * (of_b - mean_b**2))
    return np.clip(r, -1, 1)


def p_values(result: xr.Dataset, draws: int = DRAWS, seed: int = 0) -> xr.DataArray:
    r"""p-values of "that a model was trained on this observation makes no difference to it".

    If that is so, the K models of a repeat are exchangeable, and the one that did not see the observation is
    as likely as any other to be the one that gives it the lowest probability. The statistic is the sum over
    repeats of log p under the models that did not see it; it is compared with the same sum for one model
    chosen at random from each repeat, and choices with a lower or an equal sum are hits. Sums are equal up to
    rounding in float64, of log-probabilities as they are given. Of sums with minus infinity the one with more
    of them is lower, and of as many that whose other terms sum to less.

    No distribution is assumed: where there are no more than `draws` such choices all of them are taken,
    otherwise as many at random, and the p-value is exact or, with (1 + hits) / (1 + draws), valid. It is
    about the estimates of log p(x): where Pareto k-hat is high they depend on the proposal, and with the
    encoder's an encoder that fits unseen images worse makes a difference, too.

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
    lost = np.isneginf(own)
    own = np.where(lost, 0, own)
    # sums of chosen entries as a product with ones and zeros; differences from the held-out, for accuracy,
    # lowered by what rounding may add, which leaves ties at or below 0
    difference = own - own[:, :1]
    difference -= np.where(difference, ROUNDING * (np.abs(own) + np.abs(own[:, :1])), 0)
    chosen = np.zeros((len(choices), L * K))
    chosen[np.arange(len(choices))[:, None], np.arange(L) * K + choices] = 1
    counts, size = [], max(1, 2**22 // len(choices))  # observations at once, so that memory stays bounded
    for start in range(0, n, size):
        part = slice(start, start + size)
        lower = chosen @ difference[..., part].reshape(L * K, -1) <= 0
        if lost[..., part].any():
            more = chosen @ (lost[..., part] - 1.0 * lost[:, :1, part]).reshape(L * K, -1)
            lower = (more > 0) | lower & (more == 0)
        counts.append(lower.sum(axis=0))
    return np.concatenate(counts)


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
    return p.copy(data=adjusted <= rate * (1 + ROUNDING)).rename("memorized")
