"""Frechet distance of two sets of features: FID, when the features are those of Inception."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from memlib.checks import Floats
from memlib.metrics.neighbors import feature_matrices

EPS64 = float(np.finfo(np.float64).eps)
LAST_PLACES = 8  # by which features of one image differ that a network gives in batches of other sizes


class Moments(NamedTuple):
    """Mean (d,) and covariance of n features, the latter as `root.T @ root` with an upper triangle (d, d).

    `precision` is the relative distance of the features' floating-point numbers, 2^-23 of float32.
    """

    mean: Floats
    root: Floats
    n: int
    precision: float = EPS64


def moments(features: ArrayLike, name: str = "features") -> Moments:
    r"""Mean and covariance in float64, without forming the covariance.

    The root comes from a QR decomposition of the centered features, block by block, so that no digits are
    lost to squaring:  $\Sigma = R^\top R,\ QR = (X - \bar x) / \sqrt{n - 1}$.

    Args:
        features: (n, d), finite, n > d.
        name: of the features in errors.

    Raises:
        ValueError: another shape, values that are not finite, or n <= d: then the covariance is singular
            whatever the distribution, and the distance says more about n than about the features.

    >>> moments([[0.0], [2.0], [4.0]]).root ** 2
    array([[4.]])
    """
    [features] = feature_matrices(**{name: features})
    n, d = features.shape
    if n <= d:
        raise ValueError(f"{name}: {n} images have {d} features each; allowed: more images than features")
    mean = features.mean(axis=0, dtype=np.float64)
    root = np.empty((0, d))
    for start in range(0, n, size := max(4 * d, 1024)):
        part = features[start : start + size]
        root = linalg.qr(np.vstack([root, part - mean]), mode="r", overwrite_a=True, check_finite=False)[0]
        root = root[:d]  # rows below are zero
    return Moments(mean, root / np.sqrt(n - 1), n, float(np.finfo(features.dtype).eps))


def frechet_distance(generated: ArrayLike | Moments, training: ArrayLike | Moments) -> float:
    r"""Squared Frechet distance of two Gaussians with the moments of the features: FID, for Inception's.

    $$\|\mu_g - \mu_r\|^2 + \operatorname{tr}(\Sigma_g + \Sigma_r - 2 (\Sigma_g \Sigma_r)^{1/2})$$

    The trace of the matrix root is the sum of the singular values of $R_g R_r^\top$, with roots as in
    `moments`: no complex numbers, and exactly symmetric up to rounding.

    Args:
        generated, training: features (n, d), or their `moments`, which need not be computed anew for every
            generator.

    Returns:
        At least 0, in the squared unit of the features.

    Raises:
        ValueError: as `moments`, or another number of features in each.

    Source: Heusel et al. (2017); Dowson & Landau (1982).

    >>> x = np.array([[-1.0], [1.0], [0.0]])
    >>> round(frechet_distance(2 * x + 3, x), 9)  # means 3 apart, standard deviations 2 and 1
    10.0
    """
    both = {"generated": generated, "training": training}
    g, r = (m if isinstance(m, Moments) else moments(m, name) for name, m in both.items())
    if g.mean.shape != r.mean.shape:
        raise ValueError(f"generated have {len(g.mean)} features, training {len(r.mean)}; allowed: as many")
    overlap = linalg.svdvals(g.root @ r.root.T).sum()
    spread = (g.root**2).sum() + (r.root**2).sum() - 2 * overlap
    return float(((g.mean - r.mean) ** 2).sum() + max(spread, 0.0))


def rounding_error(generated: Moments, training: Moments) -> float:
    r"""A squared Frechet distance below which two sets cannot be told from equal ones.

    $$4 d \epsilon\, t + \|n_g \epsilon\, \mu_g\|^2 + \|n_r \epsilon\, \mu_r\|^2 + (8 \epsilon_x)^2 s$$

    with $\epsilon = 2^{-52}$ of the arithmetic, whatever the features, and $\epsilon_x$ of the features,
    $2^{-23}$ of float32. In turn: traces that cancel, with $t = \operatorname{tr}(\Sigma_g + \Sigma_r)$ and d
    singular values; sums of n features; and features of the same images that differ in their last places, as
    a network gives them in batches of other sizes, with s the sum of both sets' mean squares.

    Returns:
        In the squared unit of the features. An estimate from above: errors are mostly ten times smaller.
    """
    both = generated, training
    traces, squares = (
        sum((x**2).sum() for x in each) for each in ([m.root for m in both], [m.mean for m in both])
    )
    sums = sum(((m.n * EPS64 * m.mean) ** 2).sum() for m in both)
    precision = max(m.precision for m in both)
    cancelled = 4 * len(training.mean) * EPS64 * traces
    return float(cancelled + sums + (LAST_PLACES * precision) ** 2 * (traces + squares))
