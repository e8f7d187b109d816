"""Figures of estimates: against what is known (exact scores, log probabilities), and what they cost."""

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
    Curves,
    by_label,
    check_curves,
    check_vector,
    note_left_out,
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
    truth: ArrayLike, estimate: Curves, xlabel: str, ylabel: str, error: ArrayLike | None = None
) -> Figure:
    """Draw estimates against the truth, with the line on which they agree.

    Args:
        truth: (n,).
        estimate: (n,), in the unit of `truth`; or title -> (n,) for panels side by side with equal axes.
            Pairs that are not finite are counted in the legend instead.
        xlabel: names the truth, with its unit.
        ylabel: names the estimate, with its unit.
        error: (n,), of a single estimate, length of the error bars to each side, not negative; where NaN (a
            single repeat has no standard error) there is no bar.
    """
    truth = np.asarray(truth, dtype=np.float64)
    estimates = by_label(estimate)
    require(
        truth.ndim == 1 and {values.shape for values in estimates.values()} == {truth.shape},
        "truth and estimate must be (n,), of one length",
    )
    shown = {title: np.isfinite(truth) & np.isfinite(values) for title, values in estimates.items()}
    require(all(finite.any() for finite in shown.values()), "truth and estimate must have finite values")
    if error is not None:
        require(len(estimates) == 1, f"error must be that of one estimate, got {len(estimates)} estimates")
        error = np.asarray(error, dtype=np.float64)
        known = ~np.isnan(error)
        check_vector("error", np.where(known, error, 0.0), len(truth))
        require((error[known] >= 0).all(), "error must not be negative")
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
def convergence(num_samples: ArrayLike, estimates: ArrayLike, truth: float | None = None) -> Figure:
    """Draw estimates of log p(x) against the number of importance samples: mean and spread of the replicates.

    Args:
        num_samples: (s,), S on the logarithmic x axis, at least 1.
        estimates: (s, replicates), in nats; at least 2 replicates, one has no spread.
        truth: the exact value, a dashed line.
    """
    num_samples = check_vector("num_samples", num_samples)
    estimates = check_curves("estimates", estimates, dimensions=2)[""]
    require(num_samples.min() >= 1, f"num_samples must be at least 1, got {num_samples.min():g}")
    require(len(estimates) == len(num_samples), f"estimates must have {len(num_samples)} rows")
    require(estimates.shape[1] >= 2, f"estimates must have at least 2 replicates, got {estimates.shape[1]}")
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


@styled
def cost_by_samples(
    num_samples: ArrayLike, costs: Mapping[str, tuple[float, ArrayLike, int]], ylabel: str
) -> Figure:
    """Draw what training and scoring cost against the number of importance samples, on logarithmic axes.

    Args:
        num_samples: (s,) ascending, S, at least 1.
        costs: label -> (cost of training, cost of scoring at every S (s,), the experiment's own S, which a
            dot marks), costs above 0; training does not depend on S.
        ylabel: names the cost, with its unit.
    """
    num_samples = check_vector("num_samples", num_samples)
    require(
        num_samples[0] >= 1 and (np.diff(num_samples) > 0).all(),
        f"num_samples must be ascending, at least 1, got {num_samples}",
    )
    require(len(costs) > 0, "costs must have an entry")
    costs = {
        label: (training, check_vector("scoring", scoring, len(num_samples)), own)
        for label, (training, scoring, own) in costs.items()
    }
    for label, (training, scoring, own) in costs.items():
        require(min(training, *scoring) > 0, f"costs must be above 0, got {label}: {training}, {scoring}")
        require(
            num_samples[0] <= own <= num_samples[-1],
            f"S of {label} must be {num_samples[0]:g}..{num_samples[-1]:g}, got {own}",
        )
    figure, axes = plt.subplots(figsize=(WIDTH, 4.2), layout="constrained")
    for k, (label, (training, scoring, own)) in enumerate(costs.items()):
        color = CURVES[k % 3]
        axes.axhline(training, color=color, ls="--", lw=1.4, label=f"{label}, training")
        axes.plot(num_samples, scoring, color=color, label=f"{label}, scoring")
        at_own = np.exp(np.interp(np.log(own), np.log(num_samples), np.log(scoring)))
        axes.plot([own], [at_own], "o", color=color, ms=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(num_samples, [f"{s:g}" for s in num_samples])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(xlabel="importance samples $S$", ylabel=ylabel, xlim=num_samples[[0, -1]])
    axes.grid(axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(costs)))
    return figure
