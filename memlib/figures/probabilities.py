"""Figures of log probabilities and distances: the highly memorized observations against the regular ones."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from memlib.checks import Floats, Ints
from memlib.figures.style import (
    BLUE,
    CURVES,
    WIDTH,
    YELLOW,
    Curves,
    Images,
    bin_count,
    by_label,
    check_images,
    check_vector,
    draw_density,
    note_left_out,
    require,
    styled,
    tile,
)

FEWEST = 5  # values of a group that have a density
LOG_P = r"$\log P_{\mathcal{A}}(x\,|\,\mathcal{D})$ (nats)"


def auto_edges(values: ArrayLike, count: int = 12) -> Floats:
    """Choose bin edges at round numbers that hold the middle 99 % of the values.

    Args:
        values: (n,), finite.
        count: about how many bins, at least 1.

    Returns:
        Equidistant edges, multiples of 1, 2, 2.5 or 5 times a power of ten: at least 2, at most count + 2.

    Raises:
        ValueError: if `values` or `count` is not as above.

    >>> auto_edges(range(-150, -30), count=6)
    array([-160., -140., -120., -100.,  -80.,  -60.,  -40.,  -20.])
    """
    values = check_vector("values", values)
    require(count >= 1, f"count must be at least 1, got {count}")
    low, high = np.quantile(values, (0.005, 0.995))
    least = (high - low) / count or 1.0
    power = 10.0 ** np.floor(np.log10(least))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)
    return np.round(step * np.arange(first, last + 1), 12 - int(np.ceil(np.log10(step))))


@styled
def log_prob_histogram(
    log_px: ArrayLike,
    high: ArrayLike,
    images: Images,
    edges: ArrayLike,
    columns: int = 8,
    per_column: int = 4,
    seed: int = 0,
) -> Figure:
    """Draw how many regular and highly memorized observations each bin of log P holds, with examples.

    The number above a bar counts its highly memorized observations. A column of examples holds observations
    drawn at random from the bin its dashed line leads to, half of them highly memorized if there are as many.

    Args:
        log_px: (n,), in nats.
        high: bool (n,), True for the highly memorized.
        images: uint8 (n, C, H, W).
        edges: (m,) ascending, m at least 2; two open bins take what lies below and above.
        columns: of examples at most, at least 1, from bins spread over all that are not empty.
        per_column: examples in a column at most, at least 1.
        seed: of the random choice.

    Source: paper, figures 3a, 10a and 11a.
    """
    images = check_images(images)
    which, counts, edges = _bin(log_px, high, edges, len(images))
    require(
        columns >= 1 and per_column >= 1,
        f"columns and per_column must be at least 1, got {columns}, {per_column}",
    )
    left, top, plot, gap = 0.82, 0.34, 2.45, 0.78
    span = WIDTH - left - 0.14  # room for half of the last tick label
    size = min(span / columns, 0.8)
    figure = plt.figure(figsize=(WIDTH, top + plot + gap + per_column * size))
    total = figure.get_figheight()
    axes = figure.add_axes((left / WIDTH, 1 - (top + plot) / total, span / WIDTH, plot / total))
    bars = _stacked(axes, counts, edges, "observations")
    labels = [f"{memorized}" if regular + memorized else "" for regular, memorized in counts.T]
    axes.bar_label(bars, labels, padding=1, fontsize=9)
    axes.margins(y=0.1)
    for text in (axes.xaxis.label, *axes.get_xticklabels()):
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 1})  # the dashed lines pass behind

    filled = np.flatnonzero(counts.sum(axis=0))
    chosen = filled[np.unique(np.linspace(0, len(filled) - 1, min(columns, len(filled))).round().astype(int))]
    high, rng = np.asarray(high, dtype=bool), np.random.default_rng(seed)
    for k, b in enumerate(chosen):
        center, bar = left + (k + 0.5) * span / len(chosen), left + (b + 0.5) * span / counts.shape[1]
        ends = [[bar / WIDTH, center / WIDTH], [1 - (top + plot) / total, per_column * size / total]]
        figure.add_artist(Line2D(*ends, color="#888888", ls="--", lw=0.9, zorder=-1))
        inside = rng.permutation(np.flatnonzero(which == b))
        memorized, regular = inside[high[inside]], inside[~high[inside]]
        half = max(-(-per_column // 2), per_column - len(regular))
        memorized = memorized[:half]
        examples = np.concatenate([memorized, regular[: per_column - len(memorized)]])
        for row, i in enumerate(examples):
            color = YELLOW if high[i] else BLUE
            tile(figure, images[i], center - size / 2, top + plot + gap + row * size, size, frame=color)
    return figure


@styled
def log_prob_proportions(log_px: ArrayLike, high: ArrayLike, edges: ArrayLike) -> Figure:
    """Draw the proportion of regular and highly memorized observations in each bin of log P.

    Args:
        log_px: (n,), in nats.
        high: bool (n,), True for the highly memorized.
        edges: (m,) ascending, m at least 2; two open bins take what lies below and above.

    Source: paper, figures 3b, 10b and 11b.
    """
    _, counts, edges = _bin(log_px, high, edges)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.0), layout="constrained")
    _stacked(axes, counts / np.maximum(counts.sum(axis=0), 1), edges, "proportion")
    axes.set_ylim(0, 1)
    return figure


@styled
def ratio_by_score(M: ArrayLike, rho: Curves, width: float, low: float, high: float) -> Figure:
    """Draw the mean distance ratio per bin of the score, with bars of 1.96 standard errors.

    Args:
        M: (n,), in nats.
        rho: (n,), see `neighbors.distance_ratio`; or label -> (n,) to draw several, side by side in
            each bin. Left out and counted in the legend where not finite.
        width: of a bin, in nats, above 0.
        low: start of the first bin.
        high: end of the last bin, above `low`.

    Source: paper, figures 5a, 12a and 13a.
    """
    versions = by_label(rho)
    require(len(versions) > 0, "rho must have an entry")
    figure, axes = plt.subplots(layout="constrained")
    axes.axhline(1, color="#888888", ls="--", lw=1, zorder=0)
    for k, (label, values) in enumerate(versions.items()):
        edges, mean, sem, count = binned_mean(M, values, width, low, high)
        filled = count > 0
        beside = 0.3 * width * (k - (len(versions) - 1) / 2)
        places, error = ((edges[:-1] + edges[1:]) / 2 + beside)[filled], 1.96 * sem[filled]
        style = {"fmt": "os^"[k % 3], "color": CURVES[k % 3], "elinewidth": 1.2}
        axes.errorbar(places, mean[filled], error, label=label or None, **style)
        note_left_out(axes, np.isfinite(values))
    axes.set(xlabel="$M$ (nats)", ylabel=r"mean of $\rho$", xlim=(edges[0], edges[-1]))
    axes.grid(axis="y")
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    return figure


@styled
def ratio_density(rho: ArrayLike, high: ArrayLike) -> Figure:
    """Draw the density of the distance ratio, highly memorized against regular, on common bins.

    The middle 99.8 % of all values are shown; densities count those outside too. A group of fewer than five
    has none, and the legend says how many it has.

    Args:
        rho: (n,); where it is not finite, left out and counted in the legend.
        high: bool (n,), True for the highly memorized.

    Source: paper, figures 5b, 12b and 13b.
    """
    rho, high = np.asarray(rho, dtype=np.float64), np.asarray(high)
    require(
        rho.ndim == 1 and rho.shape == high.shape, f"rho and high must be (n,), got {rho.shape}, {high.shape}"
    )
    require(high.dtype == bool, f"high must be bool, got {high.dtype}")
    finite = np.isfinite(rho)
    require(finite.any(), "rho must have finite values")
    low, top = np.quantile(rho[finite], (0.001, 0.999))
    groups = [rho[finite & ~high], rho[finite & high]]
    largest = max(map(len, groups))
    require(largest >= FEWEST, f"rho must have at least {FEWEST} finite values in a group, got {largest}")
    edges = np.linspace(low, top if top > low else low + 1, bin_count(*groups, at_most=60) + 1)
    figure, axes = plt.subplots(layout="constrained")
    for values, color, label in zip(groups, (BLUE, YELLOW), ("regular", "highly memorized"), strict=True):
        if len(values) < FEWEST:
            axes.plot([], [], " ", label=f"{label}: {len(values)}, too few for a density")
        else:
            draw_density(axes, values, edges, color, label)
    axes.axvline(1, color="#888888", ls="--", lw=1)
    axes.set(xlabel=r"$\rho$", ylabel="density", xlim=(edges[0], edges[-1]))
    axes.legend()
    note_left_out(axes, finite)
    return figure


def _bin(
    log_px: ArrayLike, high: ArrayLike, edges: ArrayLike, n: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Assign to bins 0..m, first and last open, and count regular and highly memorized ones (2, m + 1)."""
    log_px, edges, high = check_vector("log_px", log_px, n), check_vector("edges", edges), np.asarray(high)
    require(
        high.dtype == bool and high.shape == log_px.shape,
        f"high must be bool {log_px.shape}, as log_px, got {high.dtype} {high.shape}",
    )
    require(
        len(edges) >= 2 and (np.diff(edges) > 0).all(), f"edges must be two or more, ascending, got {edges}"
    )
    which = np.searchsorted(edges, log_px, side="right")
    counts = [np.bincount(which[group], minlength=len(edges) + 1) for group in (~high, high)]
    return which, np.array(counts), edges


