"""Nearest neighbors in pixel space: do model samples lie closer to a training image than held-out images?"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memlib.checks import Floats, Ints


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
        images: uint8 (n, C, H, W), H and W even.

    Returns:
        float64 (n, C * H/2 * W/2), pixel values in [0, 1].

    Raises:
        ValueError: if `images` has another type or shape.

    Source: section 4.4 of the paper (distances on images of 16 x 16 pixels).

    >>> half_resolution(np.array([[[[0, 255], [255, 0]]]], dtype=np.uint8))
    array([[0.5]])
    """
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] % 2 or images.shape[3] % 2:
        raise ValueError(
            f"images must be uint8 (n, C, H, W) with even H and W, got {images.dtype} {images.shape}"
        )
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // 2, 2, width // 2, 2)
    # Sums of four bytes are exact in uint16, so equal images stay exactly equal.
    return (blocks.sum(axis=(3, 5), dtype=np.uint16) / (4 * 255.0)).reshape(n, channels * height * width // 4)


def nearest(
    queries: ArrayLike, references: ArrayLike, *, exclude_self: bool = False, chunk: int = 2048
) -> tuple[Floats, Ints]:
    r"""Find the reference nearest to every query, in Euclidean distance and exactly.

    $$\|q - r\|^2 = \|q\|^2 + \|r\|^2 - 2\,q \cdot r$$

    turns the search into matrix products, but loses digits where q is close to r. So the products only rule
    out: every reference that rounding could have hidden is measured again from the difference q - r. An exact
    copy gives exactly 0, and of references at the same distance the first wins, whatever the chunk size.

    Args:
        queries: (n, d), finite numbers.
        references: (m, d), finite numbers, m at least 1.
        exclude_self: leave out reference i for query i; both arrays then have the same shape, m at least 2.
        chunk: rows of either array handled at once, at least 1; memory is about 32 chunk (chunk + d) bytes.

    Returns:
        The distance (n,) float64 and the row of the nearest reference (n,) int64.

    Raises:
        ValueError: if a shape, a value or `chunk` is not as above.
    """
    queries, references = check_matrix("queries", queries), check_matrix("references", references)
    if queries.shape[1] != references.shape[1]:
        raise ValueError(
            f"queries and references must have as many columns, got {queries.shape} and {references.shape}"
        )
    if exclude_self and queries.shape != references.shape:
        raise ValueError(f"exclude_self needs equal shapes, got {queries.shape} and {references.shape}")
    if len(references) < 1 + exclude_self:
        raise ValueError(f"references must have at least {1 + exclude_self} rows, got {len(references)}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")

    # A bound on the relative rounding error of the expanded square: three dot products of length d.
    slack = 4 * (queries.shape[1] + 4) * np.finfo(float).eps
    distance, index = np.empty(len(queries)), np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        q = queries[start : start + chunk].astype(np.float64)
        best, best_index = np.full(len(q), np.inf), np.full(len(q), -1)
        q_norm = np.einsum("ij,ij->i", q, q)
        for offset in range(0, len(references), chunk):
            r = references[offset : offset + chunk].astype(np.float64)
            r_norm = np.einsum("ij,ij->i", r, r)
            square = q @ r.T
            square *= -2
            square += q_norm[:, None]
            square += r_norm
            if exclude_self:
                own = np.arange(start, start + len(q)) - offset
                inside = (own >= 0) & (own < len(r))
                square[inside, own[inside]] = np.inf
            error = slack * (q_norm + r_norm.max())
            bound = np.minimum(square.min(axis=1) + 2 * error, best + error)
            # Row-major order: for one query, candidates come in the order of their reference.
            rows, columns = np.nonzero((square <= bound[:, None]) & np.isfinite(square))
            for part in range(0, len(rows), chunk):
                i, j = rows[part : part + chunk], columns[part : part + chunk]
                exact = ((q[i] - r[j]) ** 2).sum(axis=1)
                order = np.lexsort((j, exact, i))
                first = order[np.unique(i[order], return_index=True)[1]]  # the best candidate of each query
                better = first[exact[first] < best[i[first]]]
                best[i[better]], best_index[i[better]] = exact[better], j[better] + offset
        distance[start : start + chunk], index[start : start + chunk] = np.sqrt(best), best_index
    return distance, index


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

    Returns:
        rho, both distances and both neighbors' rows, each (n,).

    Raises:
        ValueError: if `samples` and `validation` differ in length, or for what `nearest` refuses.

    Source: paper, equation (6).

    >>> distance_ratio([[0.0]], [[3.0]], [[-2.0]]).rho
    array([1.5])
    """
    if len(samples) != len(validation):
        raise ValueError(
            f"samples must be as many as validation observations, got {len(samples)} and {len(validation)}"
        )
    to_validation, nearest_validation = nearest(train, validation)
    to_sample, nearest_sample = nearest(train, samples)
    rho = _divide(to_validation, to_sample)
    return DistanceRatio(rho, to_validation, to_sample, nearest_validation, nearest_sample)


def distance_ratio_as_published(
    train: ArrayLike, validation: ArrayLike, samples: ArrayLike, batch: int = 256
) -> DistanceRatio:
    r"""Compute rho as the paper's public code does, defect included, to set its figures beside right ones.

    In every batch of training images that code finds each row's nearest neighbor j(i), but reads the distance
    to it in the row of the batch's first image b(i):

    $$\rho_i = \frac{\|x_{b(i)} - v_{j(i)}\|}{\|x_{b(i)} - s_{j'(i)}\|}$$

    Args:
        train: (n, d).
        validation: (m, d).
        samples: (m, d).
        batch: training images per batch, at least 1; at 1 the result equals `distance_ratio`.

    Returns:
        As `distance_ratio`; the neighbors' rows are right, the distances are the published ones.

    Raises:
        ValueError: if `batch` is below 1, or as `distance_ratio`.

    Source: figures 5, 12 and 13 of the paper; public code of the authors.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    right = distance_ratio(train, validation, samples)
    train = np.asarray(train)
    to_validation, to_sample = np.empty(len(train)), np.empty(len(train))
    for start in range(0, len(train), batch):
        part, first = slice(start, start + batch), train[start].astype(np.float64)
        for distance, references, index in (
            (to_validation, validation, right.nearest_validation),
            (to_sample, samples, right.nearest_sample),
        ):
            neighbors = np.asarray(references)[index[part]].astype(np.float64)
            distance[part] = np.sqrt(((first - neighbors) ** 2).sum(axis=1))
    rho = _divide(to_validation, to_sample)
    return DistanceRatio(rho, to_validation, to_sample, right.nearest_validation, right.nearest_sample)


def check_matrix(name: str, values: ArrayLike) -> NDArray:
    """Numbers (n, d), finite and of a size whose square is; ValueError by `name` otherwise."""
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise ValueError(f"{name} must be numbers of shape (n, d), got {values.dtype} {values.shape}")
    # Squares beyond the float range would compare as equal, so the limit is on them.
    if (
        values.dtype.kind == "f"
        and values.size
        and not max(float(values.max()), -float(values.min())) < 1e150
    ):
        raise ValueError(f"{name} must be finite and below 1e150 in size")
    return values


def _divide(to_validation: Floats, to_sample: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return to_validation / to_sample
