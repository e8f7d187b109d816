"""Densities with a closed form for the memorization score or for log p(x): what the estimates are held to."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor, nn

from memlib.checks import Floats
from memlib.models import LogitGaussian

LogDensity = Callable[[ArrayLike], Floats]


def gaussian_scores(x: ArrayLike, variance: float) -> Floats:
    r"""Score every observation under a Gaussian of known variance, its mean fitted by maximum likelihood.

    Without observation i the mean moves away from it, $x_i - \bar x_{-i} = \frac{n}{n-1} (x_i - \bar x)$, so

    $$M_i = \log N(x_i; \bar x, \sigma^2 I) - \log N(x_i; \bar x_{-i}, \sigma^2 I)
          = \frac{2n - 1}{2 \sigma^2 (n - 1)^2} \|x_i - \bar x\|^2 .$$

    Args:
        x: (n, d) or (n,), finite, n at least 2.
        variance: sigma^2 of every coordinate, above 0.

    Returns:
        M, float64 (n,), in nats; never negative.

    Raises:
        ValueError: if `x` or `variance` is not as above.

    Source: paper, equation (3), for this density.

    >>> gaussian_scores([-1.0, 1.0], variance=1.0)
    array([1.5, 1.5])
    """
    x, variance = _observations(x, at_least=2), _positive("variance", variance)
    n = len(x)
    return (2 * n - 1) / (2 * variance * (n - 1) ** 2) * ((x - x.mean(axis=0)) ** 2).sum(axis=1)


def kernel_scores(x: ArrayLike, bandwidth: float) -> Floats:
    r"""Score every observation under a Gaussian kernel density estimate.

    With $s_i = \sum_{j \ne i} \exp(-\|x_i - x_j\|^2 / 2h^2)$ the observation's own kernel adds 1, so

    $$M_i = \log \frac{1 + s_i}{n} - \log \frac{s_i}{n - 1} = \log \frac{n - 1}{n} + \log(1 + 1 / s_i) .$$

    Args:
        x: (n, d) or (n,), finite, n at least 2.
        bandwidth: h, standard deviation of the kernel in every coordinate, above 0.

    Returns:
        M, float64 (n,), in nats; finite for any outlier whose squared distance (in bandwidths) is
        a float, inf beyond that.

    Raises:
        ValueError: if `x` or `bandwidth` is not as above.

    Source: paper, equation (3), for this density.
    """
    x, bandwidth = _observations(x, at_least=2), _positive("bandwidth", bandwidth)
    scaled = x / (np.sqrt(2) * bandwidth)
    log_s = np.empty(len(x))
    for start in range(0, len(x), 1024):  # (1024, n) distances at a time
        log_kernel = -cdist(scaled[start : start + 1024], scaled, "sqeuclidean")
        rows = np.arange(len(log_kernel))
        log_kernel[rows, start + rows] = -np.inf
        log_s[start : start + 1024] = logsumexp(log_kernel, axis=1)
    return np.log1p(-1 / len(x)) + np.logaddexp(0, -log_s)


def gaussian_fold_scores(
    x: ArrayLike, folds: int, covariance: ArrayLike, seed_variance: float
) -> tuple[Floats, Floats, Floats]:
    r"""Score every observation under a Gaussian whose mean is fitted to all but one fold, with seeds.

    A model of a training set T is $N(\bar x_T + \tau \xi, \Sigma)$, with $\xi \sim N(0, I)$ what its seed
    brings. Given T, the probability averaged over seeds is $N(x; \bar x_T, \Sigma + \tau^2 I)$. Over random
    folds $\bar x_T$ is the mean of a sample without replacement, whose mean and covariance are known. Taken
    as normal, which sums of many are, it gives $N(x; E \bar x_T, \Sigma + \tau^2 I + \mathrm{Cov} \bar x_T)$.

    Args:
        x: (n, d), finite, n a multiple of `folds`, at least 3.
        folds: K >= 2.
        covariance: Sigma, (d, d), positive definite.
        seed_variance: tau^2, 0 or more.

    Returns:
        U, V and M = U - V, each float64 (n,), in nats: what the estimates approach with many repeats.

    Raises:
        ValueError: if an argument is not as above.

    Source: paper, equations (1) to (3), for this density; Cochran (1977), section 2.5, for the covariance.
    """
    x, covariance = _observations(x, at_least=3), np.asarray(covariance, dtype=np.float64)
    n, d = x.shape
    if folds < 2 or n % folds:
        raise ValueError(f"folds is {folds}; allowed: 2 or more, a divisor of the {n} observations")
    if covariance.shape != (d, d) or not seed_variance >= 0:
        raise ValueError(
            f"covariance has shape {covariance.shape} and seed_variance is {seed_variance}; allowed: "
            f"({d}, {d}), and 0 or more"
        )
    if not np.allclose(covariance, covariance.T) or np.linalg.eigvalsh(covariance).min() <= 0:
        raise ValueError("covariance is not symmetric and positive definite")
    size, scores = n - n // folds, []
    for seen in (1, 0):  # whether the observation itself is in T, next to `drawn` of the n - 1 others
        drawn = size - seen
        log_p = np.empty(n)
        for i in range(n):
            others = np.delete(x, i, axis=0)
            mean = (seen * x[i] + drawn * others.mean(axis=0)) / size
            spread = np.atleast_2d(np.cov(others, rowvar=False)) * (1 - drawn / (n - 1)) * drawn / size**2
            total = covariance + seed_variance * np.eye(d) + spread
            log_p[i] = multivariate_normal.logpdf(x[i], mean, total)
        scores.append(log_p)
    U, V = scores
    return U, V, U - V


def fit_gaussian(x: ArrayLike, variance: float) -> LogDensity:
    """Fit the mean of a Gaussian of known variance by maximum likelihood.

    Args:
        x: (n, d) or (n,), finite, n at least 1.
        variance: of every coordinate, above 0.

    Returns:
        A function from points (m, d), or (m,) where d is 1, to their log density (m,) in nats.

    Raises:
        ValueError: if `x` or `variance` is not as above, or later if the points have another d.
    """
    x, variance = _observations(x), _positive("variance", variance)
    mean, d = x.mean(axis=0), x.shape[1]

    def log_density(points: ArrayLike) -> Floats:
        squares = ((_observations(points, d=d) - mean) ** 2).sum(axis=1)
        return -0.5 * (d * np.log(2 * np.pi * variance) + squares / variance)

    return log_density


def fit_kernel(x: ArrayLike, bandwidth: float) -> LogDensity:
    """Build a Gaussian kernel density estimate.

    Args:
        x: (n, d) or (n,), finite, n at least 1.
        bandwidth: standard deviation of the kernel in every coordinate, above 0.

    Returns:
        A function from points (m, d), or (m,) where d is 1, to their log density (m,) in nats.

    Raises:
        ValueError: if `x` or `bandwidth` is not as above, or later if the points have another d.
    """
    x, bandwidth = _observations(x), _positive("bandwidth", bandwidth)
    scale, (n, d) = np.sqrt(2) * bandwidth, x.shape
    log_norm = np.log(n) + d * np.log(np.sqrt(2 * np.pi) * bandwidth)

    def log_density(points: ArrayLike) -> Floats:
        points = _observations(points, d=d) / scale
        parts = [points[i : i + 1024] for i in range(0, len(points), 1024)]  # (1024, n) distances at a time
        return np.concatenate(
            [logsumexp(-cdist(p, x / scale, "sqeuclidean"), axis=1) - log_norm for p in parts]
        )

    return log_density


def kfold_log_px(fit: Callable[[Floats], LogDensity], x: ArrayLike, fold_of: ArrayLike) -> Floats:
    """Fit one density per repeat and fold, without the fold, and evaluate it at all observations.

    Args:
        fit: takes observations (m, d), returns their log density as `fit_gaussian` and `fit_kernel` do.
        x: (n, d) or (n,), finite.
        fold_of: int (L, n), the fold 0..K-1 of every observation in every repeat; K at least 2 and no
            fold empty.

    Returns:
        log p, float64 (L, K, n) = (repeat, fold, observation), in nats.

    Raises:
        ValueError: if `x` or `fold_of` is not as above.

    Source: paper, section 3.2 (the K-fold estimate of the score).
    """
    x, fold_of = _observations(x), np.asarray(fold_of)
    if fold_of.ndim != 2 or fold_of.shape[1] != len(x) or fold_of.dtype.kind not in "iu":
        raise ValueError(
            f"fold_of must be int (repeats, {len(x)}), one column per observation, "
            f"got {fold_of.dtype} {fold_of.shape}"
        )
    folds = np.unique(fold_of)
    if len(folds) < 2 or any(not np.array_equal(np.unique(row), np.arange(len(folds))) for row in fold_of):
        raise ValueError(f"fold_of must use every fold 0..K-1 in every repeat, K >= 2, got folds {folds}")
    log_px = [[fit(x[row != fold])(x) for fold in folds] for row in fold_of]
    return np.array(log_px).reshape(len(fold_of), len(folds), len(x))


class LinearGaussian(nn.Module):
    r"""Factor analysis with equal noise: a VAE with a linear decoder, whose log p(x) and posterior are known.

    $$x = W z + b + \epsilon, \quad z \sim N(0, I_Z), \quad \epsilon \sim N(0, \sigma^2 I_D)$$

    `encode` and `decode` follow the scoring code: a leading model axis E (here 1), observations flat.
    Everything is computed in float64.

    Args:
        weight: W, (D, Z).
        bias: b, (D,).
        sigma2: noise variance, above 0.
        inflation: at least 1; what `encode` multiplies the posterior variances with. At Z / 2 or more the
            importance weights have finite variance for any W; below, a diagonal proposal can be too narrow
            where the posterior's axes are correlated.

    Raises:
        ValueError: if a shape or a value is not as above.
    """

    likelihood = LogitGaussian()  # its density of y; here y is the observation itself

    def __init__(self, weight: Tensor, bias: Tensor, sigma2: float, inflation: float = 1.0) -> None:
        super().__init__()
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(
                f"weight must be (D, Z) and bias (D,), got {tuple(weight.shape)}, {tuple(bias.shape)}"
            )
        if not 1 <= inflation < float("inf"):
            raise ValueError(f"inflation must be finite and at least 1, got {inflation}")
        self.sigma2, self.inflation = _positive("sigma2", sigma2), float(inflation)
        self.register_buffer("weight", weight.detach().double())
        self.register_buffer("bias", bias.detach().double())

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""Compute p(z | y), a Gaussian, through a Z x Z system.

        $$N(z; (W^T W + \sigma^2 I)^{-1} W^T (y - b), \; \sigma^2 (W^T W + \sigma^2 I)^{-1})$$

        Args:
            y: (..., D).

        Returns:
            The mean (..., Z) and the covariance (Z, Z), the same for every y.
        """
        factor = torch.linalg.cholesky(self._precision())
        projected = (y.double() - self.bias) @ self.weight  # (..., D) -> (..., Z)
        mean = torch.cholesky_solve(projected.unsqueeze(-1), factor).squeeze(-1)
        return mean, self.sigma2 * torch.cholesky_inverse(factor)

    def log_px(self, y: Tensor) -> Tensor:
        r"""Compute log N(y; b, W W^T + sigma^2 I) exactly, with the posterior mean m of z.

        $$-\tfrac12 \left[ D \log 2\pi + (D - Z) \log \sigma^2 + \log |W^T W + \sigma^2 I|
          + \|y - b - W m\|^2 / \sigma^2 + \|m\|^2 \right]$$

        A sum of squares, where the usual form of Woodbury's identity subtracts two large numbers.

        Args:
            y: (..., D).

        Returns:
            log p(y), (...), float64, in nats.
        """
        (dim, latent_dim), (mean, _) = self.weight.shape, self.posterior(y)
        log_det = (dim - latent_dim) * np.log(self.sigma2) + torch.logdet(self._precision())
        residual = y.double() - self.bias - mean @ self.weight.T
        square = residual.square().sum(-1) / self.sigma2 + mean.square().sum(-1)
        return -0.5 * (dim * np.log(2 * np.pi) + log_det + square)

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Propose a diagonal Gaussian: the posterior mean, and the posterior variances times `inflation`.

        Args:
            y: (E, B, D).

        Returns:
            mu and log_var, each (E, B, Z).
        """
        mean, covariance = self.posterior(y)
        return mean, (self.inflation * covariance.diagonal()).log().expand_as(mean)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Give the Gaussian p(y | z).

        Args:
            z: (E, N, Z).

        Returns:
            The mean (E, N, D) and the log-variance (E, N, 1), the same everywhere.
        """
        mean = z.double() @ self.weight.T + self.bias
        return mean, torch.full_like(mean[..., :1], math.log(self.sigma2))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n observations, (n, D) float64.

        Args:
            n: at least 0.
            generator: on the module's device.
        """
        dim, latent_dim = self.weight.shape
        options = {"generator": generator, "dtype": torch.float64, "device": self.weight.device}
        z, noise = torch.randn(n, latent_dim, **options), torch.randn(n, dim, **options)
        return z @ self.weight.T + self.bias + self.sigma2**0.5 * noise

    def _precision(self) -> Tensor:
        """sigma^2 times the posterior precision: W^T W + sigma^2 I, (Z, Z)."""
        gram = self.weight.T @ self.weight
        return gram + self.sigma2 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)


def _observations(x: ArrayLike, at_least: int = 1, d: int | None = None) -> Floats:
    x = np.asarray(x, dtype=np.float64)
    x = x[:, None] if x.ndim == 1 else x
    if x.ndim != 2 or len(x) < at_least or d not in (None, x.shape[-1]) or not np.isfinite(x).all():
        raise ValueError(
            f"observations must be finite, of shape (n, {'d' if d is None else d}), n at least {at_least}, "
            f"got shape {x.shape}"
        )
    return x


def _positive(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be finite and above 0, got {value}")
    return float(value)
