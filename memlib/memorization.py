r"""The memorization score: fold assignment, U, V, M, the gap and their standard errors.

$$M_i = U_i - V_i, \qquad U_i = \log \frac{1}{L(K-1)} \sum_{l,\, k \neq f_l(i)} p_{lk}(x_i), \qquad
V_i = \log \frac{1}{L} \sum_l p_{l, f_l(i)}(x_i), \qquad \mathrm{gap}_i =
\frac{1}{L} \sum_l \Big( \frac{1}{K-1} \sum_{k \neq f_l(i)} \log p_{lk}(x_i) - \log p_{l, f_l(i)}(x_i) \Big)$$

with $f_l(i)$ the fold of observation i in repeat l and $p_{lk}$ the model trained without fold k. Unit: nats.

Source: van den Burg & Williams (2021), eqs. (2), (3) and the K-fold estimator of section 3.
"""

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from memlib.checks import Bools, Floats, Ints, as_array, check_one_of, check_range, check_share

Estimator = Literal["paper", "matched"]

_DIMS = {"log_px": ("epoch", "repeat", "fold", "observation"), "fold_of": ("repeat", "observation")}


class Scores(NamedTuple):
    r"""Scores of every observation, in nats.

    `U`, `V`, `M` and their jackknife standard errors `U_se`, `V_se`, `M_se` are (..., n). `M_se_sampling`, of
    the same shape, estimates the part of `M_se` that importance sampling causes; without the variances of the
    log-probabilities it is NaN. `gap_by_repeat` (..., L, n) is, in every repeat, the mean of log p over the
    models that trained on the observation minus log p under the one that did not; `gap` and its standard
    error `gap_se` (..., n) are the mean over repeats and the standard deviation over the square root of L,
    NaN of one repeat. `effective_repeats` (..., n), 1 to L, is Kish's number of repeats behind V,
    $(\sum_l p_l)^2 / \sum_l p_l^2$; NaN where all p are 0.

    The gap is the score to rank by and to make claims of: every repeat has its share in it, where models
    differ by several nats V and M rest on about one. As an average of logarithms the gap has expectation 0
    where training on an observation makes no difference, whatever the spread between models; so has M of the
    matched estimator, and M of the paper's has not.

    Source: Kish (1965).
    """

    U: Floats
    V: Floats
    M: Floats
    U_se: Floats
    V_se: Floats
    M_se: Floats
    M_se_sampling: Floats
    gap: Floats
    gap_se: Floats
    gap_by_repeat: Floats
    effective_repeats: Floats


def fold_assignment(n: int, folds: int, rng: np.random.Generator) -> Ints:
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
    check_range(2, folds=folds)
    if n < folds:
        raise ValueError(f"n is {n}; allowed: at least the number of folds, {folds}")
    fold_of = np.empty(n, dtype=np.int64)
    fold_of[rng.permutation(n)] = np.arange(n) % folds
    return fold_of


def log_mean_exp(values: Floats, axis: int) -> Floats:
    """Logarithm of the mean of exp(values) over `axis`, float64; -inf where all are."""
    values = as_array("values", values, np.float64)
    top = values.max(axis=axis, keepdims=True)
    shift = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(values - shift).mean(axis=axis)) + shift.squeeze(axis)


