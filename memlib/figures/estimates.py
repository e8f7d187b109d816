"""Figures of estimates against what is known: exact scores, exact log probabilities."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from numpy.typing import ArrayLike

from memlib.figures.style import BLUE, RED, WIDTH, check_curves, check_vector, note_left_out, require, styled


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
    x, grid = check_vector("x", x), check_vector("grid", grid)
    require(0 <= index < len(x), f"index must be 0..{len(x) - 1}, got {index}")
    require(grid[0] <= x.min() and x.max() <= grid[-1], "grid must reach around all observations")
    panels = {
        title: (
            check_vector("log density", full, len(grid)),
            check_vector("log density", without, len(grid)),
            float(M),
        )
        for title, (full, without, M) in panels.items()
    }
    figure, row = plt.subplots(1, len(panels), figsize=(WIDTH, 3.7), layout="constrained", squeeze=False)
    for axes, (title, (full, without, M)) in zip(row[0], panels.items(), strict=True):
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
    truth: ArrayLike, estimate: ArrayLike, xlabel: str, ylabel: str, error: ArrayLike | None = None
) -> Figure:
    """Draw estimates against the truth, with the line on which they agree.

    Args:
        truth: (n,).
        estimate: (n,), in the unit of `truth`. Pairs that are not finite are counted in the legend instead.
        xlabel: names the truth, with its unit.
        ylabel: names the estimate, with its unit.
        error: (n,), length of the error bars to each side, not negative; where NaN (a single repeat has no
            standard error) there is no bar.
    """
    truth, estimate = np.asarray(truth, dtype=np.float64), np.asarray(estimate, dtype=np.float64)
    require(
        truth.ndim == 1 and truth.shape == estimate.shape, "truth and estimate must be (n,), of one length"
    )
    finite = np.isfinite(truth) & np.isfinite(estimate)
    require(finite.any(), "truth and estimate must have finite values")
    if error is not None:
        error = np.asarray(error, dtype=np.float64)
        known = ~np.isnan(error)
        check_vector("error", np.where(known, error, 0.0), len(truth))
        require((error[known] >= 0).all(), "error must not be negative")
        error = error[finite] if known[finite].any() else None
    truth, estimate = truth[finite], estimate[finite]
    both = np.concatenate([truth, estimate])
    margin = 0.05 * (np.ptp(both) or 1.0)
    limits = (both.min() - margin, both.max() + margin)
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    axes.plot(limits, limits, color="#888888", ls="--", lw=1, zorder=0, label="agreement")
    axes.errorbar(truth, estimate, error, fmt="o", color=BLUE, alpha=0.7, mew=0, elinewidth=1)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=limits, ylim=limits, aspect="equal")
    axes.legend()
    note_left_out(axes, finite)
    return figure


@styled
def convergence(num_samples: ArrayLike, estimates: ArrayLike, truth: float | None = None) -> Figure:
    """Draw estimates of log p(x) against the number of importance samples: mean and spread of the replicates.

    Args:
        num_samples: (s,), S on the logarithmic x axis, at least 1.
        estimates: (s, replicates), in nats.
        truth: the exact value, a dashed line.
    """
    num_samples = check_vector("num_samples", num_samples)
    estimates = check_curves("estimates", estimates, dimensions=2)[""]
    require(num_samples.min() >= 1, f"num_samples must be at least 1, got {num_samples.min():g}")
    require(len(estimates) == len(num_samples), f"estimates must have {len(num_samples)} rows")
    mean, spread = estimates.mean(axis=1), estimates.std(axis=1)
    figure, axes = plt.subplots(layout="constrained")
    axes.plot(num_samples, estimates, "o", color=BLUE, alpha=0.25, ms=3, mew=0)
    band = {"color": BLUE, "alpha": 0.15, "lw": 0, "label": "± 1 s.d."}
    axes.fill_between(num_samples, mean - spread, mean + spread, **band)
    axes.plot(num_samples, mean, color=BLUE, marker="o", label=f"mean of {estimates.shape[1]} replicates")
    if truth is not None:
        axes.axhline(truth, color=RED, ls="--", lw=1.4, label="exact")
    axes.set_xscale("log", base=2)
    axes.set_xticks(num_samples, [f"{s:g}" for s in num_samples])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="importance samples $S$", ylabel=r"estimate of $\log p(x)$ (nats)")
    axes.grid(axis="y")
    axes.legend(loc="lower right")
    return figure
