"""Figures of estimates and of yardsticks: against what is known, with their errors, and what they notice.

`xlabel` and `ylabel` name what is drawn, with its unit.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from memlib.checks import check_range
from memlib.figures.style import (
    BLUE,
    CURVES,
    RED,
    WIDTH,
    YELLOW,
    Curves,
    check_array,
    check_ascending,
    check_bools,
    check_curves,
    draw_density,
    note_left_out,
    number,
    require,
    styled,
)


@styled
def known_scores(
    x: ArrayLike, index: int, grid: ArrayLike, panels: Mapping[str, tuple[ArrayLike, ArrayLike, float]]
) -> Figure:
    """Draw log densities with and without one observation: the gap between them at that point is its score.

    Args:
        x: (n,), the observations, shown as ticks.
        index: of the highlighted observation, 0..n-1.
        grid: (g,) ascending, around all observations.
        panels: title -> (log density on the grid fitted to all of x (g,), fitted without `index` (g,), M of
            `index`), in nats; a panel each, side by side.

    Source: paper, figure 1.
    """
    x, grid = check_array("x", x, None), check_ascending("grid", grid)
    check_range(0, len(x) - 1, index=index)
    require(grid[0] <= x.min() and x.max() <= grid[-1], "grid must reach around all observations")
    with_all = check_curves("log density", {title: panel[0] for title, panel in panels.items()}, len(grid))
    without_it = check_curves("log density", {title: panel[1] for title, panel in panels.items()}, len(grid))
    figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.7), layout="constrained", squeeze=False)
    for axes, (title, (_, _, M)) in zip(row[0], panels.items(), strict=True):
        full, without = with_all[title], without_it[title]
        at_x = np.interp(x, grid, full)
        top, gap = max(full.max(), without.max()), at_x[index] - M
        span = top - min(at_x.min(), gap)
        axes.plot(grid, full, color=BLUE, label="fitted to all observations")
        axes.plot(grid, without, color=BLUE, ls=(0, (2, 1.5)), lw=1.5, label="without the marked one")
        marked = {"color": RED, "lw": 3, "marker": "_", "label": "$M$ of the marked one"}
        axes.plot([x[index]] * 2, [gap, at_x[index]], **marked)
        for i, color, width in [(np.arange(len(x)) != index, BLUE, 1.0), ([index], RED, 2.5)]:
            axes.vlines(x[i], 0, 0.05, transform=axes.get_xaxis_transform(), color=color, lw=width)
        axes.set_title(title, fontsize=11)
        axes.set_title(f"$M$ = {M:.2f} nats", loc="right", fontsize=11, color=RED)
        axes.set(xlabel="$x$", xlim=grid[[0, -1]], ylim=(top - 1.35 * span, top + 0.08 * span))
    row[0, 0].set_ylabel("log density (nats)")
    figure.legend(*row[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def agreement(
    truth: ArrayLike, estimate: Curves, xlabel: str, ylabel: str, error: ArrayLike | None = None
) -> Figure:
    """Draw estimates against the truth, with the line on which they agree.

    Args:
        truth: (n,).
        estimate: (n,), in the unit of `truth`; or title -> (n,) for panels side by side with equal axes.
            Pairs that are not finite are counted in the legend instead.
        error: (n,), of a single estimate, length of the error bars to each side, not negative; where NaN (a
            single repeat has no standard error) there is no bar.
    """
    truth = check_array("truth", truth, None, finite=False)
    estimates = check_curves("estimate", estimate, len(truth), finite=False)
    shown = {title: np.isfinite(truth) & np.isfinite(values) for title, values in estimates.items()}
    require(all(finite.any() for finite in shown.values()), "truth and estimate must have finite values")
    if error is not None:
        require(len(estimates) == 1, f"error must be that of one estimate, got {len(estimates)} estimates")
        error = check_array("error", error, len(truth), finite=False)
        known = ~np.isnan(error)
        check_range(0, error=check_array("error", np.where(known, error, 0), None).min())
        [finite] = shown.values()
        error = error[finite] if known[finite].any() else None
    both = np.concatenate([v[shown[title]] for title, values in estimates.items() for v in (truth, values)])
    margin = 0.05 * (np.ptp(both) or 1.0)
    limits = (both.min() - margin, both.max() + margin)
    size = (WIDTH, 4.4 if len(estimates) == 1 else WIDTH / len(estimates) + 0.2)
    figure, row = plt.subplots(1, len(estimates), figsize=size, layout="constrained", squeeze=False)
    for axes, (title, values) in zip(row[0], estimates.items(), strict=True):
        finite = shown[title]
        axes.plot(limits, limits, color="#888888", ls="--", lw=1, zorder=0, label="agreement")
        points = {"fmt": "o", "color": BLUE, "alpha": 0.7, "mew": 0, "elinewidth": 1}
        axes.errorbar(truth[finite], values[finite], error, **points)
        axes.set(xlabel=xlabel, xlim=limits, ylim=limits, aspect="equal", title=title)
        axes.legend(loc="upper left" if title else "best")
        note_left_out(axes, finite)
    row[0, 0].set_ylabel(ylabel)
    return figure


@styled
def error_bars(
    x: ArrayLike,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str,
    ylabel: str,
    reference: float | None = None,
    log_x: bool = False,
) -> Figure:
    """Draw means with error bars, side by side where several share a place.

    Args:
        x: (p,) ascending; above 0 where `log_x` holds.
        curves: label -> (means (p,), lengths of the bars to each side (p,), not negative).
        reference: height of a dashed line, such as 0.
        log_x: space x by its logarithm.
    """
    x = check_ascending("x", x)
    require(not log_x or x[0] > 0, f"x must be above 0, got {x[0]:g}")
    means = check_curves("means", {label: pair[0] for label, pair in curves.items()}, len(x))
    lengths = check_curves("lengths", {label: pair[1] for label, pair in curves.items()}, len(x))
    check_range(0, lengths=min(bars.min() for bars in lengths.values()))
    figure, axes = plt.subplots(layout="constrained")
    place = np.log2(x) if log_x else x
    step = 0.06 * (np.diff(place).min() if len(x) > 1 else 1)
    if reference is not None:
        axes.axhline(reference, color="#888888", ls="--", lw=1, zorder=0)
    for k, label in enumerate(curves):
        beside = place + step * (k - (len(curves) - 1) / 2)
        style = {"marker": "os^D"[k % 4], "ls": "-" if len(x) > 1 else "", "lw": 1.2, "capsize": 3}
        axes.errorbar(beside, means[label], lengths[label], color=CURVES[k % 3], label=label, **style)
    axes.set_xticks(place, [f"{value:g}" for value in x])
    axes.xaxis.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y")
    axes.legend()
    return figure


@styled
def intervals(
    gap: ArrayLike, low: ArrayLike, high: ArrayLike, listed: ArrayLike, names: tuple[str, str]
) -> Figure:
    """Draw gaps with their intervals, in ascending order and two colors; at most 80, at equal steps of it.

    Args:
        gap: (n,), in nats.
        low, high: (n,), ends of the intervals around it.
        listed: (n,) bool, what is drawn in yellow.
        names: of the observations that are listed, and of the others.
    """
    gap = check_array("gap", gap, None)
    low, high = check_array("low", low, len(gap)), check_array("high", high, len(gap))
    listed = check_bools("listed", listed, gap.shape)
    require(bool(((low <= gap) & (gap <= high)).all()), "low and high must be ends of intervals around gap")
    steps = np.linspace(0, len(gap) - 1, min(80, len(gap))).round().astype(int)
    order = np.argsort(gap, kind="stable")[steps]
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    axes.axhline(0, color="#888888", ls="--", lw=1, zorder=0)
    for group, color, name in ((~listed, BLUE, names[1]), (listed, YELLOW, names[0])):
        at = np.flatnonzero(group[order])
        if not len(at):
            continue
        i = order[at]
        reach = [gap[i] - low[i], high[i] - gap[i]]
        style = {"fmt": "o", "ms": 3.5, "elinewidth": 1.1, "mew": 0}
        axes.errorbar(100 * steps[at] / max(len(gap) - 1, 1), gap[i], reach, color=color, label=name, **style)
    axes.set(xlabel="rank of the gap (% of the images)", ylabel="gap (nats)", xlim=(-2, 102))
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    return figure


@styled
def weight_health(khat: Mapping[str, ArrayLike], threshold: float) -> Figure:
    """Draw the distribution of Pareto k-hat, with what it may be at most.

    Args:
        khat: label -> (n,), not NaN; what cannot be fitted, +inf, is counted in the legend.
        threshold: the dashed line; see `memlib.psis.khat_threshold`.
    """
    groups = check_curves("khat", khat, None, finite=False)
    for label, values in groups.items():
        require(not np.isnan(values).any(), f"khat must not be NaN, got {label}: {np.isnan(values).sum()}")
    finite = np.concatenate([values[np.isfinite(values)] for values in groups.values()])
    figure, axes = plt.subplots(layout="constrained")
    ends = (*finite, threshold, threshold + 0.1)
    edges = np.linspace(min(ends), max(ends), 41)
    for k, (label, values) in enumerate(groups.items()):
        kept = np.isfinite(values)
        note = "" if kept.all() else f" (not fitted, left out: {(~kept).sum()})"
        draw_density(axes, values[kept], edges, CURVES[k % 3], label + note)
    axes.axvline(threshold, color="#222222", ls="--", lw=1.4, label=f"threshold {threshold:.2f}")
    axes.axvline(1, color="#888888", ls=":", lw=1.4, label="1: such a tail has no mean")
    axes.set(xlabel=r"Pareto $\hat k$", ylabel="density")
    axes.legend()
    return figure


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
    shape = len(generators), len(yardsticks)
    values = check_array("values", values, *shape, finite=False)
    noticed = check_bools("noticed", noticed, shape)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.31 * shape[0] + 0.95), layout="constrained")
    colors = ListedColormap(["#EEF1F5", YELLOW])
    axes.pcolormesh(noticed, cmap=colors, vmin=0, vmax=1, edgecolors="white", lw=2)
    for (row, column), value in np.ndenumerate(values):
        text = "\N{EN DASH}" if np.isnan(value) else _short(value)
        weight = "bold" if noticed[row, column] else "normal"
        place = column + 0.5, row + 0.5
        axes.text(*place, text, ha="center", va="center", fontsize=8, color="#111111", weight=weight)
    axes.set_xticks(np.arange(shape[1]) + 0.5, yardsticks, fontsize=8, rotation=40, ha="left")
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
        curves: name of the yardstick -> (s,), 1 at the worst that chance brought; drawn up to 2000.
    """
    shares = check_ascending("shares", shares)
    require(0 <= shares[0] and shares[-1] <= 1, f"shares must be within 0 to 1, got {shares}")
    curves = check_curves("curves", curves, len(shares))
    figure, axes = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    axes.axhline(1, color="#888888", ls="--", lw=1)
    for k, (label, values) in enumerate(curves.items()):
        axes.plot(values, marker="os^DvP"[k % 6], ls=["-", ":"][k % 6 // 5], label=label)  # of five colors
    axes.set_yscale("symlog", linthresh=2)
    axes.set_ylim(top=min(axes.get_ylim()[1], 2000))
    axes.set_xticks(range(len(shares)), [f"{100 * share:g}" for share in shares])
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


@styled
def roc_curves(panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]) -> Figure:
    """Draw ROC curves: the share found against the share of false alarms.

    Args:
        panels: title -> {label: (false positive rates, true positive rates)}, both ascending from 0 to 1; a
            panel each, side by side.
    """
    require(len(panels) > 0 and all(len(curves) > 0 for curves in panels.values()), "panels must have curves")
    for curves in panels.values():
        for label, (false, true) in curves.items():
            false = check_array("rates", false, None)
            for rates in (false, check_array("rates", true, len(false))):
                ascending = rates[0] == 0 and rates[-1] == 1 and (np.diff(rates) >= 0).all()
                require(ascending, f"rates must ascend from 0 to 1, got {label}")
    size = (WIDTH, WIDTH / len(panels) + 0.9)
    figure, row = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#888888", ls="--", lw=1)
        for k, (label, rates) in enumerate(curves.items()):
            style = {"color": CURVES[k % 3], "ls": ("-", "--", "-.")[k % 3]}
            axes.plot(*rates, label=label, clip_on=False, **style)  # straight: ties count half
        axes.set(xlabel="false alarms", title=title, aspect="equal", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right", fontsize=8.5)
    row[0, 0].set_ylabel("found")
    return figure