def memorization_scores(
    log_px: NDArray[np.floating],
    fold_of: NDArray[np.integer],
    estimator: Estimator = "paper",
    variance: NDArray[np.floating] | None = None,
) -> Scores:
    r"""U, V, M and the gap of every observation from the log-probabilities under all models.

    The logarithm of a mean is lower, the fewer terms there are. The paper's estimator takes U from L (K - 1)
    models and V from L, so that M is positive where nothing is memorized. The matched one counts alike: with
    $k_1 < \dots < k_{K-1}$ the folds other than $f_l(i)$,

    $$U_i = \frac{1}{K-1} \sum_{j=1}^{K-1} \log \frac{1}{L} \sum_l p_{l k_j}(x_i)$$

    and under no memorization every term has the distribution of V, whatever the spread between models.

    Standard errors are the jackknife over repeats,
    $\sqrt{\frac{L-1}{L} \sum_l (M_{(l)} - \bar M_{(\cdot)})^2}$ with $M_{(l)}$ computed without repeat l;
    with a single repeat they are NaN. Where models differ by several nats, V is nearly a maximum, and the
    errors are too small. The part due to importance sampling is a rough guide by the delta method: too small
    where k-hat is high, and with the errors of different models taken as independent, which share their noise
    if it is paired.

    Args:
        log_px: nats, (..., L, K, n): repeat, left-out fold, observation.
        fold_of: fold of every observation in every repeat, 0..K-1, (L, n).
        estimator: "paper" or "matched".
        variance: of the estimates `log_px`, nats squared, 0 or more, of the same shape.

    Raises:
        ValueError: shapes that do not fit, no observations, folds that are no integers or outside 0..K-1,
            log-probabilities that are no numbers, NaN or +inf, negative variances, another estimator.

    Source: eq. (3) and the K-fold estimator of section 3; Efron & Stein (1981) for the jackknife.
    """
    check_one_of(get_args(Estimator), estimator=estimator)
    log_px, fold_of = as_array("log_px", log_px), as_array("fold_of", fold_of)
    _check_arrays(log_px, fold_of)

    seen, left = _seen_and_left(log_px.astype(np.float64, copy=False), fold_of)
    U, U_weight, U_without = _log_means(seen, estimator)
    V, V_weight, V_without = _log_means(left, estimator)
    sampling = np.full(U.shape, np.nan)
    if variance is not None:
        variance = as_array("variance", variance, np.float64)
        if variance.shape != log_px.shape:
            raise ValueError(f"variance has shape {variance.shape}; allowed: that of log_px, {log_px.shape}")
        if bad := int((~(variance >= 0)).sum()):
            raise ValueError(f"variance is negative or NaN {bad} times; allowed: 0 or more")
        of_seen, of_left = _seen_and_left(variance, fold_of)
        sampling = np.sqrt(_propagated(U_weight, of_seen) + _propagated(V_weight, of_left))
    with np.errstate(invalid="ignore"):  # of infinite scores there is no difference, of one repeat no error
        without = U_without, V_without, U_without - V_without
        errors = [np.sqrt((len(w) - 1) * w.var(axis=0)) for w in without]  # the jackknife
        gaps = seen.mean(-2) - left[..., 0, :]  # (..., L, n)
        gap_se = np.sqrt(gaps.var(-2) / (len(fold_of) - 1))
        effective = V_weight.sum((-3, -2)) ** 2 / (V_weight**2).sum((-3, -2))
        return Scores(U, V, U - V, *errors, sampling, gaps.mean(-2), gap_se, gaps, effective)


def _check_arrays(log_px: NDArray, fold_of: NDArray) -> None:
    if log_px.dtype.kind not in "iuf":
        raise ValueError(f"log_px has type {log_px.dtype}; allowed: numbers")
    if fold_of.dtype.kind not in "iu":
        raise ValueError(f"fold_of has type {fold_of.dtype}; allowed: integers")
    if log_px.ndim < 3 or fold_of.shape != (log_px.shape[-3], log_px.shape[-1]):
        raise ValueError(
            f"log_px has shape {log_px.shape} and fold_of {fold_of.shape}; allowed: (..., L, K, n) and (L, n)"
        )
    if log_px.size == 0:
        raise ValueError(f"log_px has shape {log_px.shape}; allowed: at least one of each")
    K = log_px.shape[-2]
    if K < 2:
        raise ValueError(f"log_px has {K} fold; allowed: 2 or more")
    if fold_of.min() < 0 or fold_of.max() >= K:
        raise ValueError(f"fold_of has values {fold_of.min()}..{fold_of.max()}; allowed: 0..{K - 1}")
    if not (log_px < np.inf).all():
        nan, inf = np.isnan(log_px).sum(), np.isposinf(log_px).sum()
        raise ValueError(f"log_px is NaN {nan} times and +inf {inf} times; allowed: finite numbers and -inf")


