"""MiFID: how far generated images are from training images in distribution, and how close they copy them."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from memlib.checks import Floats, Ints, as_array, check_range
from memlib.metrics.fid import Moments, frechet_distance, moments, rounding_error
from memlib.metrics.neighbors import batches, feature_matrices, unit_of, unit_rows

LOG = logging.getLogger("memlib")

Interval = tuple[float, float]

# eps in the competition, by the features it was chosen for; it has no meaning for others
EPS = {"inception": 0.1, "nasnet": 0.25}
DELTA = 1e-15  # keeps the score finite where d = 0
SURE = 1e-5  # float32 finds neighbors at this distance and above up to a tenth of it


class Nearest(NamedTuple):
    """The nearest training feature of every generated one, in cosine distance."""

    d: float  # mean of `distances`, between 0 and 1
    distances: Floats  # of the generated features that are not zero, (m,)
    rows: Ints  # which generated features these are, (m,)
    neighbors: Ints  # the row of each one's nearest training feature, (m,)


@dataclass(frozen=True, eq=False)
class MiFID:
    """A score and what it is made of; the intervals and the bias are NaN without replicates.

    Where `fid` is below `fid_rounding`, as that of the training images themselves is, `mifid` and its
    interval are NaN, undefined: they would be one rounding error over another.
    """

    mifid: float  # as from `penalized_fid`
    fid: float  # squared Frechet distance, at least 0
    fid_rounding: float  # its rounding error, see `memlib.metrics.fid.rounding_error`
    d: float  # memorization distance, between 0 and 1
    eps: float  # as asked for
    held_out_d: float  # d of held-out images, the yardstick of eps; NaN where none were given
    nearest: Nearest
    mifid_interval: Interval
    fid_interval: Interval
    d_interval: Interval
    fid_bias: float  # by how much a sample of this size is expected to raise fid; not taken off

    def offenders(self, most: int = 10) -> pd.DataFrame:
        """The closest pairs, ascending: rows of both features, `generated` and `training`, and `distance`."""
        check_range(1, most=most)
        near = self.nearest
        order = np.argsort(near.distances, kind="stable")[:most]
        pairs = {"generated": near.rows[order], "training": near.neighbors[order]}
        return pd.DataFrame(pairs | {"distance": near.distances[order]})


def memorization_distance(generated: ArrayLike, training: ArrayLike) -> Nearest:
    r"""How close generated features come to training features, on average.

    $$d = \frac{1}{m} \sum_g \min_r \left(1 - |\cos(g, r)|\right)$$

    The mean is over the *generated* features: a generator that repeats few copies has d = 0. (Averaged over
    the training features, as torchmetrics 1.9 does, it would go unpunished.) Zero features, without a
    direction, are left out. The search multiplies in the precision of the features, and where that leaves
    close neighbors in doubt again in float64; the distance to the neighbor it finds is measured in float64
    from the difference of the unit vectors, so that a copy has distance 0.

    Args:
        generated: (m, d), finite; float32 halves time and memory; neighbors farther than 1e-5 are then the
            nearest up to 1e-6.
        training: (n, d), finite; memory beside the input is about that of another copy.

    Raises:
        ValueError: another shape, values that are not finite, or nothing but zero features in one of the two.

    Source: Bai et al. (2021), the memorization distance.

    >>> memorization_distance([[2.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [1.0, 1.0]]).d
    0.0
    """
    both = {"generated": generated, "training": training}
    generated, training = feature_matrices(**both)
    rows, columns = (np.flatnonzero(x.any(axis=1)) for x in (generated, training))
    for name, kept in zip(both, (rows, columns), strict=True):
        if not len(kept):
            raise ValueError(f"all {name} features are zero; allowed: some that have a direction")
    precision = np.result_type(generated, training)
    distances, neighbors = _search(generated, rows, training, columns, precision)
    unsure = np.flatnonzero((distances > 0) & (distances < SURE))
    if len(unsure) and precision == np.float32:
        again = _search(generated, rows[unsure], training, columns, np.dtype(np.float64))
        distances[unsure], neighbors[unsure] = again
    return Nearest(float(distances.mean()), distances, rows, neighbors)


def _search(
    generated: NDArray, rows: Ints, training: NDArray, columns: Ints, precision: np.dtype
) -> tuple[Floats, Ints]:
    """Distance of each of the rows to the nearest of the columns, and which that is."""
    units = np.empty((len(columns), training.shape[1]), precision)
    for part in batches(*units.shape):
        units[part] = unit_rows(training[columns[part]])
    distances, neighbors = np.empty(len(rows)), np.empty(len(rows), dtype=np.int64)
    for part in batches(len(rows), max(units.shape)):
        unit = unit_rows(generated[rows[part]])
        cosine = unit.astype(precision) @ units.T
        neighbors[part] = columns[np.abs(cosine, out=cosine).argmax(axis=1)]
        other = unit_rows(training[neighbors[part]])
        # 1 - |cos| of unit vectors, without the loss of digits where they are close
        other[np.vecdot(unit, other) < 0] *= -1
        distances[part] = ((unit - other) ** 2).sum(axis=1) / 2
    return distances, neighbors


def penalized_fid(fid: ArrayLike, d: ArrayLike, eps: float, rounding: float = 0.0) -> Floats:
    """FID / (d_thr + `DELTA`), where d_thr is d below eps and 1 elsewhere; NaN where FID is below `rounding`.

    Args:
        fid, d: numbers, or arrays of one shape; NaN stay NaN.
        eps: above 0, at most 1; see `EPS`.
        rounding: error of FID, such as `memlib.metrics.fid.rounding_error`; what is below it is undefined.

    Raises:
        ValueError: another eps.

    Source: Bai et al. (2021), the definition of MiFID; their code for `DELTA`.

    >>> penalized_fid([10, 10], [0.05, 0.1], eps=0.1).round(6)
    array([200.,  10.])
    """
    if not 0 < eps <= 1:
        raise ValueError(f"eps is {eps}; allowed: above 0 and at most 1")
    fid, d = as_array("fid", fid, np.float64), as_array("d", d, np.float64)
    undefined = np.isnan(d) | (fid < rounding)
    return np.where(undefined, np.nan, fid / (np.where(d < eps, d, 1.0) + DELTA))


def mifid(
    generated: ArrayLike,
    training: ArrayLike,
    *,
    eps: float,
    held_out: ArrayLike | None = None,
    replicates: int = 100,
    seed: int = 0,
) -> MiFID:
    r"""Memorization-informed FID of generated images, with 95 % bootstrap intervals.

    The training features are what the score is about and stay fixed; the samples are one draw from the
    generator. A finite sample raises FID, and a sample of the sample raises it again by as much. So the basic
    bootstrap interval, $[2 \hat\theta - \theta^*_{high}, 2 \hat\theta - \theta^*_{low}]$, is about the FID
    that samples without end would have: it can lie below `fid`, and begins at 0 where the samples are too few
    to take off their bias. d is a mean and has none; its interval is of percentiles. MiFID's combines both.

    Of images that cannot be told from the training images by FID, up to its rounding error, MiFID is
    undefined, NaN, and a warning says so. FID is computed in float64, whatever the features are.

    Args:
        generated: features (m, d), m > d.
        training: features (n, d), n > d.
        eps: below this d is a penalty; 0.1 for Inception's pool_3, 0.25 for NASNet. For other features
            choose it by d of held-out images.
        held_out: features of images that no generator saw, for `held_out_d`.
        replicates: of the bootstrap, 0 for none, else at least 20; m d^2 operations each: seconds, so
            minutes in all, at 50000 x 2048, with 24 m d bytes of memory.
        seed: of the bootstrap, 0 or more.

    Raises:
        ValueError: another value than allowed, or what `moments` and `memorization_distance` refuse.

    Source: Bai et al. (2021); Davison & Hinkley (1997) for the interval.
    """
    if replicates and replicates < 20:
        raise ValueError(f"replicates is {replicates}; allowed: 0 for none, or 20 or more")
    check_range(0, seed=seed)
    penalized_fid(0, 0, eps)  # refuses what is not allowed before anything is computed
    if held_out is not None:
        held_out = feature_matrices(held_out=held_out, training=training)[0]
    generated, training = feature_matrices(generated=generated, training=training)
    reference = moments(training, "training")
    own = moments(generated, "generated")
    fid, rounding = frechet_distance(own, reference), rounding_error(own, reference)
    if undefined := fid < rounding:
        LOG.warning("MiFID is undefined: FID is %.2g, below its rounding error of %.2g", fid, rounding)
    nearest = memorization_distance(generated, training)
    held_out_d = np.nan if held_out is None else memorization_distance(held_out, training).d
    parts = list(_resampled(generated, reference, nearest, replicates, seed))
    fids, ds = np.transpose(parts or [[np.nan] * 2])
    basic = np.maximum(2 * fid - fids, 0)

    def ends(values: Floats) -> Interval:
        low, high = np.quantile(values, [0.025, 0.975])
        return float(low), float(high)

    return MiFID(
        mifid=float(penalized_fid(fid, nearest.d, eps, rounding)),
        fid=fid,
        fid_rounding=rounding,
        d=nearest.d,
        eps=eps,
        held_out_d=float(held_out_d),
        nearest=nearest,
        mifid_interval=(np.nan, np.nan) if undefined else ends(penalized_fid(basic, ds, eps)),
        # of what is nothing but rounding, resampling says nothing
        fid_interval=(0.0, rounding) if undefined and replicates else ends(basic),
        d_interval=ends(ds),
        fid_bias=float(fids.mean() - fid),
    )


def _resampled(
    generated: NDArray, reference: Moments, nearest: Nearest, replicates: int, seed: int
) -> Iterator[tuple[float, float]]:
    """FID and d of samples of the generated features, drawn with replacement."""
    n, rng = len(generated), np.random.default_rng(seed)
    if (unit := unit_of(generated, reference.root, reference.mean)) != 1:  # or fourth powers overflow
        other = reference._replace(mean=reference.mean / unit, root=reference.root / unit)
        scaled = _resampled(generated / np.float64(unit), other, nearest, replicates, seed)
        yield from ((unit**2 * fid, d) for fid, d in scaled)
        return
    center = generated.mean(axis=0, dtype=np.float64)
    x = generated - center  # (n, d)
    turned, squares = x @ reference.root.T, (x**2).sum(axis=1)
    for _ in range(replicates):
        counts = rng.multinomial(n, np.full(n, 1 / n)).astype(np.float64)
        drawn = counts > 0
        weighted = np.sqrt(counts[drawn])[:, None] * turned[drawn]
        mean, shift = counts @ x / n, counts @ turned / n
        cross = (weighted.T @ weighted - n * np.outer(shift, shift)) / (n - 1)  # root Sigma_g root^T
        trace = (counts @ squares - n * (mean**2).sum()) / (n - 1)
        overlap = np.sqrt(linalg.eigvalsh(cross, check_finite=False).clip(0)).sum()
        spread = max(trace + (reference.root**2).sum() - 2 * overlap, 0.0)
        kept = counts[nearest.rows]
        # a replicate of dropped features alone has no distance of its own
        d = kept @ nearest.distances / kept.sum() if kept.any() else nearest.d
        yield ((center + mean - reference.mean) ** 2).sum() + spread, d