def _stacked(axes: Axes, heights: NDArray, edges: Floats, ylabel: str) -> BarContainer:
    """Draw yellow on blue, one bar per bin at 0, 1, 2, ... with the edges as tick labels between the bars."""
    bins = np.arange(len(edges) + 1)
    bar = {"width": 1.0, "edgecolor": "white", "linewidth": 0.8}
    axes.bar(bins, heights[0], color=BLUE, label="regular", **bar)
    upper = axes.bar(bins, heights[1], bottom=heights[0], color=YELLOW, label="highly memorized", **bar)
    step = -(-len(edges) // 8)
    shown = np.arange(len(edges))[::step]
    labels = [f"{edge:.10g}".replace("-", "\N{MINUS SIGN}") for edge in edges[shown]]
    infinity = ["\N{MINUS SIGN}\N{INFINITY}", "\N{INFINITY}"]
    axes.set_xticks([-0.5, *(shown + 0.5), len(edges) + 0.5], [infinity[0], *labels, infinity[1]])
    axes.set(xlabel=LOG_P, ylabel=ylabel, xlim=(-0.5, len(edges) + 0.5))
    # Above the axes: any bar may be the highest.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return upper


def binned_mean(
    scores: ArrayLike, values: ArrayLike, width: float, low: float, high: float
) -> tuple[Floats, Floats, Floats, Ints]:
    """Average `values` over bins of `scores`, with the standard error of each mean.

    Args:
        scores: (n,), what the bins are made of; observations outside the bins, or nan, are left out.
        values: (n,), what is averaged; values that are not finite (rho of an exact copy) are left out.
        width: of a bin, above 0, in the unit of `scores`.
        low: start of the first bin.
        high: end of the last bin, above `low`; rounded up to a whole number of bins. Bins are closed on the
            left, the last one on both sides.

    Returns:
        edges (bins + 1,), mean (bins,) with nan for an empty bin, standard error (bins,) with nan for fewer
        than two values, count (bins,) of the values averaged.

    Raises:
        ValueError: if shapes differ, `width` is not positive or `high` not above `low`.

    Source: paper, figure 5a.

    >>> binned_mean([0.1, 0.3, 1.5], [1.0, 3.0, 7.0], 1.0, 0.0, 2.0)[1]
    array([2., 7.])
    """
    scores, values = np.asarray(scores, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.shape != values.shape:
        raise ValueError(f"scores and values must both be (n,), got {scores.shape} and {values.shape}")
    if not (width > 0 and low < high and np.isfinite([width, low, high]).all()):
        raise ValueError(
            f"bins must be finite with width > 0 and low < high, got width {width}, {low} to {high}"
        )
    # Without the margin a range of exactly k bins, such as 0 to 0.3 by 0.1, would round up to k + 1.
    bins = int(np.ceil((high - low) / width - 1e-9))
    edges = low + width * np.arange(bins + 1)
    edges[-1] = max(edges[-1], high)
    kept = (scores >= edges[0]) & (scores <= edges[-1]) & np.isfinite(values)
    values = values[kept]
    which = np.minimum(np.searchsorted(edges, scores[kept], side="right") - 1, bins - 1)
    count = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(which, weights=values, minlength=bins) / count
        squares = np.bincount(which, weights=(values - mean[which]) ** 2, minlength=bins)
        sem = np.where(count > 1, np.sqrt(squares / (count - 1) / count), np.nan)
    return edges, mean, sem, count
