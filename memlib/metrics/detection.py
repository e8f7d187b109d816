"""How well a score tells what is to be found from the rest: the area under its ROC curve."""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from memlib.checks import as_array, check_share


def auc(
    score: NDArray[np.floating],
    positive: NDArray[np.bool_],
    level: float = 0.95,
    original: NDArray[np.integer] | None = None,
) -> tuple[float, float, float]:
    r"""Area under the ROC curve with its confidence interval.

    The probability A that a positive has a higher score than a negative, ties counted half. The interval
    holds all areas $\theta$ from which A is no farther than their standard error allows,
    $|A - \theta| \le z \sqrt{V(\theta)}$, with m positive and n negative originals, and

    $$V(\theta) = \frac{\theta (1 - \theta)}{m n} \left[1 + N \left(\frac{1 - \theta}{2 - \theta}
      + \frac{\theta}{1 + \theta}\right)\right], \quad N = \frac{m + n}{2} - 1 ,$$

    so that it has a length where the two kinds are wholly apart, too.

    Args:
        score: (n,), high for what is to be found; infinities are allowed, NaN are not.
        positive: (n,), what is to be found; at least one, and not all.
        level: of the interval, between 0 and 1.
        original: (n,), as in `Planted`: m and n are then Kish's effective numbers of originals, those of
            images that move together wherever their original does. By default every image is a case.

    Returns:
        The area, and the ends of its interval.

    Raises:
        ValueError: shapes that differ, NaN, one kind only, or another level.

    Source: Newcombe (2006), method 5; Hanley & McNeil (1982) for the variance; Kish (1965).
    """
    score, positive = as_array("score", score, np.float64), as_array("positive", positive)
    if score.ndim != 1 or positive.shape != score.shape or positive.dtype != bool:
        raise ValueError(
            f"score is {score.shape} and positive {positive.dtype} {positive.shape}; allowed: (n,), bool (n,)"
        )
    if np.isnan(score).any():
        raise ValueError(f"score is NaN {np.isnan(score).sum()} times; allowed: numbers that have an order")
    if not 0 < positive.sum() < len(positive):
        raise ValueError(f"{positive.sum()} of {len(positive)} are positive; allowed: some, and not all")
    check_share(level=level)
    m, n = int(positive.sum()), int((~positive).sum())
    pairs = stats.mannwhitneyu(score[positive], score[~positive], method="asymptotic")
    area = float(pairs.statistic / (m * n))
    if original is not None:
        original = as_array("original", original)
        if original.shape != score.shape:
            raise ValueError(f"original is {original.shape}; allowed: as score, {score.shape}")
        m, n = _cases(original[positive]), _cases(original[~positive])
    z, more = stats.norm.ppf((1 + level) / 2), (m + n) / 2 - 1

    def excess(theta: float) -> float:
        terms = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return (area - theta) ** 2 - z**2 * theta * (1 - theta) * (1 + more * terms) / (m * n)

    # at 0 and at 1 theta = area is a root, too, and not the one sought
    low = 0.0 if area == 0 else optimize.brentq(excess, 0, min(area, 1 - 1e-12))
    high = 1.0 if area == 1 else optimize.brentq(excess, max(area, 1e-12), 1)
    return area, low, high


def _cases(original: NDArray[np.integer]) -> float:
    """How many independent cases images are that only their originals tell apart."""
    counts = np.unique(original, return_counts=True)[1]
    return counts.sum() ** 2 / (counts**2).sum()
