"""Figures of how sure estimates are: error bars, intervals, health of the weights, and detection."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from memlib.figures.style import (
    BLUE,
    CURVES,
    RED,
    WIDTH,
    YELLOW,
    check_curves,
    check_vector,
    draw_density,
    require,
    styled,
)


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
        xlabel: names x, with its unit.
        ylabel: names the means, with their unit.
        reference: height of a dashed line, such as 0.
        log_x: space x by its logarithm.
    """
    x = check_vector("x", x)
    require((np.diff(x) > 0).all(), f"x must be ascending, got {x}")
    require(not log_x or x[0] > 0, f"x must be above 0, got {x[0]:g}")
    require(len(curves) > 0, "curves must have an entry")
    drawn = {
        label: (check_vector("means", means, len(x)), check_vector("lengths", lengths, len(x)))
        for label, (means, lengths) in curves.items()
    }
    require(all((lengths >= 0).all() for _, lengths in drawn.values()), "lengths must not be negative")
    figure, axes = plt.subplots(layout="constrained")
    place = np.log2(x) if log_x else x
    step = 0.06 * (np.diff(place).min() if len(x) > 1 else 1)
    if reference is not None:
        axes.axhline(reference, color="#888888", ls="--", lw=1, zorder=0)
    for k, (label, (means, lengths)) in enumerate(drawn.items()):
        beside = place + step * (k - (len(drawn) - 1) / 2)
        style = {"marker": "os^D"[k % 4], "ls": "-" if len(x) > 1 else "", "lw": 1.2, "capsize": 3}
        axes.errorbar(beside, means, lengths, color=CURVES[k % 3], label=label, **style)
    axes.set_xticks(place, [f"{value:g}" for value in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(axis="y")
    axes.legend()
    return figure


@styled
def intervals(
    M: ArrayLike, low: ArrayLike, high: ArrayLike, listed: ArrayLike, names: tuple[str, str], most: int = 80
) -> Figure:
    """Draw scores with their intervals in ascending order, two groups in their colors.

    Args:
        M: (n,), in nats.
        low, high: (n,), ends of the intervals around M.
        listed: (n,) bool, what is drawn in yellow.
        names: of the observations that are listed, and of the others.
        most: observations drawn, at equal steps of the order.
    """
    M = check_vector("M", M)
    low, high = check_vector("low", low, len(M)), check_vector("high", high, len(M))
    listed = np.asarray(listed)
    require(
        listed.dtype == bool and listed.shape == M.shape,
        f"listed must be bool ({len(M)},), got {listed.dtype} {listed.shape}",
    )
    require(((low <= M) & (M <= high)).all(), "low and high must be ends of intervals around M")
    require(most >= 1, f"most must be at least 1, got {most}")
    steps = np.linspace(0, len(M) - 1, min(most, len(M))).round().astype(int)
    order = np.argsort(M, kind="stable")[steps]
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    axes.axhline(0, color="#888888", ls="--", lw=1, zorder=0)
    for group, color, name in ((~listed, BLUE, names[1]), (listed, YELLOW, names[0])):
        at = np.flatnonzero(group[order])
        if not len(at):
            continue
        i = order[at]
        reach = [M[i] - low[i], high[i] - M[i]]
        style = {"fmt": "o", "ms": 3.5, "elinewidth": 1.1, "mew": 0}
        axes.errorbar(100 * steps[at] / max(len(M) - 1, 1), M[i], reach, color=color, label=name, **style)
    axes.set(xlabel="rank of $M$ (% of the images)", ylabel="$M$ (nats)", xlim=(-2, 102))
    axes.grid(axis="y")
    axes.legend(loc="upper left")
    return figure


@styled
def weight_health(khat: Mapping[str, ArrayLike], threshold: float) -> Figure:
    """Draw the distribution of Pareto k-hat, with what it may be at most.

    Args:
        khat: label -> (n,); what cannot be fitted, +inf, is counted in the legend.
        threshold: the dashed line; see `memlib.psis.khat_threshold`.
    """
    require(len(khat) > 0, "khat must have an entry")
    groups = {label: np.asarray(values, dtype=np.float64) for label, values in khat.items()}
    for label, values in groups.items():
        require(
            values.ndim == 1 and values.size > 0 and not np.isnan(values).any(),
            f"khat must be numbers of shape (n,), got {label}: {values.shape}",
        )
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
def roc_curves(panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]]) -> Figure:
    """Draw ROC curves: the share found against the share of false alarms.

    Args:
        panels: title -> {label: (false positive rates, true positive rates)}, both ascending from 0 to 1; a
            panel each, side by side.
    """
    require(len(panels) > 0 and all(len(curves) > 0 for curves in panels.values()), "panels must have curves")
    for curves in panels.values():
        for label, rates in curves.items():
            false, true = check_curves("rates", dict(zip("xy", rates, strict=True))).values()
            require(
                false.shape == true.shape
                and all(r[0] == 0 and r[-1] == 1 and (np.diff(r) >= 0).all() for r in (false, true)),
                f"rates must ascend from 0 to 1, got {label}",
            )
    size = (WIDTH, WIDTH / len(panels) + 0.9)
    figure, row = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axes, (title, curves) in zip(row[0], panels.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="#888888", ls="--", lw=1)
        for k, (label, rates) in enumerate(curves.items()):
            style = {"color": (BLUE, RED, YELLOW)[k % 3], "ls": ("-", "--", "-.")[k % 3]}
            axes.plot(*rates, label=label, clip_on=False, **style)  # straight: ties count half
        axes.set(xlabel="false alarms", title=title, aspect="equal", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="lower right", fontsize=8.5)
    row[0, 0].set_ylabel("found")
    return figure