def _seen_and_left(values: Floats, fold_of: NDArray[np.integer]) -> tuple[Floats, Floats]:
    """Of (..., L, K, n) what belongs to the models that trained on each observation, (..., L, K - 1, n), by
    ascending fold, and to those that did not, (..., L, 1, n)."""
    left = fold_of[:, None]  # (L, n) -> (L, 1, n)
    first = np.arange(values.shape[-2] - 1)[:, None]
    seen = first + (first >= left)  # (L, K - 1, n)
    one, other = (np.broadcast_to(folds, values.shape[:-3] + folds.shape) for folds in (seen, left))
    return np.take_along_axis(values, one, axis=-2), np.take_along_axis(values, other, axis=-2)


def _log_means(log_px: Floats, estimator: Estimator) -> tuple[Floats, Floats, Floats]:
    """The estimate (..., n) from (..., L, J, n), its derivatives (..., L, J, n), and the estimates without
    each repeat (L, ..., n), NaN if there is one only."""
    L, J = log_px.shape[-3:-1]
    # one logarithm of a mean per repeat; repeats have equal counts, so their means average
    blocks = log_px if estimator == "matched" else log_mean_exp(log_px, -2)[..., None, :]
    means = log_mean_exp(blocks, -3)  # (..., J or 1, n)
    estimate = means.mean(-2)
    with np.errstate(invalid="ignore"):
        weight = np.nan_to_num(np.exp(log_px - means[..., None, :, :])) / (L * J)  # zero where p is zero
    if L == 1:
        return estimate, weight, np.full((1, *estimate.shape), np.nan)
    without = [log_mean_exp(np.delete(blocks, repeat, -3), -3).mean(-2) for repeat in range(L)]
    return estimate, weight, np.array(without)


def _propagated(weight: Floats, variance: Floats) -> Floats:
    """Variance (..., n) of an estimate from its derivatives and the variances of its terms (..., L, J, n)."""
    with np.errstate(invalid="ignore"):  # a variance that is infinite counts only where the term does
        return np.where(weight**2 > 0, weight**2 * variance, 0).sum((-3, -2))


def least_observations(quantile: float) -> int:
    """The fewest observations that have a quantile in 0..1: one in as many lies beyond it.

    >>> [least_observations(quantile) for quantile in (0.05, 0.95, 0.9, 0.999, 0.5)]
    [20, 20, 10, 1000, 2]
    """
    beyond = min(quantile, 1 - quantile)
    return math.ceil(round(1 / beyond, 6)) if beyond else 1  # 0 and 1: the extremes themselves


