"""Nearest neighbors in pixel space: do model samples lie closer to a training image than held-out images?"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from memlib.checks import Floats, Ints, as_array, check_range

BLOCK = 2**22  # numbers handled at once by the searches of this room: 32 MB in float64


class DistanceRatio(NamedTuple):
    """The nearest neighbor distance ratio of every training observation and its parts, each (n,)."""

    rho: Floats
    to_validation: Floats
    to_sample: Floats
    nearest_validation: Ints
    nearest_sample: Ints


def half_resolution(images: NDArray[np.uint8]) -> Floats:
    """Average every 2 x 2 block of pixels and flatten each image: the space distances are measured in.

    Args:
        images: uint8 (n, C, H, W), H and W even; ValueError for another type or shape.

    Returns:
        float64 (n, C * H/2 * W/2), pixel values in [0, 1].

    Source: section 4.4 of the paper (distances on images of 16 x 16 pixels).

    >>> half_resolution(np.array([[[[0, 255], [255, 0]]]], dtype=np.uint8))
    array([[0.5]])
    """
    images = check_images("images", images)
    n, C, H, W = images.shape
    # Sums of four bytes are exact in uint16, so equal images stay exactly equal.
    sums = images.reshape(n, C, H // 2, 2, W // 2, 2).sum(axis=(3, 5), dtype=np.uint16)
    return sums.reshape(n, C * H * W // 4) / (4 * 255.0)


def nearest(queries: ArrayLike, references: ArrayLike, *, exclude_self: bool = False) -> tuple[Floats, Ints]:
    r"""Find the reference nearest to every query, in Euclidean distance and exactly.

    scikit-learn turns the search into matrix products by $\|q - r\|^2 = \|q\|^2 + \|r\|^2 - 2\,q \cdot r$,
    which loses digits where q is close to r. So the distance to the one it finds is measured again from the
    difference q - r, and where rounding could have hidden a closer one, all are. An exact copy gives exactly
    0, and of references at the same distance the first wins. Many equal references make it slow.

    Args:
        queries: (n, d), finite numbers.
        references: (m, d), finite numbers.
        exclude_self: leave out reference i for query i; both arrays then have the same shape, m at least 2.

    Returns:
        The distance (n,) float64 and the row of the nearest reference (n,) int64.

    Raises:
        ValueError: if a shape or a value is not as above.
    """
    both = feature_matrices(queries=queries, references=references)
    q, r = (x.astype(np.float64, copy=False) for x in both)
    if (unit := unit_of(q, r)) != 1:
        distance, index = nearest(q / unit, r / unit, exclude_self=exclude_self)
        return unit * distance, index
    if exclude_self and (q.shape != r.shape or len(r) < 2):
        given = f"{q.shape} and {r.shape}"
        raise ValueError(f"exclude_self needs equal shapes, got {given}; allowed: 2 rows or more")
    search = NearestNeighbors(n_neighbors=min(2, len(r) - exclude_self), algorithm="brute").fit(r)
    rival, found = search.kneighbors(None if exclude_self else q)
    index, distance = found[:, 0].copy(), np.empty(len(q))
    for part in batches(*q.shape):
        distance[part] = np.linalg.norm(q[part] - r[index[part]], axis=1)
    if rival.shape[1] == 1:
        return distance, index
    # Nothing closer is longer than |q| + distance; the rounding error of its square is three dot products'.
    length = np.linalg.norm(q, axis=1)
    error = 4 * (q.shape[1] + 4) * np.finfo(float).eps * (length**2 + (length + distance) ** 2)
    doubtful = np.flatnonzero(rival[:, 1] ** 2 <= distance**2 + error)
    for part in batches(len(doubtful), len(r)):
        rows = doubtful[part]
        every = cdist(q[rows], r)
        if exclude_self:
            every[np.arange(len(rows)), rows] = np.inf
        index[rows] = every.argmin(axis=1)
        distance[rows] = np.linalg.norm(q[rows] - r[index[rows]], axis=1)
    return distance, index


def check_images(name: str, images: ArrayLike) -> NDArray[np.uint8]:
    """Images as an array; ValueError by `name` for others than uint8 (n, C, H, W), H and W even."""
    images = as_array(name, images)
    shape = images.shape
    if images.dtype != np.uint8 or images.ndim != 4 or 0 in shape or shape[2] % 2 or shape[3] % 2:
        allowed = "uint8 (n, C, H, W), n at least 1, H and W even"
        raise ValueError(f"{name} must be {allowed}, got {images.dtype} {shape}")
    return images


def unit_of(*arrays: NDArray[np.floating]) -> float:
    """A power of two by which numbers are to be divided, so that their squares are within the float range.

    >>> unit_of(np.array([3.0])), unit_of(np.array([3e-200])) < 1e-199
    (1.0, True)
    """
    top = max(max(float(x.max()), -float(x.min())) for x in arrays)
    return 1.0 if top == 0 or 1e-60 < top < 1e60 else math.ldexp(1, math.frexp(top)[1])


def unit_rows(features: NDArray[np.floating]) -> Floats:
    """Rows, none all zero, at length 1 in float64; the largest entry first, so that squares do not underflow.

    >>> unit_rows(np.array([[3e-200, 4e-200]]))
    array([[0.6, 0.8]])
    """
    unit = features / np.abs(features).max(axis=1, keepdims=True).astype(np.float64)
    return unit / np.linalg.norm(unit, axis=1, keepdims=True)


def batches(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of an array that hold at most `BLOCK` numbers, or a single row."""
    size = max(1, BLOCK // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def feature_matrices(**sets: ArrayLike) -> list[NDArray[np.floating]]:
    """Sets of features as float32 or float64 (n, d); ValueError by name for others than numbers below 1e150.

    >>> feature_matrices(generated=[[1, 2]], training=[[1, 2], [3, 4]])[0]
    array([[1., 2.]])
    """
    arrays = [as_array(name, values) for name, values in sets.items()]
    for name, x in zip(sets, arrays, strict=True):
        if x.ndim != 2 or x.dtype.kind not in "buif" or not x.size:
            raise ValueError(f"{name} are {x.dtype} {x.shape}; allowed: numbers of shape (n, d)")
        # squares beyond the float range would compare as equal, so the limit is on them; NaN is not below
        if x.dtype.kind == "f" and not max(float(x.max()), -float(x.min())) < 1e150:
            raise ValueError(f"{name} have values that are not finite and below 1e150; allowed: such only")
    *others, (last, width) = [(name, x.shape[1]) for name, x in zip(sets, arrays, strict=True)]
    for name, d in others:
        if d != width:
            raise ValueError(f"{name} have {d} features, {last} {width}; allowed: as many")
    return [x if x.dtype == np.float32 else x.astype(np.float64, copy=False) for x in arrays]


def distance_ratio(train: ArrayLike, validation: ArrayLike, samples: ArrayLike) -> DistanceRatio:
    r"""Compare how close validation images and how close model samples come to each training image.

    $$\rho_i = \frac{\min_j \|x_i - v_j\|}{\min_j \|x_i - s_j\|}$$

    Above 1 a sample is closer than any validation image. A sample equal to x_i gives rho = inf, and nan where
    a validation image equals x_i too.

    Args:
        train: (n, d), as from `half_resolution`.
        validation: (m, d), observations the model was not trained on.
        samples: (m, d), drawn from the model; as many as validation observations, as a minimum over more of
            them is smaller.

    Raises:
        ValueError: if `samples` and `validation` differ in length, or for what `nearest` refuses.

    Source: paper, equation (6).

    >>> distance_ratio([[0.0]], [[3.0]], [[-2.0]]).rho
    array([1.5])
    """
    if len(samples) != len(validation):
        given = f"{len(samples)} and {len(validation)}"
        raise ValueError(f"samples must be as many as validation observations, got {given}")
    distances, rows = zip(nearest(train, validation), nearest(train, samples), strict=True)
    return DistanceRatio(_ratio(*distances), *distances, *rows)


def distance_ratio_as_published(
    train: ArrayLike, validation: ArrayLike, samples: ArrayLike, batch: int = 256
) -> DistanceRatio:
    r"""Compute rho as the paper's public code does, defect included, to set its figures beside right ones.

    In every batch of training images that code finds each row's nearest neighbor j(i), but reads the distance
    to it in the row of the batch's first image b(i):

    $$\rho_i = \frac{\|x_{b(i)} - v_{j(i)}\|}{\|x_{b(i)} - s_{j'(i)}\|}$$

    Errors and the neighbors' rows are those of `distance_ratio`.

    Args:
        train, validation, samples: as for `distance_ratio`.
        batch: training images per batch, at least 1; at 1 the result equals `distance_ratio`.

    Source: figures 5, 12 and 13 of the paper; public code of the authors.
    """
    check_range(1, batch=batch)
    *_, to_validation, to_sample = distance_ratio(train, validation, samples)
    first = as_array("train", train, np.float64)[np.arange(len(train)) // batch * batch]  # x_b(i), (n, d)
    neighbors = as_array("validation", validation)[to_validation], as_array("samples", samples)[to_sample]
    distances = [np.linalg.norm(first - x, axis=1) for x in neighbors]
    return DistanceRatio(_ratio(*distances), *distances, to_validation, to_sample)


def _ratio(to_validation: Floats, to_sample: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return to_validation / to_sample
