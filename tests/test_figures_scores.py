"""Figures of a run's losses, scores, log probabilities and distance ratios."""

import numpy as np
import pytest
from gallery import EDGES, GRAY, HIGH, LOG_PX, RHO, RNG, M, legend, which
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from scipy.stats import johnsonsu

from memlib import figures
from memlib.figures import BLUE, RED, YELLOW


def test_losses_start_at_the_first_epoch():
    train, test = np.arange(100, 90, -1.0), np.arange(110, 100, -1.0)
    axes = figures.losses(train, test).axes[0]
    for line, curve in zip(axes.lines, (train, test), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([np.arange(6, 11), curve[5:]]))
    assert legend(axes) == ["train", "test"]
    assert axes.get_xlabel() == "epoch" and axes.get_ylabel() == "loss per image (nats)"
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]


def test_quantile_curves_are_the_quantiles():
    scores = RNG.normal(size=(3, 500))
    axes = figures.quantile_curves([5, 10, 15], {"a": scores, "b": 2 * scores}, levels=(0.5, 0.9)).axes[0]
    expected = [factor * np.quantile(scores, q, axis=1) for factor in (1, 2) for q in (0.5, 0.9)]
    for line, curve in zip(axes.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xydata(), np.column_stack([[5, 10, 15], curve]))
    assert legend(axes) == ["a, 0.5 quantile", "a, 0.9 quantile", "b, 0.5 quantile", "b, 0.9 quantile"]
    assert [line.get_color() for line in axes.lines] == [BLUE, BLUE, RED, RED]  # by model
    few, enough = (legend(figures.quantile_curves([1], [np.arange(n)]).axes[0]) for n in (999, 1000))
    assert few == ["0.95 quantile", "0.999 quantile of only 999"]
    assert enough == ["0.95 quantile", "0.999 quantile"]


@pytest.mark.parametrize("truth", [(0, 1, 0, 1), (-0.5, 0.8, -20, 100)])
def test_johnson_su_fit_finds_the_distribution(truth):
    x = johnsonsu.rvs(*truth, size=4000, random_state=1)
    fit = figures.fit_johnson_su(x)
    assert johnsonsu.logpdf(x, *fit).sum() >= johnsonsu.logpdf(x, *truth).sum()
    q = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(johnsonsu.cdf(johnsonsu.ppf(q, *truth), *fit), q, atol=0.02)


def test_johnson_su_fit_moves_with_the_unit():
    # in steps of a power of two both units are exact, or rounding would lead the search elsewhere
    x = np.round(1024 * johnsonsu.rvs(-1, 1.2, size=300, random_state=1)) / 1024
    fit, moved = figures.fit_johnson_su(x), figures.fit_johnson_su(1024 * x - 50)
    np.testing.assert_allclose(moved, (*fit[:2], 1024 * fit[2] - 50, 1024 * fit[3]), rtol=1e-9)


def test_score_density_draws_histogram_fit_and_quantile():
    scores = johnsonsu.rvs(-1, 1.2, 4, 3, size=3000, random_state=1)
    axes = figures.score_density(scores, quantile=0.9, x_range=(-15, 35)).axes[0]
    heights, edges, _ = axes.patches[0].get_data()
    inside = np.mean((scores >= -15) & (scores <= 35))
    assert (heights * np.diff(edges)).sum() == pytest.approx(inside) and inside < 1
    np.testing.assert_allclose(heights, np.histogram(scores, edges)[0] / 3000 / np.diff(edges))
    curve, line = axes.lines
    expected = johnsonsu.pdf(curve.get_xdata(), *figures.fit_johnson_su(scores))
    np.testing.assert_allclose(curve.get_ydata(), expected)
    assert line.get_xdata()[0] == np.quantile(scores, 0.9) and line.get_linestyle() == "--"
    assert axes.get_xlim() == (-15, 35) and axes.get_xlabel() == "$M$ (nats)"
    assert legend(axes)[2] == f"0.9 quantile: {np.quantile(scores, 0.9):.3g}"


