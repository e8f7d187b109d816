"""What resembles an image: its nearest neighbors and near-duplicates, to be shown beside it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memlib.checks import Floats, Ints
from memlib.data import ImageSet
from memlib.metrics import neighbors
from memlib.metrics.duplicates import Pairs


@dataclass(frozen=True)
class Kin:
    """For each of n images k others that resemble it, shown beside it, nearest first.

    Args:
        pool: uint8 (m, C, H, W), of the images' shape, where they are taken from.
        index: int (n, k), rows of the pool; -1 where an image has none.
        values: (n, k), how near they are.
        quantity: what `values` are, for example "distance".

    Raises:
        ValueError: an argument that is not as above.
    """

    pool: NDArray[np.uint8]
    index: Ints
    values: Floats
    quantity: str = "distance"

    def __post_init__(self) -> None:
        pool, index, values = np.asarray(self.pool), np.asarray(self.index), np.asarray(self.values)
        if pool.dtype != np.uint8 or pool.ndim != 4:
            raise ValueError(f"pool must be uint8 (m, C, H, W), got {pool.dtype} {pool.shape}")
        if index.ndim != 2 or not np.issubdtype(index.dtype, np.integer) or values.shape != index.shape:
            raise ValueError(
                "index must be integers (n, k) and values of that shape, got "
                f"{index.dtype} {index.shape} and {values.shape}"
            )
        if index.size and not -1 <= index.min() <= index.max() < len(pool):
            raise ValueError(
                f"index must be in -1..{len(pool) - 1}, rows of the pool, got {index.min()}..{index.max()}"
            )
        object.__setattr__(self, "pool", pool)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "values", values)


def nearest_of(images: NDArray[np.uint8], pool: NDArray[np.uint8] | None = None) -> Kin:
    """The image of a pool nearest to every image at half resolution; without a pool, of the other images."""
    queries = neighbors.half_resolution(images)
    references = queries if pool is None else neighbors.half_resolution(pool)
    distance, index = neighbors.nearest(queries, references, exclude_self=pool is None)
    return Kin(images if pool is None else pool, index[:, None], distance[:, None])


def duplicates_of(images: ImageSet, pairs: Pairs, most: int = 6) -> Kin:
    """The near-duplicates of every image, at most `most` each, from what `near_duplicates` returns."""
    first, second = np.concatenate([pairs.first, pairs.second]), np.concatenate([pairs.second, pairs.first])
    correlation = np.tile(pairs.correlation, 2)
    order = np.lexsort((second, -correlation, first))
    first, second, correlation = first[order], second[order], correlation[order]
    place = np.arange(len(first)) - np.searchsorted(first, first)  # 0, 1, ... within each image
    width = min(most, int(place.max(initial=0)) + 1)
    index, values = np.full((len(images), width), -1), np.full((len(images), width), np.nan)
    kept = place < width
    index[first[kept], place[kept]] = second[kept]
    values[first[kept], place[kept]] = correlation[kept]
    return Kin(images.images, index, values, "correlation")
