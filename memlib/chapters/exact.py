"""Closed forms that estimates are held to: of the score (chapter 15), of log p(x) (chapters 03 and 15)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.stats import multivariate_normal
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from memlib.checks import Floats, as_array, check_range
from memlib.models import LogitGaussian


class FoldScores(NamedTuple):
    """What estimates of the scores approach with many repeats, each float64 (n,), in nats."""

    U: Floats
    V: Floats
    gap: Floats
    M: Floats


def gaussian_fold_scores(x: ArrayLike, folds: int, covariance: ArrayLike, seed_variance: float) -> FoldScores:
    r"""Score every observation under a Gaussian whose mean is fitted to all but one fold, with seeds.

    A model of a training set T is $N(\bar x_T + \tau \xi, \Sigma)$, with $\xi \sim N(0, I)$ what its seed
    brings. Given T, the probability averaged over seeds is $N(x; \bar x_T, \Sigma + \tau^2 I)$. Over random
    folds $\bar x_T$ is the mean of a sample without replacement, whose mean and covariance are known. Taken
    as normal, which sums of many are, it gives $N(x; E \bar x_T, \Sigma + C)$ with
    $C = \tau^2 I + \mathrm{Cov} \bar x_T$, and so U and V. The gap needs only the moments: the mean of log p
    is $\log N(x; E \bar x_T, \Sigma) - \frac{1}{2} \mathrm{tr} \, \Sigma^{-1} C$.

    Args:
        x: (n, d), finite, n a multiple of `folds`, at least 3.
        folds: K >= 2.
        covariance: Sigma, (d, d), positive definite.
        seed_variance: tau^2, 0 or more.

    Raises:
        ValueError: if an argument is not as above.

    Source: paper, equations (1) to (3), for this density; Cochran (1977), section 2.5, for the covariance.
    """
    x, covariance = as_array("x", x, np.float64), as_array("covariance", covariance, np.float64)
    if x.ndim != 2 or len(x) < 3 or not np.isfinite(x).all():
        raise ValueError(f"observations must be finite, of shape (n, d), n at least 3, got shape {x.shape}")
    n, d = x.shape
    if folds < 2 or n % folds:
        raise ValueError(f"folds is {folds}; allowed: 2 or more, a divisor of the {n} observations")
    check_range(0, seed_variance=seed_variance)
    square = covariance.shape == (d, d) and np.allclose(covariance, covariance.T)
    if not square or np.linalg.eigvalsh(covariance).min() <= 0:
        raise ValueError(f"covariance is {covariance}; allowed: ({d}, {d}), symmetric and positive definite")
    size = n - n // folds

    def log_p(i: int, seen: int) -> tuple[float, float]:
        """Logarithm of the mean of p(x_i), and mean of its logarithm, where x_i is in T (1) or not (0).

        The rest of T is drawn from the n - 1 others.
        """
        others, drawn = np.delete(x, i, axis=0), size - seen
        mean = (seen * x[i] + drawn * others.mean(axis=0)) / size
        spread = np.cov(others, rowvar=False).reshape(d, d) * (1 - drawn / (n - 1)) * drawn / size**2
        spread += seed_variance * np.eye(d)
        log_mean = multivariate_normal.logpdf(x[i], mean, covariance + spread)
        lost = np.trace(np.linalg.solve(covariance, spread)) / 2
        return log_mean, multivariate_normal.logpdf(x[i], mean, covariance) - lost

    (U, seen), (V, left) = (np.array([log_p(i, s) for i in range(n)]).T for s in (1, 0))
    return FoldScores(U, V, seen - left, U - V)


class LinearGaussian(nn.Module):
    r"""Factor analysis with equal noise: a VAE with a linear decoder, whose log p(x) and posterior are known.

    $$x = W z + b + \epsilon, \quad z \sim N(0, I_Z), \quad \epsilon \sim N(0, \sigma^2 I_D)$$

    `encode` and `decode` follow the scoring code: a leading model axis E (here 1). All is float64.

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
            shapes = tuple(weight.shape), tuple(bias.shape)
            raise ValueError(f"weight and bias are {shapes}; allowed: (D, Z) and (D,)")
        if not (0 < sigma2 < math.inf and 1 <= inflation < math.inf):
            raise ValueError(f"sigma2 is {sigma2}, inflation {inflation}; allowed: above 0, and at least 1")
        self.sigma2, self.inflation = float(sigma2), float(inflation)
        self.register_buffer("weight", weight.detach().double())
        self.register_buffer("bias", bias.detach().double())

    def posterior(self, y: Tensor) -> tuple[Tensor, Tensor]:
        r"""Compute p(z | y), a Gaussian: y (..., D) -> its mean (..., Z) and its covariance (Z, Z), of all y.

        $$N(z; (W^T W + \sigma^2 I)^{-1} W^T (y - b), \; \sigma^2 (W^T W + \sigma^2 I)^{-1})$$
        """
        gram = self.weight.T @ self.weight
        inverse = torch.linalg.inv(gram + self.sigma2 * torch.eye(len(gram)).to(gram))
        return (y.double() - self.bias) @ self.weight @ inverse, self.sigma2 * inverse

    def log_px(self, y: Tensor) -> Tensor:
        """Compute log N(y; b, W W^T + sigma^2 I), in nats: (..., D) -> (...), float64."""
        noise = self.sigma2 * torch.eye(len(self.bias)).to(self.weight)
        return MultivariateNormal(self.bias, self.weight @ self.weight.T + noise).log_prob(y.double())

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Propose the posterior, its variances inflated: (E, B, D) -> mean and log-variance (E, B, Z)."""
        mean, covariance = self.posterior(y)
        return mean, (self.inflation * covariance.diagonal()).log().expand_as(mean)

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Give p(y | z): (E, N, Z) -> its mean (E, N, D) and log-variance (E, N, 1), the same everywhere."""
        mean = z.double() @ self.weight.T + self.bias
        return mean, torch.full_like(mean[..., :1], math.log(self.sigma2))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n observations, (n, D) float64, with a generator on the module's device."""
        dim, latent_dim = self.weight.shape
        options = {"generator": generator, "dtype": torch.float64, "device": self.weight.device}
        z, noise = torch.randn(n, latent_dim, **options), torch.randn(n, dim, **options)
        return z @ self.weight.T + self.bias + self.sigma2**0.5 * noise