def test_score_density_overlays_models_and_shows_nearly_all_without_a_range():
    axes = figures.score_density({"a": M, "b": M + 50}).axes[0]
    assert legend(axes)[0] == "a, $M$" and legend(axes)[3] == "b, $M$"
    low, high = axes.get_xlim()
    assert low < M.min() + 1 and high > M.max() + 49


@settings(max_examples=50)
@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=50), st.integers(1, 30))
def test_auto_edges_are_round_and_hold_the_middle(thousandths, count):
    values = np.array(thousandths) / 1000
    edges = figures.auto_edges(values, count)
    low, high = np.quantile(values, (0.005, 0.995))
    rough = edges[1] - edges[0]
    slack = 1e-6 + 8 * np.finfo(float).eps * np.abs(edges).max() / rough  # far from 0 digits are lost
    power = 10 ** np.floor(np.log10(rough * (1 + slack)))
    step = power * min((1, 2, 2.5, 5), key=lambda factor: abs(factor - rough / power))
    assert 2 <= len(edges) <= count + 2
    assert edges[0] <= low + slack * step and edges[-1] >= high - slack * step
    np.testing.assert_allclose(np.diff(edges), step, rtol=slack)
    np.testing.assert_allclose(edges / step, np.round(edges / step), atol=1e-3)


