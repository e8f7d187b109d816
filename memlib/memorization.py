r"""The memorization score: fold assignment, U, V, M and their standard errors.

$$M_i = U_i - V_i, \qquad U_i = \log \frac{1}{L(K-1)} \sum_{l,\, k \neq f_l(i)} p_{lk}(x_i), \qquad
V_i = \log \frac{1}{L} \sum_l p_{l, f_l(i)}(x_i)$$

with $f_l(i)$ the fold of observation i in repeat l and $p_{lk}$ the model trained without fold k. Unit: nats.

Source: van den Burg & Williams (2021), eqs. (2), (3) and the K-fold estimator of section 3.
"""

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray


class Scores(NamedTuple):
    """Scores of every observation, in nats.

    `U`, `V`, `M` and the jackknife standard error `M_se` of M are (..., n). `gap` (..., L, n) is, in every
    repeat, the mean of log p over the models that trained on the observation minus log p under the one that
    did not. As an average of logarithms it has expectation 0 where training on an observation makes no
    difference, whatever the spread between models; M has not.
    """

    U: NDArray[np.float64]
    V: NDArray[np.float64]
    M: NDArray[np.float64]
    M_se: NDArray[np.float64]
    gap: NDArray[np.float64]


def fold_assignment(n: int, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Assign n observations at random to folds whose sizes differ by one at most.

    Args:
        n: number of observations, at least `folds`.
        folds: K >= 2.
        rng: source of the permutation.

    Returns:
        The fold of every observation, 0..K-1, (n,).

    Raises:
        ValueError: K < 2 or n < K.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}; allowed: 2 or more, every model must leave something out")
    if n < folds:
        raise ValueError(f"n is {n}; allowed: at least the number of folds, {folds}")
    fold_of = np.empty(n, dtype=np.int64)
    fold_of[rng.permutation(n)] = np.arange(n) % folds
    return fold_of


