"""Figures of other yardsticks: what each says of which generator, and of the submissions to a competition."""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from memlib.figures.style import (
    BLUE,
    RED,
    WIDTH,
    YELLOW,
    check_curves,
    check_vector,
    number,
    require,
    styled,
)

COLORS = (BLUE, RED, YELLOW, "#228833", "#888888")  # of labels, most important first
MARKERS = "os^Dv"


@styled
def verdicts(
    values: ArrayLike, noticed: ArrayLike, generators: Sequence[str], yardsticks: Sequence[str]
) -> Figure:
    """Draw what every yardstick gives every generator as a table, in yellow where it speaks against it.

    Args:
        values: (g, y); written with three digits, a dash for NaN.
        noticed: bool (g, y), what is colored.
        generators: names of the rows.
        yardsticks: names of the columns.
    """
    values, noticed = np.asarray(values, dtype=np.float64), np.asarray(noticed)
    shape = len(generators), len(yardsticks)
    require(
        min(shape) > 0 and values.shape == shape and noticed.shape == shape and noticed.dtype == bool,
        f"values and bool noticed must be {shape}, got {values.shape}, {noticed.dtype} {noticed.shape}",
    )
    figure, axes = plt.subplots(figsize=(WIDTH, 0.31 * shape[0] + 0.75), layout="constrained")
    axes.pcolormesh(
        noticed, cmap=ListedColormap(["#EEF1F5", YELLOW]), vmin=0, vmax=1, edgecolors="white", lw=2
    )
    for row, column in np.ndindex(shape):
        text = "\N{EN DASH}" if np.isnan(values[row, column]) else _short(values[row, column])
        weight = "bold" if noticed[row, column] else "normal"
        place = column + 0.5, row + 0.5
        axes.text(*place, text, ha="center", va="center", fontsize=8, color="#111111", weight=weight)
    axes.set_xticks(np.arange(shape[1]) + 0.5, yardsticks, fontsize=8)
    axes.set_yticks(np.arange(shape[0]) + 0.5, generators, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    return figure


def _short(value: float) -> str:
    """Three digits, two below 0.1; what is too long for a cell as a power of ten."""
    if 0 < abs(value) < 0.1:
        return f"{value:.2g}".replace("-", "\N{MINUS SIGN}")
    if abs(value) < 1e5:
        return number(value)
    size = r"\infty" if np.isinf(value) else f"10^{{{np.log10(abs(value)):.0f}}}"
    return f"${'-' if value < 0 else ''}{size}$"


@styled
def by_share(shares: ArrayLike, curves: Mapping[str, ArrayLike], xlabel: str, ylabel: str) -> Figure:
    """Draw how much yardsticks speak against mixtures, by the share of copies, with the line of chance at 1.

    Args:
        shares: (s,) ascending, 0 to 1; drawn at equal steps, and named in percent.
        curves: name of the yardstick -> (s,), 1 at the worst that chance brought.
        xlabel, ylabel: names of the axes.
    """
    shares = check_vector("shares", shares)
    require(
        (np.diff(shares) > 0).all() and shares[0] >= 0 and shares[-1] <= 1,
        f"shares must ascend within 0 to 1, got {shares}",
    )
    curves = check_curves("curves", curves)
    require(all(c.shape == shares.shape for c in curves.values()), f"curves must be ({len(shares)},)")
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    places = np.arange(len(shares))
    axes.axhline(1, color="#888888", ls="--", lw=1)
    for k, (label, values) in enumerate(curves.items()):
        axes.plot(places, values, color=COLORS[k % 5], marker=MARKERS[k % 5], label=label)
    axes.set_yscale("symlog", linthresh=2)
    axes.set_xticks(places, [f"{100 * share:g}" for share in shares])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


@styled
def scatter_by_label(
    panels: Mapping[str, tuple[ArrayLike, ArrayLike]],
    label: ArrayLike,
    names: Mapping[str, str],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Draw pairs of numbers in the color of their label, a panel for each kind of pair.

    Args:
        panels: title -> (x (n,), y (n,)), NaN for what has none.
        label: (n,) of strings.
        names: label -> its name in the legend, at most five; others are not drawn. The first are on top.
        xlabel, ylabel: names of the axes.
    """
    label = np.asarray(label)
    require(0 < len(names) <= len(COLORS), f"names must be 1 to {len(COLORS)}, got {len(names)}")
    require(len(panels) > 0, "panels must have an entry")
    pairs = {t: [np.asarray(values, dtype=np.float64) for values in pair] for t, pair in panels.items()}
    for title, (x, y) in pairs.items():
        require(x.shape == y.shape == label.shape, f"{title}: x, y and label must be of one shape")
    figure, row = plt.subplots(
        1, len(panels), figsize=(WIDTH, 4.3 - 0.4 * (len(panels) > 1)), layout="constrained", squeeze=False
    )
    for axes, (title, (x, y)) in zip(row[0], pairs.items(), strict=True):
        for k, (own, name) in enumerate(names.items()):
            which = label == own
            style = {"s": 13, "alpha": 0.65, "lw": 0, "zorder": 9 - k, "marker": MARKERS[k]}
            axes.scatter(x[which], y[which], color=COLORS[k], label=name, **style)
        axes.set(xlabel=xlabel, title=title)
        axes.grid()
    row[0, 0].set_ylabel(ylabel)
    _legend(figure)
    return figure


@styled
def histograms(
    panels: Mapping[str, Mapping[str, ArrayLike]], xlabel: str, lines: Mapping[str, float] | None = None
) -> Figure:
    """Draw counts over the same bins, several groups in a panel, panels one below the other.

    Args:
        panels: title -> {name of the group: (n,)}, at most five groups, the same in all panels.
        xlabel: names the values, with their unit.
        lines: title -> where a dashed line goes.
    """
    _check_groups(panels.values())
    drawn = {title: check_curves(title, groups) for title, groups in panels.items()}
    lines = lines or {}
    require(lines.keys() <= panels.keys(), f"lines must be of {[*panels]}, got {[*lines]}")
    size = (WIDTH, 1.9 * len(drawn) + 0.8)
    figure, column = plt.subplots(len(drawn), 1, figsize=size, layout="constrained", squeeze=False)
    for axes, (title, groups) in zip(column[:, 0], drawn.items(), strict=True):
        values = np.concatenate([*groups.values()])
        ends = [values.min(), values.max()] + ([lines[title]] if title in lines else [])
        edges = np.linspace(min(ends), max(ends), 61)
        for k, (name, own) in enumerate(groups.items()):
            counts = np.histogram(own, edges)[0]
            axes.stairs(counts, edges, fill=True, color=COLORS[k], alpha=0.3, lw=0)
            axes.stairs(counts, edges, color=COLORS[k], lw=1.1, label=name)
        if title in lines:
            axes.axvline(lines[title], color="#222222", ls="--", lw=1.2, label=r"$\epsilon$")
        axes.set_title(title, fontsize=10.5)
        axes.set(ylabel="submissions", yscale="symlog")
    column[-1, 0].set_xlabel(xlabel)
    _legend(figure)
    return figure


@styled
def caught_by_threshold(
    panels: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike], float]], xlabel: str
) -> Figure:
    """Draw the share of each group that lies below a threshold, a panel for each kind of threshold.

    Args:
        panels: title -> (thresholds (t,) ascending, {name of the group: shares (t,)}, where a dashed line
            goes), at most five groups, the same in all panels.
        xlabel: names the thresholds.
    """
    _check_groups([groups for _, groups, _ in panels.values()])
    drawn = {}
    for title, (thresholds, groups, line) in panels.items():
        at, curves = check_vector("thresholds", thresholds), check_curves(title, groups)
        require((np.diff(at) > 0).all(), f"{title}: thresholds must be ascending")
        require(
            all(c.shape == at.shape and c.min() >= 0 and c.max() <= 1 for c in curves.values()),
            f"{title}: shares must be ({len(at)},), 0 to 1",
        )
        drawn[title] = at, curves, line
    figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.6), layout="constrained", squeeze=False)
    for axes, (title, (at, curves, line)) in zip(row[0], drawn.items(), strict=True):
        for k, (name, shares) in enumerate(curves.items()):
            axes.plot(at, 100 * shares, color=COLORS[k], ls=("-", "--", "-.", ":", "-")[k], label=name)
        axes.axvline(line, color="#222222", ls="--", lw=1.2, label=r"$\epsilon$ of the competition")
        axes.set(xlabel=xlabel, title=title, ylim=(-2, 102))
        axes.grid()
    row[0, 0].set_ylabel("caught (%)")
    _legend(figure)
    return figure


def _check_groups(panels: Iterable[Iterable[str]]) -> None:
    groups = {tuple(panel) for panel in panels}
    require(
        len(groups) == 1 and len(*groups) <= len(COLORS),
        f"panels need the same groups, at most {len(COLORS)}, got {sorted(groups)}",
    )


def _legend(figure: Figure) -> None:
    """One for all panels, of what any of them has."""
    entries = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    style = {"loc": "outside upper left", "ncols": 3, "frameon": False, "fontsize": 9}
    figure.legend(entries.values(), entries.keys(), **style)