def highly_memorized(M: Floats, quantile: float = 0.95) -> Bools:
    """Observations with M above its own quantile, (n,): the paper's "highly memorized" (top 5 %).

    Raises:
        ValueError: `quantile` outside (0, 1), too few observations to have it, NaN, or so many infinite
            scores that it is none itself.
    """
    check_share(quantile=quantile)
    M = as_array("M", M)
    shape, least = M.shape, least_observations(quantile)
    if len(shape) != 1:
        raise ValueError(f"M has shape {shape}; allowed: (n,)")
    if shape[0] < least:
        raise ValueError(f"M has {shape[0]} observations; allowed: {least} or more for a {quantile} quantile")
    if nan := np.isnan(M).sum():
        raise ValueError(f"M is NaN {nan} times; allowed: numbers that have an order")
    with np.errstate(invalid="ignore"):
        threshold = np.quantile(M, quantile)
    if not np.isfinite(threshold):
        raise ValueError(
            f"M is infinite {np.isinf(M).sum()} times among {shape[0]}; allowed: so few that its {quantile} "
            "quantile is finite"
        )
    return M > threshold


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
        ValueError: fewer than three folds, a seed below 0, or arrays that `memorization` refuses.
    """
    log_px, fold_of = checked_arrays(result)
    check_range(0, seed=seed)
    K = log_px.sizes["fold"]
    if K < 3:
        raise ValueError(f"the run has {K} folds; allowed: 3 or more, as two must have seen each observation")
    kept, _ = _seen_and_left(log_px.values, fold_of)
    chosen = np.random.default_rng(seed).integers(K - 1, size=fold_of.shape)
    coords = {name: c for name, c in result.coords.items() if "fold" not in c.dims}
    variables = {"log_px": (log_px.dims, kept), "fold_of": (("repeat", "observation"), chosen)}
    return xr.Dataset(variables, coords=coords, attrs=result.attrs)


def memorization(result: xr.Dataset, estimator: Estimator = "paper") -> xr.Dataset:
    """Scores of every observation at every evaluated epoch.

    Args:
        result: what `memlib.run` returns: `log_px` (epoch, repeat, fold, observation), `fold_of` (repeat,
            observation); with `ess` (as `log_px`) and `num_samples` (epoch, repeat, observation) the part of
            the standard error that importance sampling causes is estimated.
        estimator: of U, V and M; "paper" for what the paper reports, "matched" for an M that is 0 on average
            where nothing is memorized. See `memorization_scores`. The gap is the same for both.

    Returns:
        `U`, `V`, `M`, `U_se`, `V_se`, `M_se`, `M_se_sampling`, `gap`, `gap_se` (epoch, observation) and
        `gap_by_repeat` (epoch, repeat, observation), in nats, and `effective_repeats` (epoch, observation);
        see `Scores`. The attribute `estimator` says which.

    Raises:
        ValueError: `log_px` or `fold_of` is missing or has other dimensions, or what `memorization_scores`
            refuses.
    """
    log_px, fold_of = checked_arrays(result)
    # epoch by epoch: float64 copies of all epochs at once would be the largest array of a big run
    scores = [
        memorization_scores(at_epoch.values, fold_of, estimator, _sampling_variance(result, epoch))
        for epoch, at_epoch in enumerate(log_px)
    ]
    columns = dict(zip(Scores._fields, map(np.stack, zip(*scores, strict=True)), strict=True))
    dims = {3: ("epoch", "repeat", "observation"), 2: ("epoch", "observation")}
    variables = {name: (dims[column.ndim], column) for name, column in columns.items()}
    kept = {name: c for name, c in result.coords.items() if set(c.dims) <= set(dims[3])}
    scored = xr.Dataset(variables, coords=kept, attrs=result.attrs | {"estimator": estimator})
    for name, variable in scored.data_vars.items():
        variable.attrs["units"] = "1" if name == "effective_repeats" else "nats"
    return scored


def _sampling_variance(result: xr.Dataset, epoch: int) -> Floats | None:
    """Variances of `log_px` by the delta method, 1 / ESS - 1 / S, where the result has both."""
    if not {"ess", "num_samples"} <= {*result.data_vars}:
        return None
    at_epoch = result[["ess", "num_samples"]].isel(epoch=epoch).astype(np.float64)
    variance = (1 / at_epoch.ess - 1 / at_epoch.num_samples).clip(min=0)
    # a single sample says nothing of its error
    return variance.where(at_epoch.num_samples > 1, np.inf).transpose("repeat", "fold", "observation").values


def checked_arrays(result: xr.Dataset) -> tuple[xr.DataArray, NDArray[np.integer]]:
    """`log_px` and `fold_of`, dimensions in order; ValueError for what no score can be computed of."""
    if not isinstance(result, xr.Dataset):
        allowed = f"an xarray.Dataset with {' and '.join(_DIMS)}"
        raise ValueError(f"the result is of type {type(result).__name__}; allowed: {allowed}")
    for name, dims in _DIMS.items():
        if name not in result:
            there = ", ".join(sorted(map(str, result.data_vars))) or "none"
            raise ValueError(f"the result has no variable {name!r}; it has {there}")
        if set(given := result[name].dims) != set(dims):
            raise ValueError(f"{name} has dimensions {given}; allowed: {dims}, in any order")
    log_px, fold_of = (result[name].transpose(*dims) for name, dims in _DIMS.items())
    _check_arrays(log_px.values, fold_of.values)
    return log_px, fold_of.values
