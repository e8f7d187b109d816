"""MiFID: how far generated images are from training images in distribution, and how close they copy them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Interval = tuple[float, float]

# eps in the competition, by the features it was chosen for; it has no meaning for others
EPS = {"inception": 0.1, "nasnet": 0.25}
DELTA = 1e-15


class Moments(NamedTuple):
    """Mean (d,) and covariance of n features, the latter as `root.T @ root` with an upper triangle (d, d)."""

    mean: Floats
    root: Floats
    n: int


class Nearest(NamedTuple):
    """The nearest training feature of every generated one, in cosine distance.

    Attributes:
        d: mean of `distances`, between 0 and 1.
        distances: of the generated features that are not zero, (m,).
        rows: which generated features these are, (m,).
        neighbors: the row of each one's nearest training feature, (m,).
        dropped: how many generated and how many training features are zero and have no direction.
    """

    d: float
    distances: Floats
    rows: Ints
    neighbors: Ints
    dropped: tuple[int, int]


@dataclass(frozen=True, eq=False)
class MiFID:
    """A score and what it is made of; intervals are NaN where no replicates were asked for.

    Attributes:
        mifid: fid / (d_thr + delta).
        fid: squared Frechet distance, at least 0.
        d: memorization distance, between 0 and 1.
        d_thr: d below eps, else 1.
        eps, delta: as asked for.
        held_out_d: d of held-out images, the yardstick of eps; NaN where none were given.
        nearest: the nearest training feature of every generated one.
        mifid_interval, fid_interval, d_interval: over other samples of the same generator.
        fid_bias: by how much a sample of this size is expected to raise fid; not taken off.
        penalized: share of the replicates with d below eps.
    """

    mifid: float
    fid: float
    d: float
    d_thr: float
    eps: float
    delta: float
    held_out_d: float
    nearest: Nearest
    mifid_interval: Interval
    fid_interval: Interval
    d_interval: Interval
    fid_bias: float
    penalized: float

    def offenders(self, most: int = 10) -> pd.DataFrame:
        """The closest pairs, ascending: rows of both features, `generated` and `training`, and `distance`."""
        if most < 1:
            raise ValueError(f"most is {most}; allowed: 1 or more")
        near = self.nearest
        order = np.argsort(near.distances, kind="stable")[:most]
        pairs = {"generated": near.rows[order], "training": near.neighbors[order]}
        return pd.DataFrame(pairs | {"distance": near.distances[order]})


def moments(features: ArrayLike) -> Moments:
    r"""Mean and covariance in float64, without forming the covariance.

    The root comes from a QR decomposition of the centered features, block by block, so that no digits are
    lost to squaring:  $\Sigma = R^\top R,\ QR = (X - \bar x) / \sqrt{n - 1}$.

    Args:
        features: (n, d), finite, n > d.

    Raises:
        ValueError: another shape, values that are not finite, or n <= d: then the covariance is singular
            whatever the distribution, and the distance says more about n than about the features.

    >>> moments([[0.0], [2.0], [4.0]]).root ** 2
    array([[4.]])
    """
    features = _features("features", features)
    n, d = features.shape
    if n <= d:
        raise ValueError(f"{n} images have {d} features each; allowed: more images than features")
    mean = features.mean(axis=0, dtype=np.float64)
    root = np.empty((0, d))
    for part in _blocks(features, max(4 * d, 1024)):
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
    g, r = (m if isinstance(m, Moments) else moments(m) for m in (generated, training))
    if g.mean.shape != r.mean.shape:
        raise ValueError(f"generated have {len(g.mean)} features, training {len(r.mean)}; allowed: as many")
    overlap = linalg.svdvals(g.root @ r.root.T).sum()
    spread = (g.root**2).sum() + (r.root**2).sum() - 2 * overlap
    return float(((g.mean - r.mean) ** 2).sum() + max(spread, 0.0))


def memorization_distance(generated: ArrayLike, training: ArrayLike, chunk: int = 4096) -> Nearest:
    r"""How close generated features come to training features, on average.

    $$d = \frac{1}{m} \sum_g \min_r \left(1 - |\cos(g, r)|\right)$$

    The mean is over the *generated* features: a generator that repeats few copies has d = 0. (Averaged over
    the training features, as torchmetrics 1.9 does, it would go unpunished.) Zero features are dropped and
    counted. The search multiplies in the precision of the features; the distance to the neighbor it finds is
    measured in float64 from the difference of the unit vectors, so that a copy has distance 0.

    Args:
        generated: (m, d), finite; float32 halves time and memory and finds neighbors whose cosine is the
            largest up to rounding.
        training: (n, d), finite.
        chunk: rows of either handled at once, at least 1; memory beside the input is about
            16 chunk (chunk + 3 d) bytes, for float32 8 chunk (chunk + 5 d).

    Raises:
        ValueError: another shape, values that are not finite, or nothing but zero features in one of the two.

    Source: Bai et al. (2021), the memorization distance.

    >>> memorization_distance([[2.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 1.0]]).d
    0.0
    """
    generated, training = _features("generated", generated), _features("training", training)
    if generated.shape[1] != training.shape[1]:
        raise ValueError(
            f"generated have {generated.shape[1]} features, training {training.shape[1]}; allowed: as many"
        )
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; allowed: 1 or more")
    rows, columns = (np.flatnonzero(f.any(axis=1)) for f in (generated, training))
    for name, kept in (("generated", rows), ("training", columns)):
        if not len(kept):
            raise ValueError(f"all {name} features are zero; allowed: some that have a direction")
    precision = np.result_type(generated, training)
    largest, length = (v.astype(training.dtype) for v in _scale(training, columns, chunk))
    distances, neighbors = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
    for start in range(0, len(rows), chunk):
        unit = _unit(generated[rows[start : start + chunk]])
        g = unit.astype(precision)
        best, found = np.full(len(g), -1.0), np.zeros(len(g), dtype=np.int64)
        for offset in range(0, len(columns), chunk):
            part = slice(offset, offset + chunk)
            # overflow of the squares is avoided in two steps, without a float64 copy of the block
            other = training[columns[part]] / largest[part, None]
            other /= length[part, None]
            cosine = g @ other.astype(precision, copy=False).T
            np.abs(cosine, out=cosine)
            which = cosine.argmax(axis=1)
            closest = cosine[np.arange(len(g)), which]
            better = closest > best
            best[better], found[better] = closest[better], which[better] + offset
        neighbors[start : start + chunk] = columns[found]
        other = _unit(training[columns[found]])
        # 1 - |cos| of unit vectors, without the loss of digits where they are close
        opposite = np.einsum("ij,ij->i", unit, other) < 0
        other[opposite] *= -1
        unit -= other
        distances[start : start + chunk] = np.einsum("ij,ij->i", unit, unit) / 2
    dropped = len(generated) - len(rows), len(training) - len(columns)
    return Nearest(float(distances.mean()), distances, rows, neighbors, dropped)


def penalized_fid(fid: ArrayLike, d: ArrayLike, eps: float, delta: float = DELTA) -> Floats:
    """FID / (d_thr + delta), where d_thr is d below eps and 1 elsewhere.

    Args:
        fid, d: numbers, or arrays of one shape; NaN stay NaN.
        eps: above 0, at most 1; see `EPS`.
        delta: above 0.

    Source: Bai et al. (2021), the definition of MiFID; their code for delta.

    >>> penalized_fid([10, 10], [0.05, 0.1], eps=0.1).round(6)
    array([200.,  10.])
    """
    if not 0 < eps <= 1 or not delta > 0:
        raise ValueError(f"eps is {eps}, delta {delta}; allowed: eps above 0 and at most 1, delta above 0")
    fid, d = np.asarray(fid, dtype=np.float64), np.asarray(d, dtype=np.float64)
    return np.where(np.isnan(d), np.nan, fid / (np.where(d < eps, d, 1.0) + delta))


def mifid(
    generated: ArrayLike,
    training: ArrayLike,
    *,
    eps: float,
    delta: float = DELTA,
    held_out: ArrayLike | None = None,
    replicates: int = 100,
    level: float = 0.95,
    seed: int = 0,
) -> MiFID:
    r"""Memorization-informed FID of generated images, with bootstrap intervals.

    The intervals say how much the scores would differ for other samples of the same generator, of the same
    number; the training features are what the score is about and stay fixed. They are basic bootstrap
    intervals, $[2 \hat\theta - \theta^*_{high}, 2 \hat\theta - \theta^*_{low}]$: a finite sample raises FID,
    a sample of the sample raises it again, and percentiles of the latter need not even hold the estimate.

    Args:
        generated: features (m, d), m > d.
        training: features (n, d), n > d.
        eps: below this d is a penalty; 0.1 for Inception's pool_3, 0.25 for NASNet. For other features
            choose it by d of held-out images.
        delta: above 0, what keeps the score finite at d = 0.
        held_out: features of images that no generator saw, for `held_out_d`.
        replicates: of the bootstrap, 0 for none, else at least 20; m d^2 operations each, seconds at
            50000 x 2048.
        level: of the intervals, between 0 and 1.
        seed: of the bootstrap, 0 or more.

    Raises:
        ValueError: as `moments`, `memorization_distance` and `penalized_fid`, or another value of an argument
            than allowed.

    Source: Bai et al. (2021); Davison & Hinkley (1997) for the interval.
    """
    if not (replicates == 0 or replicates >= 20):
        raise ValueError(f"replicates is {replicates}; allowed: 0 for none, or 20 or more")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; allowed: between 0 and 1")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed: 0 or more")
    penalized_fid(0, 0, eps, delta)  # refuses what is not allowed before anything is computed
    generated, training = _features("generated", generated), _features("training", training)
    if held_out is not None:
        held_out = _features("held_out", held_out)
        if held_out.shape[1] != training.shape[1]:
            raise ValueError(
                f"held_out have {held_out.shape[1]} features, training {training.shape[1]}; allowed: as many"
            )
    reference = moments(training)
    fid = frechet_distance(generated, reference)
    nearest = memorization_distance(generated, training)
    held_out_d = np.nan if held_out is None else memorization_distance(held_out, training).d
    score = float(penalized_fid(fid, nearest.d, eps, delta))
    parts = np.array(list(_resampled(generated, reference, nearest, replicates, seed))).reshape(-1, 2).T
    # reflected at the estimate, within the ranges of both
    reflected = 2 * np.array([[fid], [nearest.d]]) - parts
    fids, ds = np.maximum(reflected[0], 0), reflected[1].clip(0, 1)

    def ends(values: Floats) -> Interval:
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2]) if replicates else [np.nan] * 2
        return float(low), float(high)

    return MiFID(
        mifid=score,
        fid=fid,
        d=nearest.d,
        d_thr=nearest.d if nearest.d < eps else 1.0,
        eps=eps,
        delta=delta,
        held_out_d=float(held_out_d),
        nearest=nearest,
        mifid_interval=ends(penalized_fid(fids, ds, eps, delta)),
        fid_interval=ends(fids),
        d_interval=ends(ds),
        fid_bias=float(parts[0].mean() - fid) if replicates else np.nan,
        penalized=float((ds < eps).mean()) if replicates else np.nan,
    )


def _resampled(
    generated: NDArray, reference: Moments, nearest: Nearest, replicates: int, seed: int
) -> Iterator[tuple[float, float]]:
    """FID and d of samples of the generated features, drawn with replacement."""
    n, d = generated.shape
    rng = np.random.default_rng(seed)
    center, size = generated.mean(axis=0, dtype=np.float64), max(4 * d, 1024)
    for _ in range(replicates):
        counts = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        mean, cross, trace = np.zeros(d), np.zeros((d, d)), 0.0
        for start in range(0, n, size):
            weights = counts[start : start + size]
            x = (generated[start : start + size] - center)[weights > 0]
            weights = weights[weights > 0]
            mean += weights @ x / n
            scaled = np.sqrt(weights)[:, None] * x
            trace += (scaled**2).sum()
            scaled = scaled @ reference.root.T
            cross += scaled.T @ scaled
        shift = reference.root @ mean
        cross = (cross - n * np.outer(shift, shift)) / (n - 1)  # root Sigma_g root^T
        trace = (trace - n * (mean**2).sum()) / (n - 1)
        overlap = np.sqrt(linalg.eigvalsh(cross, check_finite=False).clip(0)).sum()
        spread = max(trace + (reference.root**2).sum() - 2 * overlap, 0.0)
        kept = counts[nearest.rows]
        # a replicate of dropped features alone has no distance of its own
        distance = kept @ nearest.distances / kept.sum() if kept.any() else nearest.d
        yield ((center + mean - reference.mean) ** 2).sum() + spread, distance


def _features(name: str, values: ArrayLike) -> NDArray[np.floating]:
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "buif" or not values.size:
        raise ValueError(f"{name} are {values.dtype} {values.shape}; allowed: numbers of shape (n, d)")
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float64)
    # a sum shows NaN and infinities without a copy; where it is not finite by its size, the values decide
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total) and not np.isfinite(values).all():
        raise ValueError(f"{name} have values that are not finite; allowed: finite numbers")
    return values


def _blocks(features: NDArray, size: int) -> Iterator[NDArray]:
    return (features[start : start + size] for start in range(0, len(features), size))


def _scale(features: NDArray, rows: Ints, chunk: int) -> tuple[Floats, Floats]:
    """Largest absolute entry of rows, and their length after division by it, (len(rows),) each."""
    largest, length = np.empty(len(rows)), np.empty(len(rows))
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        block = features[rows[part]]
        largest[part] = np.abs(block).max(axis=1)
        block = block / largest[part, None].astype(features.dtype)
        length[part] = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
    return largest, length


def _unit(features: NDArray) -> Floats:
    """Rows of length 1 in float64; the largest entry first, so that squares neither over- nor underflow."""
    unit = features / np.abs(features).max(axis=1, keepdims=True).astype(np.float64)
    unit /= np.sqrt(np.einsum("ij,ij->i", unit, unit))[:, None]
    return unit
