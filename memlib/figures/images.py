"""Figures of images: in rows, by score, beside their reconstructions and their neighbors."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from memlib.figures.style import WIDTH, Images, check_images, check_vector, number, require, styled, tile


@styled
def image_grid(images: Images, columns: int = 10) -> Figure:
    """Show images row by row.

    Args:
        images: uint8 (n, C, H, W), n at least 1.
        columns: images per row, at least 1; their size does not depend on n.
    """
    images = check_images(images)
    require(columns >= 1, f"columns must be at least 1, got {columns}")
    size, shown = WIDTH / columns, min(columns, len(images))
    figure = plt.figure(figsize=(shown * size, -(-len(images) // columns) * size))
    for i, image in enumerate(images):
        tile(figure, image, i % columns * size, i // columns * size, size)
    return figure


def extreme_indices(M: ArrayLike, count: int = 15) -> tuple[NDArray[np.int64], ...]:
    """Find the observations with the lowest, nearest-to-median and highest scores.

    Args:
        M: (n,), finite.
        count: of each kind, 1..n.

    Returns:
        Three int64 (count,), each ascending in M; they overlap where n is below 3 count.

    Raises:
        ValueError: if `M` or `count` is not as above.
    """
    M = check_vector("M", M)
    require(1 <= count <= len(M), f"count must be 1..{len(M)}, the number of observations, got {count}")
    order = np.argsort(M, kind="stable")
    near = np.argsort(np.abs(M[order] - np.median(M)), kind="stable")[:count]
    return order[:count], order[np.sort(near)], order[len(M) - count :]


@styled
def extremes(images: Images, M: ArrayLike, count: int = 15) -> Figure:
    """Show the images with the lowest, nearest-to-median and highest scores, ascending from the top left.

    Args:
        images: uint8 (n, C, H, W).
        M: (n,), in nats.
        count: images per panel, at least 1, five per row; all n where there are fewer.

    Source: paper, figures 2, 7, 8 and 9.
    """
    images, M = check_images(images), check_vector("M", M, len(images))
    count = min(count, len(M))
    panels = extreme_indices(M, count)
    gap, title = 0.24, 0.46
    size = (WIDTH - 2 * gap) / 15
    figure = plt.figure(figsize=(WIDTH, title + -(-count // 5) * size))
    for k, (name, chosen) in enumerate(
        zip(("(a) lowest", "(b) near the median", "(c) highest"), panels, strict=True)
    ):
        left, scores = k * (5 * size + gap), M[chosen]
        text = f"{name}\n$M$ {number(scores[0])} to {number(scores[-1])} nats"
        figure.text(left / WIDTH, 1, text, va="top", fontsize=10.5, linespacing=1.35)
        for i, image in enumerate(images[chosen]):
            tile(figure, image, left + i % 5 * size, title + i // 5 * size, size)
    return figure


@styled
def reconstructions(images: Images, reconstructed: Images, columns: int = 10) -> Figure:
    """Show images above what the model makes of them.

    Args:
        images: uint8 (n, C, H, W).
        reconstructed: uint8 (n, C, H, W), of the same observations.
        columns: pairs side by side, at least 1.
    """
    return _rows({"image": images, "reconstruction": reconstructed}, columns)


@styled
def neighbors_panel(
    train: Images, validation: Images, samples: Images, rho_values: ArrayLike, columns: int = 10
) -> Figure:
    r"""Show training images, the validation image and the model sample nearest to each, and rho below.

    Args:
        train: uint8 (n, C, H, W).
        validation: uint8 (n, C, H, W), image i the nearest of training image i.
        samples: uint8 (n, C, H, W), image i the nearest of training image i.
        rho_values: (n,), the distance ratios.
        columns: training images side by side, at least 1.
    """
    rho = [rf"$\rho$ = {value:.2f}" for value in np.asarray(rho_values)]
    rows = {"training\nimage": train, "nearest\nvalidation": validation, "nearest\nsample": samples}
    return _rows(rows, columns, rho)


def _rows(rows: Mapping[str, Images], columns: int, captions: Sequence[str] | None = None) -> Figure:
    """Show rows of images one below the other, image i of each row in the same column."""
    rows = {name: check_images(images) for name, images in rows.items()}
    sizes = [len(images) for images in rows.values()] + ([len(captions)] if captions is not None else [])
    require(len(set(sizes)) == 1, f"there must be as many of each, got {sizes}")
    require(columns >= 1, f"columns must be at least 1, got {columns}")
    n, label, below = sizes[0], 1.15, 0.3 if captions is not None else 0.1
    size = min((WIDTH - label) / min(columns, n), 1.2)
    block = len(rows) * size + below
    height = -(-n // columns) * block
    figure = plt.figure(figsize=(label + min(columns, n) * size, height))
    for start in range(0, n, columns):
        top = start // columns * block
        for r, (name, images) in enumerate(rows.items()):
            y = 1 - (top + (r + 0.5) * size) / height
            figure.text((label - 0.1) / figure.get_figwidth(), y, name, ha="right", va="center", fontsize=10)
            for c, image in enumerate(images[start : start + columns]):
                axes = tile(figure, image, label + c * size, top + r * size, size)
                if captions is not None and r == len(rows) - 1:
                    axes.set_title(captions[start + c], y=-0.06, va="top", loc="center", fontsize=8.5, pad=0)
    return figure
