"""Figures of log probabilities and distances."""

import numpy as np
import pytest
from gallery import EDGES, GRAY, HIGH, LOG_PX, RHO, M, legend, which
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D

from memlib import figures
from memlib.figures import BLUE, YELLOW
from memlib.figures.probabilities import binned_mean


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
    edges, per_column = figures.auto_edges(LOG_PX, 10), 5
    bins = np.searchsorted(edges, LOG_PX, side="right")
    figure = figures.log_prob_histogram(LOG_PX, high, GRAY, edges, columns=4, per_column=per_column)
    histogram, *tiles = figure.axes
    columns = {}
    for axes, i in zip(tiles, which(figure, GRAY), strict=True):
        columns.setdefault(round(axes.get_position().x0, 6), []).append(i)
        assert to_hex(axes.spines["left"].get_edgecolor()) == (YELLOW if high[i] else BLUE).lower()
    lines = [artist for artist in figure.artists if isinstance(artist, Line2D)]
    assert len(columns) == len(lines) == 4
    (x0, _), (x1, _) = histogram.get_position().get_points()
    for members, line in zip(columns.values(), lines, strict=True):
        b = bins[members[0]]
        assert (bins[members] == b).all() and len(set(members)) == len(members)
        assert len(members) == min(per_column, np.sum(bins == b))
        memorized, regular = (np.sum((bins == b) & group) for group in (high, ~high))
        assert high[members].sum() == min(memorized, max(3, per_column - regular))
        position = (b + 0.5) / (len(edges) + 1)  # the middle of the bar
        assert line.get_xdata()[0] == pytest.approx(x0 + position * (x1 - x0))


def test_examples_repeat_with_the_seed():
    first, again, other = (
        which(figures.log_prob_histogram(LOG_PX, HIGH, GRAY, EDGES, seed=seed), GRAY) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_log_prob_proportions_sum_to_one_and_leave_empty_bins_empty():
    axes = figures.log_prob_proportions([-100, -85, -85, -85], np.array([1, 1, 0, 0], bool), EDGES).axes[0]
    regular, memorized = ([bar.get_height() for bar in group] for group in axes.containers)
    np.testing.assert_allclose(regular, [0, 2 / 3, 0, 0])
    np.testing.assert_allclose(memorized, [1, 1 / 3, 0, 0])
    assert axes.get_ylim() == (0, 1) and legend(axes) == ["regular", "highly memorized"]


def test_ratio_by_score_draws_means_and_standard_errors_of_versions_side_by_side():
    versions = {"as published": RHO + 1, "corrected": np.r_[RHO[:4], np.inf, RHO[5:]]}
    axes = figures.ratio_by_score(M, versions, 2, -5, 15).axes[0]
    assert sorted(legend(axes)) == ["as published", "corrected", "not finite, left out: 1"]
    for k, (drawn, rho) in enumerate(zip(axes.containers, versions.values(), strict=True)):
        edges, mean, sem, count = binned_mean(M, rho, 2, -5, 15)
        filled = count > 0
        points, _, (bars,) = drawn
        shift = (-0.3, 0.3)[k]
        np.testing.assert_allclose(points.get_xydata(), np.array([edges[:-1] + 1 + shift, mean]).T[filled])
        lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments() if len(segment)]
        np.testing.assert_allclose(lengths, (2 * 1.96 * sem)[filled])
    alone = figures.ratio_by_score(M, RHO, 2, -5, 15).axes[0]
    np.testing.assert_allclose(alone.containers[0][0].get_xdata(), (edges[:-1] + 1)[filled])


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
