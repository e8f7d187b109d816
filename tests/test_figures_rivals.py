"""Figures of other yardsticks and of the competition."""

import numpy as np
from gallery import CAUGHT, GROUPS, LABEL, RHO, SHARES, VALUES, M
from matplotlib.colors import to_hex

from memlib import figures
from memlib.figures import BLUE, RED, YELLOW

EPSILON = r"$\epsilon$"


def legend(figure):
    """The entries of the one legend of all panels."""
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


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


def test_scatter_by_label_draws_every_point_under_its_label():
    x, names = M.copy(), {"honest": "not copied", "copy": "copied"}
    x[[0, 3, 4]] = np.nan
    figure = figures.scatter_by_label({"public": (x, RHO), "private": (RHO, x)}, LABEL, names, "$d$", "FID")
    assert [axes.get_title("left") for axes in figure.axes] == ["public", "private"]
    for axes, (a, b) in zip(figure.axes, ((x, RHO), (RHO, x)), strict=True):
        for points, own, color in zip(axes.collections, names, (BLUE, RED), strict=True):
            which = (LABEL == own) & np.isfinite(x)
            offsets = np.ma.masked_invalid(points.get_offsets())
            np.testing.assert_allclose(np.ma.compress_rows(offsets), np.column_stack([a, b])[which])
            assert {to_hex(c) for c in points.get_facecolor()} == {color.lower()}
        assert axes.collections[0].zorder > axes.collections[1].zorder  # the first are on top
        assert axes.get_xlabel() == "$d$"
    assert [axes.get_ylabel() for axes in figure.axes] == ["FID", ""]
    assert legend(figure) == list(names.values())


def counts(axes):
    """Color, heights and edges of every group of a panel; filled and outlined alike."""
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
        both = zip(counts(axes), groups.values(), (BLUE, RED), strict=True)
        for (color, heights, edges), values, own in both:
            np.testing.assert_array_equal(heights, np.histogram(values, edges)[0])
            assert heights.sum() == len(values) and color == own.lower()
            assert edges[0] == 0.01 or axes is figure.axes[0]  # the line is within the bins
    public, private = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "$d$"]
    assert not public.lines and set(private.lines[0].get_xdata()) == {0.01}
    assert legend(figure) == [*GROUPS, EPSILON]  # although the first panel has no line


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