def log_mean_exp(
    values: NDArray[np.float64], axis: int | tuple[int, ...], where: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Logarithm of the mean of exp(values) over `axis`, of the entries where `where` holds; float64."""
    values = np.asarray(values, dtype=np.float64)
    mask = np.ones(values.shape, bool) if where is None else np.broadcast_to(where, values.shape)
    top = np.max(values, axis=axis, keepdims=True, initial=-np.inf, where=mask)
    shift = np.where(np.isfinite(top), top, 0.0)  # all -inf: the mean of exp is 0 and its logarithm -inf
    total = np.sum(np.exp(values - shift, where=mask, out=np.zeros(values.shape)), axis=axis)
    with np.errstate(divide="ignore"):
        return np.log(total) - np.log(mask.sum(axis=axis)) + np.squeeze(shift, axis=axis)


def memorization_scores(log_px: NDArray[np.floating], fold_of: NDArray[np.integer]) -> Scores:
    r"""U, V, M of every observation from the log-probabilities under all models.

    The standard error is the jackknife over repeats,
    $\sqrt{\frac{L-1}{L} \sum_l (M_{(l)} - \bar M_{(\cdot)})^2}$ with $M_{(l)}$ computed without repeat l;
    with a single repeat it is NaN. It holds where the spread between models is below a nat; with few repeats
    and a spread of several nats V is nearly a maximum, and intervals built from it cover less than they
    claim.

    Args:
        log_px: nats, (..., L, K, n): repeat, left-out fold, observation.
        fold_of: fold of every observation in every repeat, 0..K-1, (L, n).

    Raises:
        ValueError: shapes that do not fit, a fold outside 0..K-1, a log-probability that is NaN or +inf.

    Source: eq. (3) and the K-fold estimator of section 3; Efron & Stein (1981) for the jackknife.
    """
    log_px, fold_of = np.asarray(log_px, dtype=np.float64), np.asarray(fold_of)
    if log_px.ndim < 3 or fold_of.shape != (log_px.shape[-3], log_px.shape[-1]):
        raise ValueError(
            f"log_px has shape {log_px.shape} and fold_of {fold_of.shape}; allowed: (..., L, K, n) and (L, n)"
        )
    L, K, _ = log_px.shape[-3:]
    if K < 2:
        raise ValueError(f"log_px has {K} fold; allowed: 2 or more")
    if fold_of.min() < 0 or fold_of.max() >= K:
        raise ValueError(f"fold_of has values {fold_of.min()}..{fold_of.max()}; allowed: 0..{K - 1}")
    if np.isnan(log_px).any() or np.isposinf(log_px).any():
        raise ValueError("log_px holds NaN or +inf; allowed: finite numbers and -inf")

    held_out = fold_of[:, None, :] == np.arange(K)[:, None]  # (L, K, n)
    # one logarithm of a mean per repeat; repeats have equal counts, so their means average
    seen = log_mean_exp(log_px, -2, where=~held_out)  # (..., L, n)
    left = log_mean_exp(log_px, -2, where=held_out)  # (..., L, n)
    U, V = log_mean_exp(seen, -2), log_mean_exp(left, -2)
    gap = log_px.mean(-2, where=~held_out) - log_px.mean(-2, where=held_out)  # (..., L, n)
    return Scores(U, V, U - V, _jackknife(seen, left), gap)


def _jackknife(seen: NDArray[np.float64], left: NDArray[np.float64]) -> NDArray[np.float64]:
    L = seen.shape[-2]
    if L < 2:
        return np.full(seen.shape[:-2] + seen.shape[-1:], np.nan)
    keep = ~np.eye(L, dtype=bool)
    without = np.stack([log_mean_exp(seen[..., k, :], -2) - log_mean_exp(left[..., k, :], -2) for k in keep])
    return np.sqrt((L - 1) * without.var(axis=0))


def highly_memorized(M: NDArray[np.float64], quantile: float = 0.95) -> NDArray[np.bool_]:
    """Observations with M above its own quantile, (n,): the paper's "highly memorized" (top 5 %).

    Raises:
        ValueError: `quantile` outside (0, 1).
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile is {quantile}; allowed: between 0 and 1")
    if np.isnan(M).any():
        raise ValueError("M holds NaN; allowed: numbers that have an order")
    return M > np.quantile(M, quantile)


def exchanged(result: xr.Dataset, seed: int = 0) -> xr.Dataset:
    """A run in which nothing can be memorized, for comparison: its scores show what the estimator makes of
    noise.

    In every repeat the model that did not train on an observation is dropped, and one of those that did,
    chosen at random, takes its place as the held-out one. All remaining models have seen the observation,
    with the spread of the real run between them.

    Args:
        result: what `memlib.run` returns, with at least three folds.
        seed: of the random choice.

    Returns:
        `log_px` with one fold less, and `fold_of`, for `memorization`.

    Raises:
        ValueError: fewer than three folds.
    """
    log_px = result.log_px.transpose("epoch", "repeat", "fold", "observation")
    fold_of = result.fold_of.transpose("repeat", "observation").values
    K = log_px.sizes["fold"]
    if K < 3:
        raise ValueError(
            f"the run has {K} folds; allowed: 3 or more, two models must have seen each observation"
        )
    others = np.arange(K - 1)[:, None]
    others = others + (
        others >= fold_of[:, None, :]
    )  # (L, K-1, n), the models that trained on each observation
    kept = np.take_along_axis(log_px.values, others[None], axis=2)
    chosen = np.random.default_rng(seed).integers(K - 1, size=fold_of.shape)
    coords = {name: c for name, c in result.coords.items() if "fold" not in c.dims}
    variables = {"log_px": (log_px.dims, kept), "fold_of": (("repeat", "observation"), chosen)}
    return xr.Dataset(variables, coords=coords, attrs=result.attrs)


def memorization(result: xr.Dataset) -> xr.Dataset:
    """Scores of every observation at every evaluated epoch.

    Args:
        result: what `memlib.run` returns: `log_px` (epoch, repeat, fold, observation), `fold_of` (repeat,
            observation).

    Returns:
        `U`, `V`, `M`, `M_se` (epoch, observation) and `gap` (epoch, repeat, observation), in nats; see
        `Scores`.
    """
    log_px = result.log_px.transpose("epoch", "repeat", "fold", "observation")
    fold_of = result.fold_of.transpose("repeat", "observation").values
    # epoch by epoch: float64 copies of all epochs at once would be the largest array of a big run
    scores = [memorization_scores(at_epoch.values, fold_of) for at_epoch in log_px]
    columns = dict(zip(Scores._fields, map(np.stack, zip(*scores, strict=True)), strict=True))
    dims = {3: ("epoch", "repeat", "observation"), 2: ("epoch", "observation")}
    variables = {name: (dims[column.ndim], column) for name, column in columns.items()}
    kept = {name: c for name, c in result.coords.items() if set(c.dims) <= set(dims[3])}
    scored = xr.Dataset(variables, coords=kept, attrs=result.attrs)
    for variable in scored.data_vars.values():
        variable.attrs["units"] = "nats"
    return scored
