"""Near-duplicates: images that occur more than once in a data set, with slight changes."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from memlib.checks import Floats, Ints, check_known, check_range, check_share, check_unmasked
from memlib.metrics.neighbors import batches, check_images

Center = Literal["lines", "image"]
Images = NDArray[np.uint8]


class Pairs(NamedTuple):
    """Pairs of images that resemble each other, in ascending order of `first`, then `second`; each (p,)."""

    first: Ints
    second: Ints
    correlation: Floats

    def reaching(self, threshold: float) -> "Pairs":
        """Those whose correlation is at least `threshold`."""
        kept = self.correlation >= threshold
        return Pairs(*(column[kept] for column in self))


def centered(images: Images, center: Center = "lines") -> Floats:
    r"""Images without what smooth ones have in common.

    With H x W pixels $x_{chw}$ in C channels, and a dot for the mean over an index,

    $$z_{chw} = x_{chw} - x_{ch\cdot} - x_{c\cdot w} + x_{c\cdot\cdot} \quad\text{("lines")}, \qquad
      z_{chw} = x_{chw} - x_{\cdot\cdot\cdot} \quad\text{("image")}.$$

    Without the means of rows and columns nothing is left of a sky, a horizon or a color cast, which make
    pictures of different things alike.

    Args:
        images: uint8 (n, C, H, W), H and W even, n at least 1.
        center: "lines" or "image".

    Returns:
        float64 (n, C * H * W): z times the number of values averaged, H W or C H W. These are whole numbers,
        and of images of 32 x 32 their squares sum without rounding.

    Raises:
        ValueError: if `images` or `center` is not as above.

    >>> centered(np.array([[[[9, 1], [1, 1]]]], dtype=np.uint8))
    array([[ 8., -8., -8.,  8.]])
    """
    images = check_images("images", images)
    check_known("center", center, get_args(Center))
    n, C, H, W = images.shape
    x = images.astype(np.float64)
    if center == "image":
        z = C * H * W * x - x.sum((1, 2, 3), keepdims=True)
    else:
        rows, columns = x.sum(3, keepdims=True), x.sum(2, keepdims=True)
        z = H * W * x - H * rows - W * columns + rows.sum(2, keepdims=True)
    return z.reshape(n, C * H * W)


def near_duplicates(
    images: Images,
    others: Images | None = None,
    *,
    threshold: float = 0.9,
    center: Center = "lines",
    mirrored: bool = False,
) -> Pairs:
    r"""Find all pairs of images whose correlation reaches a threshold, exactly.

    $$r_{ij} = \frac{z_i \cdot z_j}{\|z_i\| \|z_j\|}$$

    with z from `centered` is 1 for a copy, whatever its brightness and contrast. No pair is left out, but few
    are measured. With $p$ the averages of 2 x 2 pixels of $z / \|z\|$, times 2, and $q$ what they leave over,

    $$r_{ij} = p_i \cdot p_j + q_i \cdot q_j \le p_i \cdot p_j + \|q_i\| \|q_j\|,$$

    a product of vectors a quarter as long, in float32. Pairs in which this bound comes within its rounding
    error of the threshold are measured in float64, and a copy has exactly 1.

    Args:
        images: as for `centered`, and so is `center`.
        others: uint8 (m, C, H, W), to be paired with `images`; by default every pair i < j of `images`.
        threshold: between 0 and 1. At low ones little is ruled out, and the search is slow.
        mirrored: compare each image with the others' mirror images, left to right.

    Returns:
        The pairs, `first` in `images` and `second` in `others`. Images of which centering leaves nothing have
        no correlation, and are in no pair. Memory is about 2 n C H W bytes, with n the images of both sets.

    Raises:
        ValueError: if an argument is not as above, or the shapes of both sets differ.

    >>> x = np.random.default_rng(0).integers(0, 100, (4, 1, 8, 8), dtype=np.uint8)
    >>> x[3] = 2 * x[1] + 5
    >>> near_duplicates(x)
    Pairs(first=array([1]), second=array([3]), correlation=array([1.]))
    """
    images = check_images("images", images)
    within = others is None
    others = images if within else check_images("others", others)
    if images.shape[1:] != others.shape[1:]:
        raise ValueError(f"others must have the shape of images, got {others.shape} and {images.shape}")
    check_share(threshold=threshold)
    left = _bounds(images, center)
    second = others[..., ::-1] if mirrored else others
    right = left if within and not mirrored else _bounds(second, center)
    # the float32 error of the sum, and of its factors: unit vectors of as many entries
    slack = 2 * (left.shape[1] + 8) * float(np.finfo(np.float32).eps)
    found = [Pairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for part in batches(len(images), len(others)):
        offset = part.start if within else 0
        i, j = np.nonzero(left[part] @ right[offset:].T >= threshold - slack)
        i, j = i + part.start, j + offset
        if within:
            i, j = i[i < j], j[i < j]
        for some in batches(len(i), images[0].size):
            r = _correlation(centered(images[i[some]], center), centered(second[j[some]], center))
            found.append(Pairs(i[some], j[some], r).reaching(threshold))
    return Pairs(*map(np.concatenate, zip(*found, strict=True)))


def groups(n: int, *pairs: Pairs) -> list[Ints]:
    """Join pairs that share an image.

    A group's images need not all be pairs: each is a pair with one of them, and may be linked to the others
    by several steps.

    Args:
        n: images that there are, at least 1.
        pairs: found within these images; several searches are joined.

    Returns:
        The images of every group of two or more, ascending, int64; the largest group first, of those of one
        size the one with the lowest image.

    Raises:
        ValueError: n is below 1, or a pair has an image outside 0..n-1.

    >>> groups(6, Pairs(np.array([0, 2, 4]), np.array([5, 3, 5]), np.ones(3)))
    [array([0, 4, 5]), array([2, 3])]
    """
    check_range(1, n=n)
    check_unmasked(pairs=pairs)
    ends = np.concatenate([np.empty((2, 0), np.int64), *(np.stack(p[:2]) for p in pairs)], axis=1)
    if ends.size and not (ends.min() >= 0 and ends.max() < n):
        raise ValueError(f"pairs must be of images 0..{n - 1}, got {ends.min()}..{ends.max()}")
    graph = coo_array((np.ones(ends.shape[1]), tuple(ends)), shape=(n, n))
    label = connected_components(graph, directed=False)[1]
    members = np.argsort(label, kind="stable")
    split = np.split(members, np.cumsum(np.bincount(label))[:-1])
    return sorted((g for g in split if len(g) > 1), key=lambda g: (-len(g), g[0]))


def _bounds(images: Images, center: Center) -> NDArray[np.float32]:
    """The averages p and the norm of the rest q of every image, (n, C * H/2 * W/2 + 1); 0 for flat ones."""
    n, C, H, W = images.shape
    vectors = np.zeros((n, C * H * W // 4 + 1), dtype=np.float32)
    for part in batches(n, C * H * W):
        z = centered(images[part], center)
        norm = np.linalg.norm(z, axis=1)
        z /= np.where(norm > 0, norm, 1)[:, None]
        p = z.reshape(-1, C, H // 2, 2, W // 2, 2).sum((3, 5)).reshape(len(z), -1) / 2
        rest = (norm > 0) - (p**2).sum(axis=1)
        vectors[part] = np.column_stack([p, np.sqrt(np.maximum(rest, 0))])
    return vectors


def _correlation(first: Floats, second: Floats) -> Floats:
    """Of every row with the other's same row; NaN where there is none."""
    with np.errstate(invalid="ignore"):
        return np.vecdot(first, second) / np.sqrt(np.vecdot(first, first) * np.vecdot(second, second))
