"""Chapter 14: how well a second run would agree with the first, by the number of repeats."""

import math
from typing import Literal, get_args

import numpy as np
import xarray as xr
from scipy import stats

from memlib.checks import Floats, check_one_of, check_range, check_share
from memlib.memorization import memorization

Score = Literal["paper", "matched", "gap"]


def stability(result: xr.Dataset, score: Score = "matched", draws: int = 20, seed: int = 0) -> xr.Dataset:
    """Agreement of scores from two sets of repeats that share none, by the number of repeats in each.

    Repeats are independent, so two disjoint sets of L are two runs of L repeats: the rank correlation of
    their scores is what a second run would have with the first, and their differences are the errors of both.

    Args:
        result: as for `memlib.memorization`, with at least 2 repeats; its last epoch counts.
        score: M by the "paper" or the "matched" estimator, or the "gap", averaged over repeats.
        draws: pairs of sets per size, at random, 1 or more.
        seed: of the choice, 0 or more.

    Returns:
        By `repeats` (1 to half of those there are): `rank` and `error` (repeats, draw): Spearman's rank
        correlation, and the root mean square of a score's random error in nats, that of the differences over
        the square root of 2; a bias that both sets share is not in it.

    Raises:
        ValueError: fewer than 2 repeats, another score, draws or seed that are not allowed, or what
            `memorization` refuses.
    """
    check_one_of(get_args(Score), score=score)
    check_range(1, draws=draws)
    check_range(0, seed=seed)
    last = result[["log_px", "fold_of"]].isel(epoch=[-1])
    L = last.sizes["repeat"]
    if L < 2:
        raise ValueError(f"the run has {L} repeat; allowed: 2 or more, one for each of two sets")
    rng, sizes = np.random.default_rng(seed), range(1, L // 2 + 1)
    rank, error = np.empty((2, len(sizes), draws))
    for row, size in enumerate(sizes):
        for draw in range(draws):
            chosen = rng.permutation(L)[: 2 * size]
            one, two = (_scores(last.isel(repeat=half), score) for half in np.split(chosen, 2))
            rank[row, draw] = stats.spearmanr(one, two).statistic
            error[row, draw] = np.sqrt(np.mean((one - two) ** 2) / 2)
    dims = ("repeats", "draw")
    return xr.Dataset({"rank": (dims, rank), "error": (dims, error)}, coords={"repeats": list(sizes)})


def _scores(result: xr.Dataset, score: Score) -> Floats:
    if score == "gap":
        return memorization(result).gap.values[0].mean(axis=0)
    return memorization(result, score).M.values[0]


def reliability(rank: float, repeats: int, wanted: int) -> float:
    r"""The agreement of two runs with `wanted` repeats, if that of runs with `repeats` is `rank`.

    $$r_L = \frac{L r_1}{1 + (L - 1) r_1}$$

    Args:
        rank: correlation between two runs, 0 to 1.
        repeats: in each of them, 1 or more.
        wanted: repeats of the other runs, 1 or more.

    Raises:
        ValueError: an argument outside of these.

    Source: Spearman (1910), Brown (1910); for rank correlations an approximation.

    >>> reliability(0.5, 1, 4), round(reliability(0.8, 4, 1), 9)
    (0.8, 0.5)
    """
    check_range(0, 1, rank=rank)
    check_range(1, repeats=repeats, wanted=wanted)
    return wanted * rank / (wanted * rank + repeats * (1 - rank))


def repeats_needed(rank: float, repeats: int, target: float) -> float:
    """How many repeats two runs need to agree as well as `target`, if with `repeats` they agree as `rank`.

    The inverse of `reliability`; a whole number, or infinity where runs do not agree at all.

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
