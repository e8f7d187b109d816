"""Frechet distance of two sets of features: FID, when the features are those of Inception."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from memlib.checks import Floats
from memlib.metrics.neighbors import feature_matrices


class Moments(NamedTuple):
    """Mean (d,) and covariance of n features, the latter as `root.T @ root` with an upper triangle (d, d)."""

    mean: Floats
    root: Floats
    n: int


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
    return Moments(mean, root / np.sqrt(n - 1), n)


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
