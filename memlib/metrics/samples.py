"""Yardsticks of others for generated images, in any feature space."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special, stats
from sklearn.cluster import KMeans
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from memlib.checks import Floats, Ints, as_array, check_range, check_whole
from memlib.metrics.neighbors import distance_ratio, feature_matrices, nearest, unit_of, unit_rows

ENOUGH = 20  # generated images that a cell of the data-copying test must exceed


class Partition(Protocol):
    """Cells around centers, fitted: k-means of scikit-learn, or what is used like it."""

    cluster_centers_: NDArray[np.floating]  # (cells, d)

    def predict(self, X: NDArray[np.floating], /) -> NDArray[np.integer]: ...


class DataCopying(NamedTuple):
    """The data-copying test."""

    statistic: float  # C_T; far below 0 where the model copies, far above where it underfits
    z: Floats  # Mann-Whitney statistic of each cell, (cells,); NaN where the cell is left out
    weights: Floats  # share of the held-out images in each cell, (cells,)
    generated: Ints  # images in each cell, (cells,)


def data_copying(
    training: ArrayLike, held_out: ArrayLike, generated: ArrayLike, cells: int | Partition = 3, seed: int = 0
) -> DataCopying:
    r"""Test whether generated images lie closer to training images than held-out images do.

    In each cell of a k-means partition, U counts the pairs of a generated and a held-out image of which the
    generated one is farther from its nearest training image of the cell (ties half), and

    $$Z = \frac{U - mn/2}{\sqrt{mn (m + n + 1) / 12}}, \quad
      C_T = \frac{\sum_\pi P_n(\pi) Z_\pi}{\sum_\pi P_n(\pi)}$$

    over the cells with more than 20 generated images. With one cell C_T is standard normal where both are
    drawn alike; the mean of several z is narrower.

    Args:
        training: (l, d), what the model was trained on; by default the cells are made from it.
        held_out: (n, d), drawn like them.
        generated: (m, d).
        cells: of k-means, 1 to l, 3 as in the evaluation of Stein et al.; or what `partitioned` gives, or any
            other fitted clusterer with cells around centers. Its `predict` says of all images in which cell
            they are, whatever it was fitted to.
        seed: of k-means, 0 or more.

    Raises:
        ValueError: another number of cells, a clusterer that is not fitted, cannot predict or is of other
            features, no cell with held-out and more than 20 generated images, such a cell without training
            images, or what `nearest` refuses.

    Source: Meehan, Chaudhuri & Dasgupta (2020); number of cells and least images as in the code of Stein et
    al. (2023).
    """
    sets = feature_matrices(training=training, held_out=held_out, generated=generated)
    training = sets[0]
    centers = getattr(cells, "cluster_centers_", None)
    if centers is None or not hasattr(cells, "predict"):
        cells = partitioned(training, cells, seed)
        centers = cells.cluster_centers_
    if centers.shape[1] != training.shape[1]:
        raise ValueError(
            f"cells are of {centers.shape[1]} features, images of {training.shape[1]}; allowed: as many"
        )
    place, *places = (cells.predict(x.astype(centers.dtype)) for x in sets)
    weights, counts = (np.bincount(p, minlength=len(centers)) for p in places)
    z = np.full(len(centers), np.nan)
    for cell in np.flatnonzero((counts > ENOUGH) & (weights > 0)):
        inside = training[place == cell]
        if not len(inside):
            raise ValueError(f"cell {cell} has no training images; allowed: cells of which each has some")
        p, q = (nearest(x[at == cell], inside)[0] for x, at in zip(sets[1:], places, strict=True))
        m, n, u = len(q), len(p), stats.mannwhitneyu(q, p).statistic
        z[cell] = (u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12)
    used = ~np.isnan(z)
    if not used.any():
        given = f"no cell has held-out and more than {ENOUGH} generated images: {counts.tolist()}"
        raise ValueError(f"{given}; allowed: more generated images, or fewer cells than {len(centers)}")
    statistic = np.average(z[used], weights=weights[used])
    return DataCopying(float(statistic), z, weights / weights.sum(), counts)


def partitioned(training: ArrayLike, cells: int, seed: int = 0) -> KMeans:
    """The cells of `data_copying`, for several generators: k-means, the best of 10 starts."""
    if not isinstance(cells, int | np.integer):
        allowed = "a number of cells, or a fitted clusterer with cluster_centers_ and predict, such as KMeans"
        raise ValueError(f"cells is {cells!r:.100}; allowed: {allowed}")
    check_whole(0, seed=seed)
    [training] = feature_matrices(training=training)
    if not 1 <= cells <= len(training):
        raise ValueError(f"cells is {cells}; allowed: 1 to {len(training)}, the training images")
    return KMeans(cells, n_init=10, random_state=seed).fit(training)


def authenticity(
    training: ArrayLike, generated: ArrayLike, spacing: ArrayLike | None = None
) -> NDArray[np.bool_]:
    """Which generated images, (m,), are farther from their nearest training image than that one from its own.

    A copy is never authentic. The share, in percent, is known as AuthPct.

    Args:
        training, generated: (n, d), n at least 2, and (m, d).
        spacing: (n,), distance of every training image to its nearest other one, where it is known.

    Raises:
        ValueError: another shape of `spacing`, or what `nearest` refuses.

    Source: Alaa et al. (2022); Stein et al. (2023) for its use in a space of features.

    >>> authenticity([[0.0], [3.0]], [[0.5], [7.0]])
    array([False,  True])
    """
    training, generated = feature_matrices(training=training, generated=generated)
    distance, index = nearest(generated, training)
    if spacing is None:
        spacing = nearest(training, training, exclude_self=True)[0]
    return distance > _distances("spacing", spacing, len(training))[index]


def closer_share(training: ArrayLike, held_out: ArrayLike, generated: ArrayLike) -> float:
    """Share of the training images with rho above 1: a generated image closer than any held-out one.

    One half where generated images are drawn like held-out ones, whatever the distribution. Ties, rho = 1 or
    a copy on both sides, count half. Arguments and errors are those of `distance_ratio`.
    """
    ratio = distance_ratio(training, held_out, generated)
    difference = ratio.to_validation - ratio.to_sample
    return float((difference > 0).mean() + (difference == 0).mean() / 2)


def radii(x: ArrayLike, k: int) -> Floats:
    """Distance of every row of `x`, (n, d), to its k-th nearest other row, (n,); k is 1 to n - 1.

    >>> radii([[0.0], [1.0], [4.0]], 2)
    array([4., 3., 4.])
    """
    [x] = _spaces(k, images=x)
    unit = unit_of(x)
    return unit * NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x / unit).kneighbors()[0][:, -1]


def precision_recall(
    training: ArrayLike, generated: ArrayLike, k: int = 3, reach: ArrayLike | None = None
) -> tuple[float, float]:
    """Share of generated images within the training images' balls, and the reverse.

    The ball of an image reaches to its k-th nearest neighbor in its own set, and holds its surface.

    Args:
        training, generated: (n, d) and (m, d).
        k: at least 1, below n and m.
        reach: (n,), `radii` of the training images at k, where they are known.

    Returns:
        Precision and recall. Copies have precision 1; recall sees the training images that are missed.

    Raises:
        ValueError: shapes, values or k not as above.

    Source: Kynkäänniemi et al. (2019), with their k.
    """
    training, generated = _spaces(k, training=training, generated=generated)
    reach = _reach(reach, training, k)
    held = [i.any(axis=1) for i in _inside(generated, training, reach)]
    found = [i.any(axis=1) for i in _inside(training, generated, radii(generated, k))]
    return float(np.concatenate(held).mean()), float(np.concatenate(found).mean())


def density_coverage(
    training: ArrayLike, generated: ArrayLike, k: int = 5, reach: ArrayLike | None = None
) -> tuple[float, float]:
    """How many training images' balls hold a generated image, over k and on average; how many hold any.

    Arguments and errors are those of `precision_recall`.

    Returns:
        Density, which can be above 1, and coverage, a share of the training images.

    Source: Naeem et al. (2020), with their k.
    """
    training, generated = _spaces(k, training=training, generated=generated)
    reach = _reach(reach, training, k)
    density, covered = 0, np.zeros(len(training), dtype=bool)
    for inside in _inside(generated, training, reach):
        density += inside.sum()
        covered |= inside.any(axis=0)
    return float(density / (k * len(generated))), float(covered.mean())


def vendi(
    generated: ArrayLike, kernel: Callable[[Floats], ArrayLike] | None = None, order: float = 1
) -> float:
    r"""How many images that have nothing in common would be as diverse: the Vendi score.

    With the eigenvalues of the similarities over n, $K / n$, which add up to 1,

    $$\exp\Big(-\sum_i \lambda_i \log \lambda_i\Big), \quad \Big(\sum_i \lambda_i^q\Big)^{1 / (1 - q)}$$

    for q = 1 and for others. It looks at generated images alone: copies of diverse images are diverse.

    Args:
        generated: (n, d); for cosine similarity no row is all zero.
        kernel: gives the features, float64 (n, d), similarities (n, n), symmetric, positive semidefinite and
            with ones on the diagonal, as `sklearn.metrics.pairwise.rbf_kernel` does; by default, cosines.
        order: q, 0 or more, also inf; the larger, the less rare images count.

    Returns:
        1, all alike, to n. Features of the same sign are alike already: compare equal features and equal n.

    Raises:
        ValueError: shapes, values, similarities or order not as above.

    Source: Friedman & Dieng (2023); Pasarkar & Dieng (2024) for other orders.

    >>> round(vendi([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0], [4.0, 0.0]]), 9)
    2.0
    """
    check_range(0, order=order)
    [x] = feature_matrices(generated=generated)
    x = x.astype(np.float64)
    if kernel is None:
        if zero := len(x) - x.any(axis=1).sum():
            raise ValueError(f"{zero} generated features are zero; allowed: such as have a direction")
        share = linalg.svdvals(unit_rows(x)) ** 2 / len(x)  # the eigenvalues of unit @ unit.T / n
    else:
        share = linalg.eigvalsh(_similarities(kernel(x), len(x))) / len(x)
    if share.min() < -1e-6:
        raise ValueError(f"the kernel's least eigenvalue is {share.min() * len(x):.2g}; allowed: 0 or more")
    share = share[share > len(x) * np.finfo(float).eps * share.max()]  # others are rounding errors of 0
    if order == 1:
        return float(np.exp(stats.entropy(share)))
    if order == np.inf:
        return float(1 / share.max())
    return float(np.exp(special.logsumexp(order * np.log(share / share.sum())) / (1 - order)))


def _spaces(k: int, **sets: ArrayLike) -> list[Floats]:
    """All as float64 around the mean of the first, which keeps digits."""
    arrays = feature_matrices(**sets)
    for name, x in zip(sets, arrays, strict=True):
        if not 1 <= k < len(x):
            raise ValueError(f"k is {k} and {name} are {len(x)}; allowed: k from 1 to below their number")
    center = arrays[0].mean(axis=0, dtype=np.float64)
    return [x - center for x in arrays]


def _similarities(values: ArrayLike, n: int) -> Floats:
    values = as_array("the kernel", values)
    if values.shape != (n, n) or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        allowed = f"({n}, {n}), finite numbers, one of each pair of images"
        raise ValueError(f"the kernel gives {values.dtype} {values.shape}; allowed: {allowed}")
    if not (np.allclose(values, values.T) and np.allclose(np.diagonal(values), 1)):
        raise ValueError("the kernel is not symmetric with ones on the diagonal; allowed: such only")
    return values


def _reach(reach: ArrayLike | None, training: Floats, k: int) -> Floats:
    return _distances("reach", radii(training, k) if reach is None else reach, len(training))


def _distances(name: str, values: ArrayLike, n: int) -> Floats:
    """One distance of each of n training images."""
    values = as_array(name, values)
    if values.shape != (n,):
        raise ValueError(f"{name} is {values.shape}; allowed: ({n},), one of each training image")
    if values.dtype.kind not in "iuf" or not (values >= 0).all():
        raise ValueError(f"{name} has values that are no distances; allowed: numbers, 0 or more")
    return values


def _inside(queries: Floats, centers: Floats, reach: Floats) -> Iterator[NDArray[np.bool_]]:
    """Which queries are within reach of which centers, (part of queries, centers), 64 MB at a time."""
    unit = unit_of(queries, centers)
    queries, centers, reach = queries / unit, centers / unit, reach / unit
    # equal rows are at distance 0 only up to the root of the rounding error of their squares
    reach = reach + 1e-7 * (reach + np.sqrt((centers**2).sum(axis=1)))
    return (part <= reach for part in pairwise_distances_chunked(queries, centers, working_memory=64))