def test_log_prob_histogram_counts_both_groups_in_open_bins():
    log_px = np.array([-200, -90, -85, -80, -76, -75, 0, 10.0])
    high = np.array([1, 0, 1, 0, 0, 0, 1, 1], bool)
    axes = figures.log_prob_histogram(log_px, high, GRAY[:8], EDGES).axes[0]
    regular, memorized = axes.containers
    assert [bar.get_height() for bar in regular] == [0, 1, 2, 1]
    assert [bar.get_height() for bar in memorized] == [1, 1, 0, 2]
    assert [bar.get_y() for bar in memorized] == [0, 1, 2, 1]
    assert to_hex(regular[0].get_facecolor()) == BLUE.lower()
    assert to_hex(memorized[0].get_facecolor()) == YELLOW.lower()
    assert [text.get_text() for text in axes.texts] == ["1", "1", "0", "2"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["−∞", "−90", "−80", "−75", "∞"]
    np.testing.assert_allclose(axes.get_xticks(), [-0.5, 0.5, 1.5, 2.5, 3.5])


@pytest.mark.parametrize("high", [HIGH, M > M.min()])  # few are memorized, or few are not
def test_examples_come_from_their_bin_and_wear_their_color(high):
    edges = figures.auto_edges(LOG_PX, 10)
    bins = np.searchsorted(edges, LOG_PX, side="right")
    figure = figures.log_prob_histogram(LOG_PX, high, GRAY, edges)
    histogram, *tiles = figure.axes
    columns = {}
    for axes, i in zip(tiles, which(figure, GRAY), strict=True):
        columns.setdefault(round(axes.get_position().x0, 6), []).append(i)
        assert to_hex(axes.spines["left"].get_edgecolor()) == (YELLOW if high[i] else BLUE).lower()
    lines = [artist for artist in figure.artists if isinstance(artist, Line2D)]
    assert len(columns) == len(lines) == min(8, len(set(bins)))
    (x0, _), (x1, _) = histogram.get_position().get_points()
    for members, line in zip(columns.values(), lines, strict=True):
        b = bins[members[0]]
        assert (bins[members] == b).all() and len(set(members)) == len(members)
        assert len(members) == min(4, np.sum(bins == b))
        memorized, regular = (np.sum((bins == b) & group) for group in (high, ~high))
        assert high[members].sum() == min(memorized, max(2, 4 - regular))
        position = (b + 0.5) / (len(edges) + 1)  # the middle of the bar
        assert line.get_xdata()[0] == pytest.approx(x0 + position * (x1 - x0))
    assert which(figure, GRAY) == which(figures.log_prob_histogram(LOG_PX, high, GRAY, edges), GRAY)


def test_log_prob_proportions_sum_to_one_and_leave_empty_bins_empty():
    axes = figures.log_prob_proportions([-100, -85, -85, -85], np.array([1, 1, 0, 0], bool), EDGES).axes[0]
    regular, memorized = ([bar.get_height() for bar in group] for group in axes.containers)
    np.testing.assert_allclose(regular, [0, 2 / 3, 0, 0])
    np.testing.assert_allclose(memorized, [1, 1 / 3, 0, 0])
    assert axes.get_ylim() == (0, 1) and legend(axes) == ["regular", "highly memorized"]


def points(drawn):
    """Places, means and lengths of bars to each side of an errorbar container, empty bins left out."""
    line, _, (bars,) = drawn
    ends = [segment[:, 1] for segment in bars.get_segments() if len(segment)]
    x, y = line.get_xydata()[np.isfinite(line.get_ydata())].T
    return x, y, np.diff(ends)[:, 0] / 2


def test_ratio_by_score_averages_per_bin_as_a_direct_loop_does():
    scores, values = RNG.normal(3, 4, 200), RNG.gamma(2, 1, 200)
    scores[:5], values[3] = [-5, 11, 2, 1, np.nan], np.inf
    versions = {"as published": values + 1, "corrected": values}
    axes = figures.ratio_by_score(scores, versions, 2, -5, 11).axes[0]
    assert sorted(legend(axes)) == ["as published", "corrected"] + 2 * ["not finite, left out: 1"]
    for drawn, rho, shift in zip(axes.containers, versions.values(), (-0.3, 0.3), strict=True):
        low = np.arange(-5, 11, 2)
        inside = [(scores >= a) & ((scores < a + 2) | (a == 9) & (scores == 11)) for a in low]
        groups = [rho[which & np.isfinite(rho)] for which in inside]
        x, mean, length = points(drawn)
        np.testing.assert_allclose(x, low + 1 + shift)
        np.testing.assert_allclose(mean, [g.mean() for g in groups], rtol=1e-12)
        np.testing.assert_allclose(length, [1.96 * g.std(ddof=1) / len(g) ** 0.5 for g in groups], rtol=1e-9)


def test_ratio_by_score_leaves_gaps_and_rounds_the_range_up():
    axes = figures.ratio_by_score([0.5, 4.5, 4.6, 99.0], [1.0, 2.0, 4.0, 9.0], 2, 0, 5).axes[0]
    x, mean, length = points(axes.containers[0])
    assert x.tolist() == [1, 5] and mean.tolist() == [1, 3] and axes.get_xlim() == (0, 6)
    np.testing.assert_allclose(length, [1.96])  # a single value has no standard error
    axes = figures.ratio_by_score([0.2], [1.0], 0.1, 0.1, 0.4).axes[0]
    assert len(axes.containers[0][0].get_xdata()) == 3  # bins, by rounding a little more


def test_ratio_density_uses_common_bins_and_whole_groups():
    rho = np.append(RHO, [np.inf, np.nan])
    axes = figures.ratio_density(rho, np.append(HIGH, [True, False])).axes[0]
    groups = {to_hex(patch.get_facecolor()): patch.get_data() for patch in axes.patches if patch.get_fill()}
    for color, group in ((BLUE, RHO[~HIGH]), (YELLOW, RHO[HIGH])):
        heights, edges, _ = groups[color.lower()]
        np.testing.assert_allclose(heights, np.histogram(group, edges)[0] / len(group) / np.diff(edges))
    np.testing.assert_array_equal(groups[BLUE.lower()][1], groups[YELLOW.lower()][1])
    assert legend(axes) == ["regular", "highly memorized", "not finite, left out: 2"]


def test_ratio_density_draws_none_of_a_handful():
    axes = figures.ratio_density(RHO, np.arange(len(RHO)) < 4).axes[0]
    assert legend(axes) == ["regular", "highly memorized: 4, too few for a density"]
    assert {to_hex(patch.get_facecolor()) for patch in axes.patches if patch.get_fill()} == {BLUE.lower()}
