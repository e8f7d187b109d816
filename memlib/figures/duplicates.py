"""Figures of near-duplicates: the images of each group, and what the threshold decides."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from memlib.figures.style import (
    BLUE,
    CURVES,
    WIDTH,
    Images,
    check_curves,
    check_images,
    check_vector,
    require,
    styled,
    tile,
)


@styled
def group_rows(
    images: Images, groups: Sequence[ArrayLike], names: Sequence[str], columns: int = 12
) -> Figure:
    """Show groups of images, each from a new row on, named to the left.

    Args:
        images: uint8 (n, C, H, W).
        groups: the images of each, integers 0..n-1, at least one.
        names: of the groups, one or two short lines each.
        columns: images per row, at least 1.
    """
    images = check_images(images)
    require(columns >= 1, f"columns must be at least 1, got {columns}")
    require(0 < len(groups) == len(names), f"as many names as groups, got {len(names)}, {len(groups)}")
    members = [_indices(*group, len(images)) for group in zip(names, groups, strict=True)]
    label = 1.1
    size = (WIDTH - label) / columns
    height = size * sum(-(-len(rows) // columns) for rows in members)
    figure, line = plt.figure(figsize=(WIDTH, height)), 0
    for name, rows in zip(names, members, strict=True):
        place = (label - 0.12) / WIDTH, 1 - (line + 0.5) * size / height
        figure.text(*place, name, ha="right", va="center", fontsize=9.5)
        for k, i in enumerate(rows):
            tile(figure, images[i], label + k % columns * size, (line + k // columns) * size, size)
        line += -(-len(rows) // columns)
    return figure


def _indices(name: str, rows: ArrayLike, n: int) -> NDArray[np.int64]:
    rows = np.asarray(rows)
    require(
        rows.ndim == 1 and rows.size > 0 and rows.dtype.kind in "iu" and rows.min() >= 0 and rows.max() < n,
        f"groups must be integers 0..{n - 1} of shape (k,), k at least 1, got {name}: {rows}",
    )
    return rows


@styled
def class_counts(classes: Sequence[str], counts: Mapping[str, ArrayLike], xlabel: str) -> Figure:
    """Draw counts of every class as bars, a panel for each count.

    Args:
        classes: names, from the top.
        counts: title -> (classes,), not negative.
        xlabel: names what is counted.
    """
    require(len(classes) > 0 and len(counts) > 0, "classes and counts must have an entry")
    drawn = {title: check_vector("counts", values, len(classes)) for title, values in counts.items()}
    require(all((values >= 0).all() for values in drawn.values()), "counts must not be negative")
    size = (WIDTH, 0.26 * len(classes) + 0.9)
    figure, row = plt.subplots(1, len(drawn), figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, (title, values) in zip(row[0], drawn.items(), strict=True):
        bars = axes.barh(range(len(classes)), values, color=BLUE)
        axes.bar_label(bars, [f"{value:g}" for value in values], padding=3, fontsize=8.5)
        axes.margins(x=0.16)
        axes.set(title=title, xlabel=xlabel)
    row[0, 0].set_yticks(range(len(classes)), classes)
    row[0, 0].invert_yaxis()
    return figure


@styled
def by_threshold(
    thresholds: ArrayLike, panels: Mapping[str, Mapping[str, ArrayLike]], chosen: float
) -> Figure:
    """Draw numbers against the correlation from which on images count as the same, a panel for each number.

    Args:
        thresholds: (t,) ascending.
        panels: name of the number -> {label: (t,), 0 or more}, the same labels in all; drawn on a logarithmic
            axis that is linear below 1.
        chosen: the dashed line.
    """
    thresholds = check_vector("thresholds", thresholds)
    require((np.diff(thresholds) > 0).all(), f"thresholds must be ascending, got {thresholds}")
    require(len(panels) > 0, "panels must have an entry")
    drawn = {name: check_curves(name, curves) for name, curves in panels.items()}
    fitting = all(c.shape == thresholds.shape and (c >= 0).all() for p in drawn.values() for c in p.values())
    require(fitting, f"panels must have numbers of shape ({len(thresholds)},), 0 or more")
    require(len({tuple(curves) for curves in drawn.values()}) == 1, "panels must have the same labels")
    figure, row = plt.subplots(1, len(drawn), figsize=(WIDTH, 3.2), layout="constrained", squeeze=False)
    for axes, (name, curves) in zip(row[0], drawn.items(), strict=True):
        axes.axvline(chosen, color="#888888", ls="--", lw=1, zorder=0)
        for k, (label, values) in enumerate(curves.items()):
            axes.plot(thresholds, values, color=CURVES[k % 3], marker="os^"[k % 3], label=label)
        axes.set_yscale("symlog", linthresh=1)
        axes.set(xlabel="threshold", ylabel=name, ylim=(0, None))
        axes.grid(axis="y")
    labels = row[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside upper left", ncols=3, frameon=False)
    return figure
