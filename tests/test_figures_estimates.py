"""Figures of estimates and of yardsticks."""

import numpy as np
import pytest
from gallery import CURVE, GRID, HIGH, KHAT, RNG, SHARES, VALUES, M, legend
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from sklearn.metrics import roc_curve

from memlib import figures
from memlib.figures import BLUE, RED, YELLOW


def roc(score, positive):
    return roc_curve(positive, score)[:2]


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
    assert legend(axes) == ["others", "memorized"] and axes.get_ylabel() == "gap (nats)"
    (line,) = dashed(axes)
    assert set(line.get_ydata()) == {0}


def test_intervals_of_many_are_drawn_at_equal_steps():
    scores = RNG.permutation(791) / 10
    axes = figures.intervals(scores, scores - 1, scores + 1, scores > 75, ("a", "b")).axes[0]
    regular, memorized = (bars(container)[0] for container in axes.containers)
    expected = np.column_stack([np.arange(80) / 0.79, np.arange(80)])
    np.testing.assert_allclose(np.concatenate([regular, memorized]), expected)
    assert len(memorized) == 4


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
            assert line.get_drawstyle() == "default"  # straight: the area counts ties half, steps would not
        assert legend(axes) == list(curves) and axes.get_xlabel() == "false alarms"
        assert axes.get_xlim() == axes.get_ylim() == (0, 1) and axes.get_aspect() == 1
    assert [axes.get_ylabel() for axes in figure.axes] == ["found", ""]


def cells(axes):
    """Text, weight and color of every cell of a table, by its row and column."""
    (mesh,) = axes.collections
    mesh.update_scalarmappable()
    colors = mesh.get_facecolor().reshape(*mesh.get_array().shape, 4)
    places = [(int(y), int(x)) for x, y in (t.get_position() for t in axes.texts)]
    return {
        place: (t.get_text(), t.get_weight(), to_hex(colors[place]).upper())
        for place, t in zip(places, axes.texts, strict=True)
    }


def test_verdicts_writes_every_value_and_colors_what_is_noticed():
    noticed = np.array([[True, False, False], [True, True, False]])
    axes = figures.verdicts(VALUES, noticed, ["VAE", "copies"], ["d", "C_T", "FID"]).axes[0]
    bold, plain = ("bold", YELLOW), ("normal", "#EEF1F5")
    first = {(0, 0): ("0.25", *bold), (0, 1): ("–", *plain), (0, 2): ("−12.3", *plain)}
    second = {(1, 0): ("$10^{13}$", *bold), (1, 1): ("0", *bold), (1, 2): ("417", *plain)}
    assert cells(axes) == first | second
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["d", "C_T", "FID"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["VAE", "copies"]
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 1.5, 2.5])
    np.testing.assert_allclose(axes.get_yticks(), [0.5, 1.5])
    assert axes.yaxis_inverted()  # the first generator on top


def test_verdicts_has_room_for_every_number():
    texts = {
        99999.4: "99999",
        -1e5: "$-10^{5}$",
        6e7: "$10^{8}$",
        np.inf: r"$\infty$",
        -np.inf: r"$-\infty$",
        0.1234: "0.123",
        0.00123: "0.0012",
        -0.0567: "−0.057",
        -1.0: "−1",
    }
    noticed = np.ones((1, len(texts)), bool)
    axes = figures.verdicts([[*texts]], noticed, ["a"], list("abcdefghi")).axes[0]
    assert cells(axes) == {(0, k): (text, "bold", YELLOW) for k, text in enumerate(texts.values())}


def test_by_share_tells_six_curves_apart_and_lets_what_is_huge_leave_the_axes():
    axes = figures.by_share(SHARES, {key: [0.0, 1.0, 1e16] for key in "abcdef"}, "share", "").axes[0]
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines[1:]}
    assert len(looks) == 6 and axes.get_ylim()[1] == 2000


def test_by_share_draws_every_curve_and_the_line_of_chance():
    curves = {"d": [0.0, 1.0, 9.0], "C_T": [-1.0, 0.0, 50.0]}
    axes = figures.by_share(SHARES, curves, "share of copies", "against").axes[0]
    chance, *lines = axes.lines
    assert set(chance.get_ydata()) == {1} and chance.get_linestyle() == "--"
    for line, (name, values), color in zip(lines, curves.items(), (BLUE, RED), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([range(3), values]))
        assert line.get_label() == name and line.get_color() == color
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "10", "100"]  # at equal steps
    np.testing.assert_array_equal(axes.get_xticks(), range(3))
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(curves)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("share of copies", "against")
