"""Figures of a run: its losses, its scores and log probabilities, and the distance ratios of its samples.

Curves of several models go by their label. Of n observations `log_px` is in nats; `high` is bool, True where
highly memorized; `rho` is that of `neighbors.distance_ratio`, left out and counted in the legend where it is
not finite. Bins of log P have `edges` (m,), ascending; two open bins take what lies below and above.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from memlib.checks import Floats, Ints, as_array, check_range
from memlib.figures.style import (
    BLUE,
    CURVES,
    WIDTH,
    YELLOW,
    Curves,
    Images,
    bin_count,
    check_array,
    check_ascending,
    check_bools,
    check_curves,
    check_images,
    draw_density,
    note_left_out,
    number,
    require,
    styled,
    tile,
)
from memlib.memorization import least_observations

FEWEST = 20  # observations of a distribution: as many as have a top 5 %, five for each parameter of the fit


@styled
def losses(train_loss: Curves, test_loss: Curves, first_epoch: int = 6) -> Figure:
    """Draw the loss over the epochs, of the training set (solid) and the test set (dashed).

    Args:
        train_loss: (epochs,), per image in nats, from epoch 1 on; or label -> (epochs,) to overlay models.
        test_loss: the same for the test set.
        first_epoch: the first one drawn, 1-based, at most the number of epochs. The paper leaves out five.

    Source: paper, figure 4a.
    """
    train, test = check_curves("train_loss", train_loss, None), check_curves("test_loss", test_loss, None)
    lengths = {name: len(curve) for name, curve in train.items()}
    same = lengths == {name: len(curve) for name, curve in test.items()}
    require(same, "train_loss and test_loss must have the same labels and lengths")
    check_range(1, min(lengths.values()), first_epoch=first_epoch)
    before = first_epoch - 1
    lines = {name: {"train": train[name][before:], "test": test[name][before:]} for name in train}
    epochs = {name: np.arange(first_epoch, n + 1) for name, n in lengths.items()}
    return _epochs(epochs, lines, "loss per image (nats)")


@styled
def quantile_curves(epochs: ArrayLike, M: Curves, levels: Sequence[float] = (0.95, 0.999)) -> Figure:
    """Draw upper quantiles of the score over the epochs.

    Args:
        epochs: (evaluated epochs,), the x axis.
        M: (evaluated epochs, n), in nats, n at least 20; or label -> such an array to overlay several models.
        levels: quantiles in 0..1; one line style each. Of one that needs more observations than there are,
            such as the 0.999 quantile of fewer than 1000, the legend says how many there are.

    Source: paper, figure 4b.
    """
    epochs = check_array("epochs", epochs, None)
    M = check_curves("M", M, len(epochs), None)
    for level in levels:
        check_range(0, 1, levels=level)
    lines = {}
    for name, scores in M.items():
        n = scores.shape[1]
        require(n >= FEWEST, f"M must have at least {FEWEST} observations, got {n}")
        only = {level: f" of only {n}" if n < least_observations(level) else "" for level in levels}
        lines[name] = {f"{q:g} quantile{few}": np.quantile(scores, q, axis=1) for q, few in only.items()}
    return _epochs(dict.fromkeys(M, epochs), lines, "quantile of $M$ (nats)", marker="o")


def fit_johnson_su(M: ArrayLike) -> tuple[float, float, float, float]:
    """Fit a Johnson SU distribution to M (n,), not all equal, n at least 20, by maximum likelihood.

    Returns a, b, loc and scale of `scipy.stats.johnsonsu`: (M - loc) / scale = sinh((t - a) / b), t normal.
    """
    from scipy.stats import johnsonsu

    M = check_array("M", M, None)
    require(np.ptp(M) > 0, "M must not be all equal for a distribution to be fitted")
    require(len(M) >= FEWEST, f"M must have at least {FEWEST} observations, got {len(M)}")
    # A search in the data's own unit: scipy's start is far off for heavy tails.
    low, center, high = np.quantile(M, (0.25, 0.5, 0.75))
    unit = high - low or np.ptp(M)
    a, b, loc, scale = johnsonsu.fit((M - center) / unit, 0, 1, loc=0, scale=1)
    return float(a), float(b), float(center + unit * loc), float(unit * scale)


@styled
def score_density(M: Curves, quantile: float = 0.95, x_range: tuple[float, float] | None = None) -> Figure:
    """Draw the density of the score: histogram, Johnson SU fit, dashed line at a quantile.

    Args:
        M: (n,), in nats, n at least 20; or label -> (n,) to overlay several models.
        quantile: in 0..1, above it an observation is called highly memorized; n must be enough to have it.
        x_range: what is shown, in nats, ascending; the paper's is (-15, 35), without it the middle 99.8 % of
            the scores. Densities count the scores outside too.

    Source: paper, figure 4c.
    """
    from scipy.stats import johnsonsu

    M = check_curves("M", M, None)
    check_range(0, 1, quantile=quantile)
    fewest, least = min(map(len, M.values())), least_observations(quantile)
    require(
        fewest >= least, f"M must have at least {least} observations for a {quantile} quantile, got {fewest}"
    )
    if x_range is None:
        x_range = tuple(np.quantile(np.concatenate(list(M.values())), (0.001, 0.999)))
    require(x_range[0] < x_range[1], f"x_range must be ascending, got {x_range}")
    fits = {name: fit_johnson_su(scores) for name, scores in M.items()}
    edges = np.linspace(*x_range, bin_count(*M.values(), at_most=80) + 1)
    grid = np.linspace(*x_range, 500)
    figure, axes = plt.subplots(layout="constrained")
    for k, (name, scores) in enumerate(M.items()):
        color, prefix = CURVES[k % 3], f"{name}, " if name else ""
        threshold = np.quantile(scores, quantile)
        draw_density(axes, scores, edges, color, prefix + "$M$")
        axes.plot(grid, johnsonsu.pdf(grid, *fits[name]), color=color, label=prefix + "Johnson SU fit")
        label = f"{prefix}{quantile:g} quantile: {number(threshold)}"
        axes.axvline(threshold, color=color, ls="--", lw=1.4, label=label)
    axes.set(xlabel="$M$ (nats)", ylabel="density (1/nat)", xlim=x_range)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none")  # a quantile's line may pass behind
    return figure


def _epochs(x: Mapping[str, Floats], lines: Mapping[str, Mapping], ylabel: str, **style: str) -> Figure:
    """Draw curves by model and kind; models differ in color, kinds in dash (one model's in color too)."""
    figure, axes = plt.subplots(layout="constrained")
    for k, (name, kinds) in enumerate(lines.items()):
        for j, (kind, curve) in enumerate(kinds.items()):
            color, dash = CURVES[(k if len(lines) > 1 else j) % 3], ("-", "--", ":")[j % 3]
            label = f"{name}, {kind}" if name else kind
            axes.plot(x[name], curve, dash, color=color, label=label, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.grid(axis="y")
    crowded = len(axes.lines) > 2  # then any place inside may hide a curve
    axes.legend(**({"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2} if crowded else {}))
    return figure


def auto_edges(values: ArrayLike, count: int = 12) -> Floats:
    """Choose bin edges at round numbers that hold the middle 99 % of the values.

    Args:
        values: (n,), finite.
        count: about how many bins, at least 1.

    Returns:
        Equidistant edges, multiples of 1, 2, 2.5 or 5 times a power of ten: at least 2, at most count + 2.

    >>> auto_edges(range(-150, -30), count=6)
    array([-160., -140., -120., -100.,  -80.,  -60.,  -40.,  -20.])
    """
    values = check_array("values", values, None)
    check_range(1, count=count)
    low, high = np.quantile(values, (0.005, 0.995))
    least = (high - low) / count or 1.0
    power = 10.0 ** np.floor(np.log10(least))
    step = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))
    first = np.floor(low / step)
    last = max(np.ceil(high / step), first + 1)
    return np.round(step * np.arange(first, last + 1), 12 - int(np.ceil(np.log10(step))))


@styled
def log_prob_histogram(log_px: ArrayLike, high: ArrayLike, images: Images, edges: ArrayLike) -> Figure:
    """Draw how many regular and highly memorized observations each bin of log P holds, with examples.

    The number above a bar counts its highly memorized observations. A column of examples from `images`, uint8
    (n, C, H, W), holds up to four observations, drawn at random but always the same, from the bin its dashed
    line leads to, half of them highly memorized if there are as many. Up to eight columns are spread over the
    bins that are not empty.

    Source: paper, figures 3a, 10a and 11a.
    """
    images = check_images(images)
    log_px = check_array("log_px", log_px, len(images))
    which, counts, edges = _bin(log_px, high, edges)
    columns, per_column = 8, 4
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
    high, rng = as_array("high", high, bool), np.random.default_rng(0)
    for k, b in enumerate(chosen):
        center, bar = left + (k + 0.5) * span / len(chosen), left + (b + 0.5) * span / counts.shape[1]
        ends = [[bar / WIDTH, center / WIDTH], [1 - (top + plot) / total, per_column * size / total]]
        figure.add_artist(Line2D(*ends, color="#888888", ls="--", lw=0.9, zorder=-1))
        inside = rng.permutation(np.flatnonzero(which == b))
        memorized, regular = inside[high[inside]], inside[~high[inside]]
        memorized = memorized[: max(per_column // 2, per_column - len(regular))]
        examples = np.concatenate([memorized, regular[: per_column - len(memorized)]])
        for row, i in enumerate(examples):
            color = YELLOW if high[i] else BLUE
            tile(figure, images[i], center - size / 2, top + plot + gap + row * size, size, frame=color)
    return figure


@styled
def log_prob_proportions(log_px: ArrayLike, high: ArrayLike, edges: ArrayLike) -> Figure:
    """Draw the proportion of regular and highly memorized observations in each bin of log P.

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
        rho: (n,); or label -> (n,) to draw several, side by side in each bin.
        width: of a bin, in nats, above 0. Bins are closed on the left, the last one on both sides.
        low: start of the first bin.
        high: end of the last bin, above `low`; rounded up to a whole number of bins.

    Source: paper, figures 5a, 12a and 13a.
    """
    from scipy.stats import binned_statistic

    M = check_array("M", M, None, finite=False)
    versions = check_curves("rho", rho, len(M), finite=False)
    require(
        width > 0 and low < high and bool(np.isfinite([width, low, high]).all()),
        f"bins must be finite with width > 0 and low < high, got width {width}, {low} to {high}",
    )
    # Without the margin a range of exactly k bins, such as 0 to 0.3 by 0.1, would round up to k + 1.
    edges = low + width * np.arange(np.ceil((high - low) / width - 1e-9) + 1)
    edges[-1] = max(edges[-1], high)
    kept = {k: (M >= low) & (M <= edges[-1]) & np.isfinite(values) for k, values in versions.items()}
    require(all(inside.any() for inside in kept.values()), "rho must have finite values within the bins")
    figure, axes = plt.subplots(layout="constrained")
    axes.axhline(1, color="#888888", ls="--", lw=1, zorder=0)
    for k, (label, values) in enumerate(versions.items()):
        inside = M[kept[label]], values[kept[label]]
        mean, spread, count = (binned_statistic(*inside, name, edges)[0] for name in ("mean", "std", "count"))
        beside = 0.3 * width * (k - (len(versions) - 1) / 2)
        style = {"fmt": "os^"[k % 3], "color": CURVES[k % 3], "elinewidth": 1.2}
        with np.errstate(invalid="ignore"):  # a single value has no standard error, a bin without any no mean
            error = 1.96 * spread / np.sqrt(count - 1)
        axes.errorbar((edges[:-1] + edges[1:]) / 2 + beside, mean, error, label=label or None, **style)
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

    Source: paper, figures 5b, 12b and 13b.
    """
    rho = check_array("rho", rho, None, finite=False)
    high = check_bools("high", high, rho.shape)
    finite = np.isfinite(rho)
    require(finite.any(), "rho must have finite values")
    low, top = np.quantile(rho[finite], (0.001, 0.999))
    groups = [rho[finite & ~high], rho[finite & high]]
    largest = max(map(len, groups))
    require(largest >= 5, f"rho must have at least 5 finite values in a group, got {largest}")
    edges = np.linspace(low, top if top > low else low + 1, bin_count(*groups, at_most=60) + 1)
    figure, axes = plt.subplots(layout="constrained")
    for values, color, label in zip(groups, (BLUE, YELLOW), ("regular", "highly memorized"), strict=True):
        if len(values) < 5:
            axes.plot([], [], " ", label=f"{label}: {len(values)}, too few for a density")
        else:
            draw_density(axes, values, edges, color, label)
    axes.axvline(1, color="#888888", ls="--", lw=1)
    axes.set(xlabel=r"$\rho$", ylabel="density", xlim=(edges[0], edges[-1]))
    axes.legend()
    note_left_out(axes, finite)
    return figure


def _bin(log_px: ArrayLike, high: ArrayLike, edges: ArrayLike) -> tuple[Ints, Ints, Floats]:
    """Assign to bins 0..m, first and last open, and count regular and highly memorized ones (2, m + 1)."""
    log_px, edges = check_array("log_px", log_px, None), check_ascending("edges", edges)
    high = check_bools("high", high, log_px.shape)
    which = np.searchsorted(edges, log_px, side="right")
    counts = [np.bincount(which[group], minlength=len(edges) + 1) for group in (~high, high)]
    return which, np.array(counts), edges


def _stacked(axes: Axes, heights: NDArray, edges: Floats, ylabel: str) -> BarContainer:
    """Draw yellow on blue, one bar per bin at 0, 1, 2, ... with the edges as tick labels between the bars."""
    bins = np.arange(len(edges) + 1)
    bar = {"width": 1.0, "edgecolor": "white", "linewidth": 0.8}
    axes.bar(bins, heights[0], color=BLUE, label="regular", **bar)
    upper = axes.bar(bins, heights[1], bottom=heights[0], color=YELLOW, label="highly memorized", **bar)
    shown = np.arange(len(edges))[:: -(-len(edges) // 8)]
    labels = [f"{edge:.10g}".replace("-", "\N{MINUS SIGN}") for edge in edges[shown]]
    infinity = ["\N{MINUS SIGN}\N{INFINITY}", "\N{INFINITY}"]
    axes.set_xticks([-0.5, *(shown + 0.5), len(edges) + 0.5], [infinity[0], *labels, infinity[1]])
    axes.set(ylabel=ylabel, xlim=(-0.5, len(edges) + 0.5))
    axes.set_xlabel(r"$\log P_{\mathcal{A}}(x\,|\,\mathcal{D})$ (nats)")
    # Above the axes: any bar may be the highest.
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    return upper
