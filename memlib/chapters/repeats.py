"""What the number of repeats changes: how far runs differ, how often intervals hold, where M goes (04, 14).

Repeats are independent, so two sets of them that share none are two runs of the same images.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy import stats

from memlib.checks import Floats, check_one_of, check_range, check_share
from memlib.inference import halves, interval, last_gap
from memlib.memorization import checked_arrays, memorization

SCORES = ("gap", "matched", "paper")  # the gap, and M by either estimator
OTHERS = 12  # sets of other repeats, whose mean M stands for its expectation


def stability(
    result: xr.Dataset,
    other: xr.Dataset | None = None,
    sizes: Sequence[int] | None = None,
    draws: int = 20,
    seed: int = 0,
) -> xr.Dataset:
    """How well scores from two sets of repeats agree that share none, by the number of repeats in each.

    Args:
        result: as for `memlib.memorization`, with at least 2 repeats; its last epoch counts.
        other: the same models scored otherwise, of which the second set is taken; None for `result`.
        sizes: numbers of repeats in each set, each 1 to half of those there are; None for all of these.
        draws: pairs of sets per size, at random, 1 or more.
        seed: of the choice, 0 or more.

    Returns:
        By `score`, "gap", "matched" or "paper" (M by that estimator), by `repeats` and by draw: `rank`,
        Spearman's rank correlation, and `error`, the root mean square of a score's random error in nats: that
        of the differences over the square root of 2. What both sets have in common, a bias or the versions of
        the images, is not in it.

    Raises:
        ValueError: fewer than 2 repeats, another run with more or fewer, an argument that is not allowed, or
            what `memorization` refuses.
    """
    L, other = result.sizes["repeat"], result if other is None else other
    check_range(2, **{"the number of repeats": L})
    check_one_of([L], **{"the other run's number of repeats": other.sizes["repeat"]})
    sizes = list(range(1, L // 2 + 1) if sizes is None else sizes)
    rank, error = np.empty((2, len(SCORES), len(sizes), draws))
    for s, size in enumerate(sizes):
        pairs = zip(halves(result, draws, seed, size), halves(other, draws, seed, size), strict=True)
        for d, ((first, _), (_, second)) in enumerate(pairs):
            for k, (a, b) in enumerate(zip(_scores(first), _scores(second), strict=True)):
                rank[k, s, d] = stats.spearmanr(a, b).statistic
                error[k, s, d] = np.sqrt(np.mean((a - b) ** 2) / 2)
    dims = ("score", "repeats", "draw")
    coords = {"score": list(SCORES), "repeats": sizes}
    return xr.Dataset({"rank": (dims, rank), "error": (dims, error)}, coords=coords)


def coverage(
    result: xr.Dataset, size: int, level: float = 0.9, draws: int = 20, seed: int = 0
) -> dict[str, float]:
    r"""Share of the intervals from some repeats that hold what the other repeats say, averaged over draws.

    What the others say is their mean gap, and of M, which depends on the number of repeats, the mean over
    random sets of `size` of them. It has an error of its own, so intervals are made
    $\sqrt{1 + \mathrm{size} / \mathrm{others}}$ times as long: right for a mean, and for M about right.

    Args:
        result: as for `memlib.memorization`, with at least 4 repeats; its last epoch counts.
        size: repeats that intervals are made from, 2 to half of those there are.
        level: share of the intervals that are to hold, between 0 and 1; see `memlib.interval`.
        draws: random choices of the repeats, 1 or more.
        seed: of the choices, 0 or more.

    Returns:
        The shares by score: "gap", "matched" and "paper".

    Raises:
        ValueError: an argument outside of these, or what `memorization` refuses.
    """
    checked_arrays(result)
    L = result.sizes["repeat"]
    check_range(4, **{"the number of repeats": L})
    check_range(2, L // 2, size=size)
    check_share(level=level)
    check_range(1, draws=draws)
    check_range(0, seed=seed)
    last, rng = result[["log_px", "fold_of"]].isel(epoch=[-1]), np.random.default_rng(seed)
    held = np.empty((draws, len(SCORES)))
    for draw in held:
        own, rest = np.split(rng.permutation(L), [size])
        sets = [_scores(last.isel(repeat=rng.permutation(rest)[:size])) for _ in range(OTHERS)]
        truth = np.mean(sets, axis=0)  # (scores, n)
        truth[0] = last_gap(last.isel(repeat=rest))
        matched, paper = (memorization(last.isel(repeat=own), e) for e in ("matched", "paper"))
        for k, scores in enumerate((matched, matched, paper)):
            low, high = (end.values[0] for end in interval(scores, level, "M" if k else "gap"))
            reach = (high - low) / 2 * math.sqrt(1 + size / len(rest))
            draw[k] = np.mean(abs((low + high) / 2 - truth[k]) <= reach)
    return dict(zip(SCORES, held.mean(0).tolist(), strict=True))


def repeats_needed(rank: float, repeats: int, target: float) -> float:
    """How many repeats two runs need to agree as well as `target`, if with `repeats` they agree as `rank`.

    The inverse of `memlib.inference.spearman_brown`; a whole number, or infinity where runs do not agree.

    Raises:
        ValueError: a rank correlation outside of -1..1, a target that is not between 0 and 1, fewer than one
            repeat.

    >>> repeats_needed(0.5, 1, 0.8), repeats_needed(0.0, 3, 0.8)
    (4, inf)
    """
    check_share(target=target)
    check_range(-1, 1, rank=rank)
    check_range(1, repeats=repeats)
    if rank <= 0:
        return math.inf
    if rank == 1:
        return 1
    return max(1, math.ceil(round(repeats * target * (1 - rank) / (rank * (1 - target)), 9)))


def median_by_repeats(
    result: xr.Dataset, more: int = 10, draws: int = 20, seed: int = 0
) -> tuple[dict[int, float], float]:
    r"""Median of the paper's M over the images, had the run fewer repeats, and had it more.

    M takes logarithms of means over repeats, so that it depends on their number L. Repeats that a run has are
    left out, and a line in $1 / L$ through its last two numbers goes on to `more`. The truth is somewhat
    lower, as the slope grows with L: of digits, three repeats lead to 7.8 nats for ten, and ten give 7.3.

    Args:
        result: as for `memlib.memorization`; its last epoch counts.
        more: a number of repeats that the run has not, or has.
        draws: sets of repeats of each size, at random, where there are more; 1 or more.
        seed: of the choice, 0 or more.

    Returns:
        By number of repeats, 1 to L and `more`, the mean over sets of repeats of the median, nats (of more
        than L repeats NaN where L = 1), and the jackknife's standard error of the run's own (NaN likewise).

    Raises:
        ValueError: an argument outside of these, or what `memorization` refuses.
    """
    check_range(1, more=more, draws=draws)
    check_range(0, seed=seed)
    L, rng, last = result.sizes["repeat"], np.random.default_rng(seed), result.isel(epoch=[-1])
    medians = {}
    for size in range(1, L + 1):
        count = math.comb(L, size)
        sets = itertools.combinations(range(L), size)
        if count > draws and size != L - 1:
            sets = (rng.permutation(L)[:size] for _ in range(draws))
        medians[size] = [float(memorization(last.isel(repeat=list(s))).M.median()) for s in sets]
    means = {size: float(np.mean(each)) for size, each in medians.items()}
    slope = error = math.nan
    if L > 1:
        slope = (means[L - 1] - means[L]) / (1 / (L - 1) - 1 / L)
        error = math.sqrt((L - 1) * np.var(medians[L - 1]))
    return means | {more: means.get(more, means[L] + slope * (1 / more - 1 / L))}, error


def _scores(run: xr.Dataset) -> list[Floats]:
    """The scores of a run of one epoch, in the order of `SCORES`, each (n,)."""
    matched = memorization(run, "matched")
    return [matched.gap.values[0], matched.M.values[0], memorization(run).M.values[0]]
