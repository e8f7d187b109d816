"""Figures of other yardsticks and of the competition: what they plot, and what they refuse."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from gallery import CAUGHT, GROUPS, LABEL, RHO, SHARES, VALUES, M
from matplotlib.colors import to_hex

from memlib import figures
from memlib.figures import BLUE, RED, YELLOW

NAMES = {"honest": "not copied", "copy": "copied"}
SIX = {name: [0.5, 0.25] for name in "abcdef"}
EPSILON = r"$\epsilon$"


def legend(figure):
    """The entries of the one legend of all panels."""
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def texts(axes):
    """The text and weight of every cell of a table."""
    found = {(t.get_position()[1] - 0.5, t.get_position()[0] - 0.5): t for t in axes.texts}
    assert len(found) == len(axes.texts)
    return {place: (t.get_text(), t.get_weight()) for place, t in found.items()}


def cells(axes):
    """The color of every cell of a table, as it is drawn."""
    (mesh,) = axes.collections
    mesh.update_scalarmappable()
    colors = np.array([to_hex(color) for color in mesh.get_facecolor().reshape(-1, 4)])
    return colors.reshape(mesh.get_array().shape)


def test_verdicts_writes_every_value_and_colors_what_is_noticed():
    noticed = np.array([[True, False, False], [True, True, False]])
    axes = figures.verdicts(VALUES, noticed, ["VAE", "copies"], ["d", "C_T", "FID"]).axes[0]
    expected = [["0.25", "–", "−12.3"], ["$10^{13}$", "0", "417"]]
    assert texts(axes) == {
        (row, column): (expected[row][column], "bold" if noticed[row, column] else "normal")
        for row, column in np.ndindex(2, 3)
    }
    np.testing.assert_array_equal(cells(axes), np.where(noticed, YELLOW.lower(), "#eef1f5"))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["d", "C_T", "FID"]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["VAE", "copies"]
    np.testing.assert_allclose(axes.get_xticks(), [0.5, 1.5, 2.5])
    np.testing.assert_allclose(axes.get_yticks(), [0.5, 1.5])
    assert axes.yaxis_inverted()  # the first generator on top


@pytest.mark.parametrize("noticed", [True, False])
def test_verdicts_that_agree_have_one_color(noticed):
    axes = figures.verdicts([[1.0, 2.0]], [[noticed, noticed]], ["a"], ["b", "c"]).axes[0]
    assert set(cells(axes).flat) == {YELLOW.lower() if noticed else "#eef1f5"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (99999.4, "99999"),
        (1e5, "$10^{5}$"),
        (-1e5, "$-10^{5}$"),
        (6e7, "$10^{8}$"),
        (np.inf, r"$\infty$"),
        (-np.inf, r"$-\infty$"),
        (np.nan, "–"),
        (0.1234, "0.123"),
        (0.00123, "0.0012"),
        (-0.0567, "−0.057"),
        (0.0, "0"),
        (-1.0, "−1"),
    ],
)
def test_verdicts_has_room_for_every_number(value, text):
    figure = figures.verdicts([[value]], [[False]], ["a"], ["b"])
    assert texts(figure.axes[0]) == {(0, 0): (text, "normal")}
    figure.draw_without_rendering()


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
    assert axes.get_yscale() == "symlog"


def test_by_share_takes_more_curves_than_there_are_colors():
    axes = figures.by_share([0.5], {name: [k] for k, name in enumerate("abcdefg")}, "", "").axes[0]
    assert [line.get_ydata()[0] for line in axes.lines[1:]] == list(range(7))


def test_scatter_by_label_draws_every_point_under_its_label():
    x = M.copy()
    x[[0, 3, 4]] = np.nan
    figure = figures.scatter_by_label({"public": (x, RHO), "private": (RHO, x)}, LABEL, NAMES, "$d$", "FID")
    assert [axes.get_title("left") for axes in figure.axes] == ["public", "private"]
    for axes, (a, b) in zip(figure.axes, ((x, RHO), (RHO, x)), strict=True):
        for points, own, color in zip(axes.collections, NAMES, (BLUE, RED), strict=True):
            which = (LABEL == own) & np.isfinite(x)
            offsets = np.ma.masked_invalid(points.get_offsets())
            np.testing.assert_allclose(np.ma.compress_rows(offsets), np.column_stack([a, b])[which])
            assert {to_hex(c) for c in points.get_facecolor()} == {color.lower()}
        assert axes.collections[0].zorder > axes.collections[1].zorder  # the first are on top
        assert axes.get_xlabel() == "$d$" and axes.get_xscale() == axes.get_yscale() == "linear"
    assert [axes.get_ylabel() for axes in figure.axes] == ["FID", ""]
    assert legend(figure) == list(NAMES.values())


def test_scatter_by_label_draws_no_other_labels():
    figure = figures.scatter_by_label({"a": (RHO, RHO)}, LABEL, {"": "none"}, "", "")
    (axes,) = figure.axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.column_stack([RHO, RHO])[LABEL == ""])
    assert len(axes.collections) == 1 and legend(figure) == ["none"]


def counts(axes):
    """Heights and edges of every group of a panel, with its color; filled and outlined alike."""
    filled, outlined = axes.patches[::2], axes.patches[1::2]
    for a, b in zip(filled, outlined, strict=True):
        for one, other in zip(a.get_data()[:2], b.get_data()[:2], strict=True):
            np.testing.assert_array_equal(one, other)
    return [(to_hex(patch.get_edgecolor()), *patch.get_data()[:2]) for patch in outlined]


def test_histograms_counts_all_groups_in_the_same_bins():
    panels = {"public": GROUPS, "private": {name: values**2 for name, values in GROUPS.items()}}
    figure = figures.histograms(panels, "$d$", {"private": 0.01})
    assert [axes.get_title("left") for axes in figure.axes] == list(panels)
    for axes, groups in zip(figure.axes, panels.values(), strict=True):
        for (color, heights, edges), values, own in zip(
            counts(axes), groups.values(), (BLUE, RED), strict=True
        ):
            np.testing.assert_array_equal(heights, np.histogram(values, edges)[0])
            assert heights.sum() == len(values) and color == own.lower()
        assert axes.get_ylabel() == "submissions" and axes.get_yscale() == "symlog"
    public, private = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "$d$"]
    assert not public.lines and set(private.lines[0].get_xdata()) == {0.01}
    assert counts(private)[0][2][0] == 0.01  # the line is within the bins
    assert legend(figure) == [*GROUPS, EPSILON]  # although the first panel has no line


def test_histograms_need_no_line():
    figure = figures.histograms({"a": {"x": [1.0, 2.0, 2.0]}}, "")
    ((_, heights, _),) = counts(figure.axes[0])
    assert heights[0] == 1 and heights[-1] == 2 and legend(figure) == ["x"]


def test_histograms_draws_values_that_are_all_equal():
    figure = figures.histograms({"a": {"x": [0.5, 0.5]}}, "", {"a": 0.5})
    figure.draw_without_rendering()
    ((_, heights, _),) = counts(figure.axes[0])
    assert heights.sum() == 2


def test_caught_by_threshold_draws_shares_in_percent():
    at, shares, _ = CAUGHT
    figure = figures.caught_by_threshold({"public": CAUGHT, "private": (at, shares, 0.25)}, "threshold")
    assert [axes.get_title("left") for axes in figure.axes] == ["public", "private"]
    for axes, epsilon in zip(figure.axes, (0.1, 0.25), strict=True):
        *lines, mark = axes.lines
        for line, (name, values), color in zip(lines, shares.items(), (BLUE, RED), strict=True):
            np.testing.assert_allclose(line.get_xydata(), np.column_stack([at, 100 * np.array(values)]))
            assert line.get_label() == name and line.get_color() == color
        assert set(mark.get_xdata()) == {epsilon} and mark.get_linestyle() == "--"
        assert axes.get_xlabel() == "threshold"
    assert [axes.get_ylabel() for axes in figure.axes] == ["caught (%)", ""]
    assert legend(figure) == [*shares, rf"{EPSILON} of the competition"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: figures.verdicts(VALUES, VALUES, list("ab"), list("cde")),
            "bool noticed must be .* float64",
        ),
        (
            lambda: figures.verdicts(VALUES, VALUES > 0, list("abc"), list("de")),
            r"must be \(3, 2\), got \(2, 3",
        ),
        (lambda: figures.verdicts(VALUES, VALUES[:1] > 0, list("ab"), list("cde")), r"bool \(1, 3\)"),
        (lambda: figures.verdicts(np.zeros((0, 0)), np.zeros((0, 0), bool), [], []), r"must be \(0, 0\)"),
        (lambda: figures.by_share([0.1, 0.1], {"a": [1, 2]}, "", ""), "shares must ascend within 0 to 1"),
        (lambda: figures.by_share([0.1, 1.1], {"a": [1, 2]}, "", ""), "shares must ascend within 0 to 1"),
        (lambda: figures.by_share([-0.1, 1], {"a": [1, 2]}, "", ""), "shares must ascend within 0 to 1"),
        (lambda: figures.by_share([], {"a": []}, "", ""), "shares must be numbers"),
        (lambda: figures.by_share([0, 1], {"a": [1]}, "", ""), r"curves must be \(2,\)"),
        (lambda: figures.by_share([0, 1], {"a": [1, np.nan]}, "", ""), "curves must be finite"),
        (lambda: figures.by_share([0, 1], {}, "", ""), "curves must be finite"),
        (lambda: figures.scatter_by_label({}, LABEL, NAMES, "", ""), "panels must have an entry"),
        (lambda: figures.scatter_by_label({"a": (M, M)}, LABEL, {}, "", ""), "names must be 1 to 5, got 0"),
        (lambda: figures.scatter_by_label({"a": (M, M)}, LABEL, SIX, "", ""), "names must be 1 to 5, got 6"),
        (lambda: figures.scatter_by_label({"a": (M, M[1:])}, LABEL, NAMES, "", ""), "a: x, y and label must"),
        (lambda: figures.scatter_by_label({"a": (M, M)}, LABEL[1:], NAMES, "", ""), "a: x, y and label must"),
        (lambda: figures.histograms({}, ""), "panels need the same groups"),
        (lambda: figures.histograms({"a": {}}, ""), "a must be finite"),
        (lambda: figures.histograms({"a": {"x": [1]}, "b": {"y": [1]}}, ""), "panels need the same groups"),
        (lambda: figures.histograms({"a": SIX}, ""), "the same groups, at most 5, got .*'f'"),
        (lambda: figures.histograms({"a": {"x": [1, np.nan]}}, ""), "a must be finite"),
        (lambda: figures.histograms({"a": {"x": []}}, ""), "a must be finite"),
        (
            lambda: figures.histograms({"a": {"x": [1]}}, "", {"b": 1}),
            r"lines must be of \['a'\], got \['b'\]",
        ),
        (lambda: figures.caught_by_threshold({}, ""), "panels need the same groups"),
        (lambda: figures.caught_by_threshold({"a": ([1, 2], SIX, 1)}, ""), "at most 5"),
        (lambda: figures.caught_by_threshold({"a": ([1, 1], {"x": [0, 1]}, 1)}, ""), "a: .* be ascending"),
        (
            lambda: figures.caught_by_threshold({"a": ([1, 2], {"x": [0]}, 1)}, ""),
            r"a: shares must be \(2,\)",
        ),
        (lambda: figures.caught_by_threshold({"a": ([1, 2], {"x": [0, 2]}, 1)}, ""), "a: .* 0 to 1"),
        (lambda: figures.caught_by_threshold({"a": ([1, 2], {"x": [-1, 0]}, 1)}, ""), "a: .* 0 to 1"),
        (
            lambda: figures.caught_by_threshold({"a": ([1], {"x": [0]}, 1), "b": ([1], {"y": [0]}, 1)}, ""),
            "panels need the same groups",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert plt.get_fignums() == []
