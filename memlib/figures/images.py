"""Figures of images: in rows, by score, in groups, above their neighbors.

Images are uint8 (n, C, H, W), n at least 1; `columns` of them, at least 1, stand side by side.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from memlib.checks import Ints, as_array, check_range
from memlib.figures.style import WIDTH, Images, check_array, check_images, number, require, styled, tile


@styled
def image_grid(images: Images, columns: int = 10) -> Figure:
    """Show images row by row; their size does not depend on how many there are."""
    images = check_images(images)
    check_range(1, columns=columns)
    size, shown = WIDTH / columns, min(columns, len(images))
    figure = plt.figure(figsize=(shown * size, -(-len(images) // columns) * size))
    for i, image in enumerate(images):
        tile(figure, image, i % columns * size, i // columns * size, size)
    return figure


def extreme_indices(M: ArrayLike, count: int = 15) -> tuple[Ints, Ints, Ints]:
    """Find the observations with the lowest, nearest-to-median and highest scores.

    Args:
        M: (n,), finite.
        count: of each kind, 1..n.

    Returns:
        Three int64 (count,), each ascending in M; they overlap where n is below 3 count.
    """
    M = check_array("M", M, None)
    check_range(1, len(M), count=count)
    order = np.argsort(M, kind="stable")
    near = np.argsort(np.abs(M[order] - np.median(M)), kind="stable")[:count]
    return order[:count], order[np.sort(near)], order[len(M) - count :]


@styled
def extremes(images: Images, M: ArrayLike, count: int = 15, name: str = "$M$") -> Figure:
    """Show the images with the lowest, nearest-to-median and highest scores, ascending from the top left.

    Args:
        images, M: (n, C, H, W), and (n,) in nats.
        count: images per panel, at least 1, eight per row; all n where there are fewer.
        name: of the score.

    Source: paper, figures 2, 7, 8 and 9.
    """
    images = check_images(images)
    M = check_array("M", M, len(images))
    panels = extreme_indices(M, min(count, len(M)))
    width, columns, gap, title = (
        5.2,
        8,
        0.12,
        0.26,
    )  # narrow, so that a phone shrinks no image below 40 pixels
    size = width / columns
    height = title + -(-len(panels[0]) // columns) * size + gap
    figure = plt.figure(figsize=(width, 3 * height))
    for k, which in enumerate(("(a) lowest", "(b) near the median", "(c) highest")):
        top, scores = k * height + gap, M[panels[k]]
        text = f"{which}: {name} {number(scores[0])} to {number(scores[-1])} nats"
        figure.text(0, 1 - top / (3 * height), text, va="top", fontsize=10.5)
        for i, image in enumerate(images[panels[k]]):
            tile(figure, image, i % columns * size, top + title + i // columns * size, size)
    return figure


@styled
def group_rows(
    images: Images, groups: Sequence[ArrayLike], names: Sequence[str], columns: int = 12
) -> Figure:
    """Show groups of images, each from a new row on, named to the left.

    Args:
        images: (n, C, H, W).
        groups: the images of each, integers 0..n-1, at least one.
        names: of the groups, one or two short lines each.
    """
    images = check_images(images)
    check_range(1, columns=columns)
    require(0 < len(groups) == len(names), f"as many names as groups, got {len(names)}, {len(groups)}")
    rows = []
    for name, group in zip(names, (as_array("groups", g) for g in groups), strict=True):
        whole = group.ndim == 1 and group.size > 0 and group.dtype.kind in "iu"
        require(
            whole and 0 <= group.min() and group.max() < len(images),
            f"groups must be integers 0..{len(images) - 1} of shape (k,), k at least 1, got {name}: {group}",
        )
        rows.append((name, images[group]))
    return _rows(rows, columns)


@styled
def neighbors_panel(train: Images, validation: Images, samples: Images, rho_values: ArrayLike) -> Figure:
    r"""Show training images, the validation image and the model sample nearest to each, and rho below.

    Args:
        train: (n, C, H, W), all side by side.
        validation, samples: (n, C, H, W), image i of each the nearest of training image i.
        rho_values: (n,), the distance ratios.
    """
    names, parts = ("training\nimage", "nearest\nvalidation", "nearest\nsample"), (train, validation, samples)
    rows = [(name, check_images(images)) for name, images in zip(names, parts, strict=True)]
    sizes = [len(images) for images in parts]
    require(len(set(sizes)) == 1, f"there must be as many of each, got {sizes}")
    rho = check_array("rho_values", rho_values, len(train), finite=False)
    figure = _rows(rows, len(train), below=0.3)
    for axes, value in zip(figure.axes[-len(rho) :], rho, strict=True):
        axes.set_title(rf"$\rho$ = {value:.2f}", y=-0.06, va="top", loc="center", fontsize=8.5, pad=0)
    return figure


def _rows(rows: Sequence[tuple[str, Images]], columns: int, below: float = 0.0) -> Figure:
    """Show named images, each name's from a new row on, with some space below the last, in inches."""
    left = 1.15  # inches, for the names
    size = min((WIDTH - left) / columns, 1.2)
    tops = np.cumsum([0, *(size * -(-len(images) // columns) for _, images in rows)])
    width, height = left + columns * size, tops[-1] + below
    figure = plt.figure(figsize=(width, height))
    for (name, images), top in zip(rows, tops[:-1], strict=True):
        place = (left - 0.1) / width, 1 - (top + size / 2) / height
        figure.text(*place, name, ha="right", va="center", fontsize=10)
        for k, image in enumerate(images):
            tile(figure, image, left + k % columns * size, top + k // columns * size, size)
    return figure
