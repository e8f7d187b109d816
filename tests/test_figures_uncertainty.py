"""Figures of error bars, intervals, the health of weights, and detection."""

import numpy as np
import pytest
from gallery import CURVE, HIGH, KHAT, RNG, M, legend
from matplotlib.colors import to_hex
from sklearn.metrics import roc_curve

from memlib import figures
from memlib.figures import BLUE, RED, YELLOW
from memlib.metrics.detection import auc


def roc(score, positive):
    return roc_curve(positive, score)[:2]


def bars(container):
    """The points (n, 2) of an errorbar container, and the ends (n, 2) of its bars."""
    points, _, (lines,) = container
    ends = np.array([segment[:, 1] for segment in lines.get_segments()])
    np.testing.assert_allclose([s[:, 0] for s in lines.get_segments()], points.get_xdata()[:, None] + [0, 0])
    return points.get_xydata(), ends


def dashed(axes):
    return [line for line in axes.lines if line.get_linestyle() == "--"]


def test_error_bars_draws_means_with_their_lengths_side_by_side():
    curves = {"one": ([1.0, 2.0, -3.0], [0.1, 0.0, 0.5]), "two": ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0])}
    axes = figures.error_bars([1, 2, 5], curves, "spread (nats)", "mean (nats)").axes[0]
    for (means, lengths), container in zip(curves.values(), axes.containers, strict=True):
        points, ends = bars(container)
        np.testing.assert_allclose(points[:, 1], means)
        np.testing.assert_allclose(ends, np.array(means)[:, None] + np.outer(lengths, [-1, 1]))
    left, right = (container[0].get_xdata() for container in axes.containers)
    assert (left < right).all() and (right - left < 0.2).all()  # beside each other, and near their place
    np.testing.assert_allclose((left + right) / 2, [1, 2, 5])
    assert [container[0].get_color() for container in axes.containers] == [BLUE, RED]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "5"]
    np.testing.assert_allclose(axes.get_xticks(), [1, 2, 5])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("spread (nats)", "mean (nats)")
    assert legend(axes) == ["one", "two"] and not dashed(axes)


def test_error_bars_spaces_by_the_logarithm_and_draws_a_reference():
    axes = figures.error_bars([0.5, 1, 8], {"a": CURVE}, "L", "error", reference=-2.5, log_x=True).axes[0]
    points, _ = bars(axes.containers[0])
    np.testing.assert_allclose(points, np.column_stack([[-1, 0, 3], CURVE[0]]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.5", "1", "8"]
    (line,) = dashed(axes)
    assert set(line.get_ydata()) == {-2.5} and legend(axes) == ["a"]


def test_intervals_stand_in_order_and_wear_the_color_of_their_group():
    reach = np.arange(1.0, 61.0) / 10
    axes = figures.intervals(M, M - reach, M + 2 * reach, HIGH, ("memorized", "others")).axes[0]
    rank = 100 * np.argsort(np.argsort(M)) / 59
    for container, group, color in zip(axes.containers, (~HIGH, HIGH), (BLUE, YELLOW), strict=True):
        points, ends = bars(container)
        order = np.flatnonzero(group)[np.argsort(M[group])]
        np.testing.assert_allclose(points, np.column_stack([rank, M])[order])
        np.testing.assert_allclose(ends, np.column_stack([M - reach, M + 2 * reach])[order])
        assert to_hex(container[0].get_color()) == color.lower()
        assert to_hex(container[2][0].get_color()[0]) == color.lower()
    assert legend(axes) == ["others", "memorized"] and axes.get_ylabel() == "$M$ (nats)"
    (line,) = dashed(axes)
    assert set(line.get_ydata()) == {0}


def test_intervals_of_many_are_drawn_at_equal_steps():
    scores = RNG.permutation(1001) / 10
    axes = figures.intervals(scores, scores - 1, scores + 1, scores > 75, ("a", "b"), most=11).axes[0]
    regular, memorized = (bars(container)[0] for container in axes.containers)
    expected = np.column_stack([np.arange(0, 101, 10), np.arange(0, 101, 10)])
    np.testing.assert_allclose(np.concatenate([regular, memorized]), expected)
    assert len(memorized) == 3


@pytest.mark.parametrize("listed", [True, False])
def test_intervals_may_be_of_one_observation(listed):
    axes = figures.intervals([1.0], [1.0], [2.0], np.array([listed]), ("a", "b")).axes[0]
    assert [len(container[0].get_xydata()) for container in axes.containers] == [1]
    assert legend(axes) == ["a" if listed else "b"]


def densities(axes):
    """Of every group its color, heights and edges."""
    filled = [patch for patch in axes.patches if patch.get_fill()]
    return [(to_hex(patch.get_facecolor()), *patch.get_data()[:2]) for patch in filled]


def test_weight_health_counts_what_is_finite_and_names_the_rest():
    khat = {"worst": np.append(KHAT, [np.inf, -np.inf]), "mean": RNG.normal(0.3, 0.1, 50)}
    axes = figures.weight_health(khat, 0.58).axes[0]
    assert legend(axes) == [
        "worst (not fitted, left out: 3)",
        "mean",
        "threshold 0.58",
        "1: such a tail has no mean",
    ]
    for (color, heights, edges), values, own in zip(densities(axes), khat.values(), (BLUE, RED), strict=True):
        finite = values[np.isfinite(values)]
        counts = heights * len(finite) * np.diff(edges)
        np.testing.assert_allclose(counts, np.histogram(finite, edges)[0])
        assert counts.sum() == pytest.approx(len(finite)) and color == own.lower()
    (threshold,), (one,) = dashed(axes), [line for line in axes.lines if line.get_linestyle() == ":"]
    assert set(threshold.get_xdata()) == {0.58} and set(one.get_xdata()) == {1}
    assert axes.get_xlim()[0] < 0.58 < 1 < axes.get_xlim()[1]


@pytest.mark.parametrize("khat, area", [([np.inf, np.inf], 0), ([0.7, 0.7], 1)])
def test_weight_health_draws_what_has_no_spread(khat, area):
    ((_, heights, edges),) = densities(figures.weight_health({"a": khat}, 0.7).axes[0])
    assert (heights * np.diff(edges)).sum() == pytest.approx(area)


def test_roc_curves_draws_the_rates_in_panels():
    positive, score = HIGH, M + RNG.normal(0, 3, len(M))
    panels = {"outlier": {"M": roc(score, positive), "log p": roc(-score, positive)}}
    panels["copy"] = {"ratio": roc(M, positive)}
    figure = figures.roc_curves(panels)
    assert [axes.get_title("left") for axes in figure.axes] == ["outlier", "copy"]
    for axes, curves in zip(figure.axes, panels.values(), strict=True):
        diagonal, *lines = axes.lines
        np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
        for line, rates in zip(lines, curves.values(), strict=True):
            np.testing.assert_array_equal(line.get_xydata(), np.column_stack(rates))
        assert legend(axes) == list(curves) and axes.get_xlabel() == "false alarms"
        assert axes.get_xlim() == axes.get_ylim() == (0, 1) and axes.get_aspect() == 1
    assert [axes.get_ylabel() for axes in figure.axes] == ["found", ""]


def test_the_area_under_a_drawn_curve_counts_ties_half():
    """Straight from point to point: where scores are tied, a step would put the false alarms first."""
    score, positive = np.round(M), HIGH
    line = figures.roc_curves({"a": {"b": roc(score, positive)}}).axes[0].lines[1]
    assert line.get_drawstyle() == "default"
    x, y = line.get_xydata().T
    assert np.trapezoid(y, x) == pytest.approx(auc(score, positive)[0])
