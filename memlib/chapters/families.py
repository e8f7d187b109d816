"""Chapter 17: which images several families of models remember, and how alike they rank them."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from memlib.checks import Floats, Ints, check_range
from memlib.figures.style import BLUE, RED, WIDTH, Images, check_array, check_images, require, styled, tile


def standing_out(gaps: Mapping[str, ArrayLike], count: int) -> dict[str, Ints]:
    """The images that all families remember, and those that one alone does, by ranks of the gap.

    Args:
        gaps: of each of two or more families, (n,), nats.
        count: images of each kind, 1..n.

    Returns:
        "all": those whose lowest rank is highest. By the name of a family, those that rank highest in it,
        compared with their highest rank in any other. Positions, best first, each (count,).

    Raises:
        ValueError: fewer than two families, gaps that do not fit, or another count.
    """
    require(len(gaps) > 1, f"gaps must be of two families or more, got {list(gaps)}")
    n = np.size(next(iter(gaps.values())))
    check_range(1, n, count=count)
    ranks = np.stack([rankdata(check_array(f"gaps of {name}", gap, n)) for name, gap in gaps.items()])
    leads = {"all": ranks.min(0)}
    for k, name in enumerate(gaps):
        leads[name] = ranks[k] - np.delete(ranks, k, 0).max(0)
    return {name: np.argsort(-lead, kind="stable")[:count] for name, lead in leads.items()}


def share_explained(score: ArrayLike, *columns: ArrayLike) -> float:
    """The share of the variance of a score's ranks that a linear regression on other numbers explains.

    Args:
        score: (n,).
        columns: numbers (n,), or several, (n, m); n is larger than all of them by 2 or more.

    Returns:
        R squared, adjusted for the number of columns: 0 on average where they have nothing to do with it.

    Raises:
        ValueError: shapes that do not fit, or numbers that are not finite.

    Source: Theil (1961) for the adjustment.
    """
    ranks = rankdata(check_array("score", score, None))
    n = len(ranks)
    parts = [check_array("columns", np.reshape(c, (len(c), -1)), n, None) for c in columns]
    design = np.column_stack([np.ones(n), *parts])
    beta, _, rank, _ = np.linalg.lstsq(design, ranks)
    check_range(rank + 1, **{"the number of images": n})
    left = ranks - design @ beta
    return float(1 - left.var() / ranks.var() * (n - 1) / (n - rank))


@styled
def remembered(
    correlations: ArrayLike, names: Sequence[str], images: Images, groups: Mapping[str, ArrayLike]
) -> Figure:
    """Draw a matrix of correlations, and beside it rows of images.

    Args:
        correlations: (f, f), -1 to 1; NaN, where there is none, is written as a dash.
        names: of the f families, in order.
        images: uint8 (n, C, H, W).
        groups: name of a row -> positions of its images, as many in each.

    Raises:
        ValueError: arrays that do not fit together, or correlations outside of -1..1.
    """
    values, images = (
        check_array("correlations", correlations, *[len(names)] * 2, finite=False),
        check_images(images),
    )
    require(bool((np.abs(values[~np.isnan(values)]) <= 1).all()), "correlations must be within -1..1")
    rows = [np.asarray(group) for group in groups.values()]
    require(len({len(row) for row in rows}) == 1, f"rows must be as long, got {[len(row) for row in rows]}")
    side, label, top = 2.7, 0.75, 0.3  # inches: of the matrix and its place, room for names
    left = label + side + 1.2  # of the images
    size = (WIDTH - left) / len(rows[0])
    height = top + max(side, size * len(rows))
    figure = plt.figure(figsize=(WIDTH, height))
    axes = figure.add_axes((label / WIDTH, 1 - (top + side) / height, side / WIDTH, side / height))
    _matrix(axes, values, names)
    for i, (name, row) in enumerate(zip(groups, rows, strict=True)):
        at = top + i * size
        figure.text(
            (left - 0.08) / WIDTH, 1 - (at + size / 2) / height, name, ha="right", va="center", fontsize=9
        )
        for k, image in enumerate(images[row]):
            tile(figure, image, left + k * size, at, size)
    return figure


def _matrix(axes: Axes, values: Floats, names: Sequence[str]) -> None:
    """Write correlations into cells, the darker the stronger: blue above zero, red below."""
    for (row, column), value in np.ndenumerate(values):
        missing = np.isnan(value)
        color, alpha = BLUE if value > 0 else RED, 0 if missing else 0.6 * abs(value)
        for paint, opacity in (("#EEF1F5", 1), (color, alpha)):
            axes.add_patch(Rectangle((column, row), 1, 1, facecolor=paint, alpha=opacity, edgecolor="none"))
        text = "\N{EN DASH}" if missing else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9, color="#111111")
    middles = np.arange(len(names)) + 0.5
    axes.set_xticks(middles, names, fontsize=9)
    axes.set_yticks(middles, names, fontsize=9)
    axes.set(xlim=(0, len(names)), ylim=(len(names), 0))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
