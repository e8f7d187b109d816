"""Figures of estimates against what is known, and of their cost."""

import numpy as np
from gallery import GRID, RNG, legend
from matplotlib.collections import LineCollection, PolyCollection

from memlib import figures


def test_known_scores_marks_the_gap_at_the_observation():
    full, without = -((GRID - 1) ** 2), -((GRID - 0.5) ** 2) - 0.2
    x = np.array([-1.0, 2.0, 0.5])
    figure = figures.known_scores(
        x, 1, GRID, {"Gaussian": (full, without, 1.45), "other": (full, without, 1)}
    )
    axes, _ = figure.axes
    for line, curve in zip(axes.lines[:2], (full, without), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([GRID, curve]))
    np.testing.assert_allclose(axes.lines[2].get_xydata(), [[2.0, -2.45], [2.0, -1.0]])
    assert axes.get_title("left") == "Gaussian" and axes.get_title("right") == "$M$ = 1.45 nats"
    ticks = [[s[0, 0] for s in c.get_segments()] for c in axes.collections if isinstance(c, LineCollection)]
    assert ticks == [[-1.0, 0.5], [2.0]]
    assert axes.get_ylim()[0] < -4 < axes.get_ylim()[1]  # every observation's log density is in view


def test_agreement_draws_points_errors_and_the_diagonal():
    truth, estimate = [0.0, 1.0, 2.0, np.nan, 3.0], [0.5, 1.0, 1.0, 3.0, 2.0]
    error = [0.1, 0.2, np.nan, 0.4, 0.3]
    axes = figures.agreement(truth, estimate, "exact (nats)", "K-fold (nats)", error).axes[0]
    points, _, (bars,) = axes.containers[0]
    np.testing.assert_array_equal(points.get_xydata(), [[0, 0.5], [1, 1], [2, 1], [3, 2]])
    np.testing.assert_allclose([s[1, 1] - s[0, 1] for s in bars.get_segments() if len(s)], [0.2, 0.4, 0.6])
    diagonal = axes.lines[0].get_xydata()
    np.testing.assert_array_equal(diagonal[:, 0], diagonal[:, 1])
    assert axes.get_xlim() == axes.get_ylim() == tuple(diagonal[:, 0])
    assert axes.get_xlabel() == "exact (nats)" and axes.get_ylabel() == "K-fold (nats)"
    assert legend(axes) == ["agreement", "not finite, left out: 1"]


def test_agreement_draws_no_bars_where_no_error_is_known():
    for errors in ([np.nan] * 2, [0.1, np.nan]):  # the only known error is of a pair that is left out
        axes = figures.agreement([np.nan, 1.0], [0.5, 1.0], "exact", "estimate", errors).axes[0]
        assert not axes.containers[0].has_yerr and len(axes.containers[0][0].get_xydata()) == 1


def test_agreement_draws_several_estimates_in_panels_with_equal_axes():
    estimates = {"bfloat16": [0.5, 1.0, np.inf], "other seeds": [0.5, -4.0, 1.0]}
    figure = figures.agreement([0.0, 1.0, 2.0], estimates, "one", "other")
    first, second = figure.axes
    assert [axes.get_title("left") for axes in figure.axes] == list(estimates)
    np.testing.assert_array_equal(first.containers[0][0].get_xydata(), [[0, 0.5], [1, 1]])
    np.testing.assert_array_equal(second.containers[0][0].get_xydata(), [[0, 0.5], [1, -4], [2, 1]])
    limits = {axes.get_xlim() for axes in figure.axes} | {axes.get_ylim() for axes in figure.axes}
    assert len(limits) == 1 and first.get_xlim()[0] < -4
    assert legend(first) == ["agreement", "not finite, left out: 1"] and legend(second) == ["agreement"]


def test_convergence_draws_mean_spread_and_truth():
    places, estimates = [1, 4, 16, 64], RNG.normal(-80, 1, (4, 10))
    axes = figures.convergence(places, estimates, truth=-79.5).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    mean = lines["mean of 10 replicates"].get_xydata()
    np.testing.assert_allclose(mean, np.column_stack([places, estimates.mean(axis=1)]))
    band = next(c for c in axes.collections if isinstance(c, PolyCollection)).get_paths()[0].vertices
    for s, center, spread in zip(places, estimates.mean(1), estimates.std(1), strict=True):
        limits = band[band[:, 0] == s, 1]
        np.testing.assert_allclose([limits.min(), limits.max()], [center - spread, center + spread])
    assert set(lines["exact"].get_ydata()) == {-79.5} and axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "4", "16", "64"]


def test_cost_by_samples_draws_training_scoring_and_the_own_number_of_samples():
    costs = {"one": (3.0, [1, 2, 4], 2), "two": (5.0, [2, 8, 32], 4), "three": (1.0, [1, 4, 16], 2**0.5)}
    figure = figures.cost_by_samples([1, 2, 4], costs, "hours")
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for name, (training, scoring, _) in costs.items():
        assert set(lines[f"{name}, training"].get_ydata()) == {training}
        curve = np.column_stack([[1, 2, 4], scoring])
        np.testing.assert_array_equal(lines[f"{name}, scoring"].get_xydata(), curve)
        assert lines[f"{name}, scoring"].get_color() == lines[f"{name}, training"].get_color()
    dots = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[2, 2], [4, 32], [2**0.5, 2]])  # on the line between, in logarithms
    assert axes.get_xscale() == axes.get_yscale() == "log" and axes.get_ylabel() == "hours"
    named = [text.get_text() for text in figure.legends[0].get_texts()]
    assert named == [f"{name}, {part}" for name in costs for part in ("training", "scoring")]
