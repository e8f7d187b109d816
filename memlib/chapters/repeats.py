"""Chapter 14: how well a second run would agree with the first, by the number of repeats.

`memlib.inference.reliability` says it of one run with all its repeats, `spearman_brown` foretells it.
"""

import math
from typing import Literal, get_args

import numpy as np
import xarray as xr
from scipy import stats

from memlib.checks import check_one_of, check_range, check_share
from memlib.inference import halves, last_gap
from memlib.memorization import memorization

Score = Literal["paper", "matched", "gap"]


def stability(result: xr.Dataset, score: Score = "matched", draws: int = 20, seed: int = 0) -> xr.Dataset:
    """Agreement of scores from two sets of repeats that share none, by the number of repeats in each.

    Two such sets are two runs, see `memlib.inference.halves`: the rank correlation of their scores is what a
    second run would have with the first, and their differences are the errors of both.

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
    check_range(2, **{"the number of repeats": (L := result.sizes["repeat"])})
    of = last_gap if score == "gap" else lambda run: memorization(run, score).M.values[0]
    sizes = range(1, L // 2 + 1)
    rank, error = np.empty((2, len(sizes), draws))
    for row, size in enumerate(sizes):
        for draw, pair in enumerate(halves(result, draws, seed, size)):
            one, two = map(of, pair)
            rank[row, draw] = stats.spearmanr(one, two).statistic
            error[row, draw] = np.sqrt(np.mean((one - two) ** 2) / 2)
    dims = ("repeats", "draw")
    return xr.Dataset({"rank": (dims, rank), "error": (dims, error)}, coords={"repeats": list(sizes)})


def repeats_needed(rank: float, repeats: int, target: float) -> float:
    """How many repeats two runs need to agree as well as `target`, if with `repeats` they agree as `rank`.

    The inverse of `spearman_brown`; a whole number, or infinity where runs do not agree at all.

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
