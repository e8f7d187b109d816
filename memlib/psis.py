"""Pareto k-hat: whether the largest importance weights leave an average that can be trusted."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memlib.checks import Floats, check_range

FEWEST = 5  # largest weights below which no tail can be fitted
_PRIOR = 10  # observations that the prior on k, 0.5, counts for
_BLOCK = 2**22  # numbers of the fit held at once


def tail_length(num_samples: int) -> int:
    """How many of the S largest weights are the tail, min(S / 5, 3 sqrt(S)) rounded up.

    >>> tail_length(64), tail_length(256), tail_length(1024)
    (13, 48, 96)
    """
    return math.ceil(min(num_samples / 5, 3 * math.sqrt(num_samples)))


def khat_threshold(num_samples: int) -> float:
    r"""The k-hat above which S samples do not suffice, $\min(1 - 1 / \log_{10} S, 0.7)$.

    Up to it an estimate with smoothed weights is reliable. For the plain mean of the weights it is lenient:
    from 0.5 on their variance is infinite.

    Args:
        num_samples: S >= 1.

    Raises:
        ValueError: S < 1.

    Source: Vehtari et al. (2024), section 3.2.4.

    >>> round(khat_threshold(64), 3), round(khat_threshold(256), 3), khat_threshold(4096)
    (0.446, 0.585, 0.7)
    """
    check_range(1, num_samples=num_samples)
    # up to ten samples the formula is 0 or less, as k-hat of a weight with bounds can be
    return min(1 - 1 / math.log10(num_samples), 0.7) if num_samples > 10 else 0.0


def khat_thresholds(num_samples: NDArray[np.integer]) -> Floats:
    """`khat_threshold` of every number in an array, of its shape."""
    counts, place = np.unique(num_samples, return_inverse=True)
    return np.array([khat_threshold(int(S)) for S in counts])[place].reshape(num_samples.shape)


def pareto_k(log_w: Tensor) -> Tensor:
    r"""Shape of the generalized Pareto distribution fitted to the largest importance weights.

    Weights whose distribution has a tail of shape k have finite moments up to order 1 / k: from 0.5 on their
    variance is infinite, from 1 on their mean, which the estimate of p(x) is.

    Args:
        log_w: logarithms of weights, up to a constant of each row, (..., S), S >= 1; minus infinity is a
            weight of zero.

    Returns:
        k-hat, (...), float64; +inf where fewer than five weights are above the others (a single one, ties,
        all zero, S of 20 or less) or where they differ by too little to be fitted.

    Raises:
        ValueError: no samples.

    Source: Vehtari et al. (2024), appendix G; Zhang & Stephens (2009) for the fit.
    """
    if log_w.ndim < 1 or log_w.shape[-1] < 1:
        raise ValueError(f"log_w has shape {tuple(log_w.shape)}; allowed: (..., S), at least one sample")
    S, M = log_w.shape[-1], tail_length(log_w.shape[-1])
    rows = log_w.reshape(-1, S)
    if M < FEWEST:
        return torch.full(log_w.shape[:-1], math.inf, dtype=torch.float64, device=log_w.device)
    grid = 30 + math.isqrt(M)
    top = [block.topk(M + 1).values.double() for block in rows.split(max(1, _BLOCK // (M * grid)))]
    return torch.cat([_fitted(block, grid) for block in top]).reshape(log_w.shape[:-1])


def _fitted(top: Tensor, grid: int) -> Tensor:
    """k-hat of rows of log weights in descending order, (rows, M + 1); the last is the threshold."""
    x = top - top[:, :1]  # where all weights are zero, NaN
    cutoff = x[:, -1:].clamp(min=math.log(torch.finfo(x.dtype).tiny))
    inside = x[:, :-1] > cutoff  # ties with the threshold do not count
    count = inside.sum(-1, keepdim=True)
    excess = torch.where(inside, x[:, :-1].exp() - cutoff.exp(), 0.0)  # (rows, M), descending
    n = count.clamp(min=FEWEST).double()
    first_quartile = excess.gather(1, (n - (n / 4 + 0.5).floor()).long())
    m = 30 + n.sqrt().floor()
    j = torch.arange(1, grid + 1, device=x.device, dtype=x.dtype)  # (grid)
    b = (1 - (m / (j - 0.5)).sqrt()) / (3 * first_quartile) + 1 / excess[:, :1]  # (rows, grid)
    k = torch.log1p(-b[:, :, None] * excess[:, None]).sum(-1) / n
    log_likelihood = n * ((-b / k).log() - k - 1)
    weight = torch.where(j <= m, log_likelihood, -math.inf).softmax(-1)
    weight = torch.where(weight >= 10 * torch.finfo(x.dtype).eps, weight, 0.0)
    mean = (torch.where(weight > 0, b, 0.0) * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True)
    shape = torch.log1p(-mean * excess).sum(-1, keepdim=True) / n
    shape = (n * shape + 0.5 * _PRIOR) / (n + _PRIOR)
    return torch.where((count >= FEWEST) & shape.isfinite(), shape, math.inf)[:, 0]
