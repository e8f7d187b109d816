"""What holds for every figure: style, texts within its edges, arguments that are refused."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from gallery import CURVE, EDGES, FIGURES, GRAY, GRID, HIGH, KHAT, LOG_PX, RHO, ROC, M
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from memlib import figures
from memlib.figures.style import number


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_in_style_shown_once_and_leaves_no_trace(name):
    before = plt.rcParams.copy()
    figure = FIGURES[name]()
    assert isinstance(figure, Figure) and plt.get_fignums() == []
    assert plt.rcParams == before
    assert figure.get_figwidth() == pytest.approx(figures.WIDTH, abs=0.6) and figure.dpi == 160
    assert to_hex(figure.get_facecolor()) == "#ffffff" and figure.get_facecolor()[3] == 1
    figure.savefig(io.BytesIO())  # no warning, such as a missing glyph or a layout that failed


@pytest.mark.parametrize("name", FIGURES)
def test_every_text_lies_within_its_figure(name):
    figure = FIGURES[name]()
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # in inches
    width, height = figure.get_size_inches()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_the_gallery_holds_every_public_figure():
    drawn = {name for name, value in vars(figures).items() if hasattr(value, "__wrapped__")}
    assert drawn == set(FIGURES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: figures.image_grid(GRAY / 255), "images must be uint8"),
        (lambda: figures.image_grid(GRAY[:, 0]), "images must be uint8"),
        (lambda: figures.image_grid(np.repeat(GRAY, 2, axis=1)), "C 1 or 3"),
        (lambda: figures.image_grid(GRAY[:0]), "n at least 1"),
        (lambda: figures.image_grid(GRAY, columns=0), "columns must be at least 1, got 0"),
        (lambda: figures.extremes(GRAY, M, count=0), "count must be 1..60"),
        (lambda: figures.extremes(GRAY, M[1:]), r"M must be numbers of shape \(60,\)"),
        (lambda: figures.extreme_indices(M, 61), "count must be 1..60"),
        (lambda: figures.extreme_indices([1.0, np.nan], 1), "M must be numbers .* finite"),
        (lambda: figures.reconstructions(GRAY, GRAY[1:]), r"as many of each, got \[60, 59\]"),
        (lambda: figures.neighbors_panel(GRAY, GRAY, GRAY, RHO[1:]), r"\[60, 60, 60, 59\]"),
        (lambda: figures.losses([1.0, 2.0], [1.0, 2.0]), "first_epoch must be 1..2, got 6"),
        (lambda: figures.losses([1.0, 2.0], [1.0], 1), "same labels and lengths"),
        (lambda: figures.losses({"a": [1.0]}, {"b": [1.0]}, 1), "same labels and lengths"),
        (lambda: figures.quantile_curves([1, 2], [M]), "M must have 2 rows"),
        (lambda: figures.quantile_curves([1], M), "M must be finite with 2 dimensions"),
        (lambda: figures.quantile_curves([1], [M], levels=(95,)), "levels must be in 0..1"),
        (lambda: figures.score_density(M, quantile=95), "quantile must be in 0..1, got 95"),
        (lambda: figures.score_density(M, x_range=(3, 3)), "x_range must be ascending"),
        (lambda: figures.fit_johnson_su([2.0, 2.0]), "M must not be all equal"),
        (lambda: figures.auto_edges([1.0], count=0), "count must be at least 1, got 0"),
        (lambda: figures.log_prob_proportions(LOG_PX, M, EDGES), "high must be bool"),
        (lambda: figures.log_prob_proportions(LOG_PX, HIGH[1:], EDGES), "high must be bool"),
        (lambda: figures.log_prob_proportions(LOG_PX, HIGH, [1.0, 1.0]), "edges must be two or more"),
        (lambda: figures.log_prob_histogram(LOG_PX, HIGH, GRAY[1:], EDGES), r"log_px .* \(59,\)"),
        (lambda: figures.log_prob_histogram(LOG_PX, HIGH, GRAY, EDGES, per_column=0), "at least 1, got 8, 0"),
        (lambda: figures.ratio_density(RHO, HIGH[1:]), r"rho and high must be \(n,\)"),
        (lambda: figures.ratio_density(RHO, M), "high must be bool, got float64"),
        (lambda: figures.ratio_density([np.inf], [True]), "rho must have finite values"),
        (lambda: figures.known_scores([0.0], 1, GRID, {}), "index must be 0..0, got 1"),
        (lambda: figures.known_scores([4.0], 0, GRID, {}), "grid must reach"),
        (lambda: figures.agreement(M, M[1:], "", ""), "truth and estimate must be"),
        (lambda: figures.agreement(M, M, "", "", RHO[1:]), r"error must be numbers of shape \(60,\)"),
        (lambda: figures.agreement(M, M, "", "", -RHO), "error must not be negative"),
        (lambda: figures.agreement(M, {"a": M, "b": M[1:]}, "", ""), "truth and estimate must be"),
        (lambda: figures.agreement(M, {"a": M, "b": M}, "", "", M * 0), "that of one estimate, got 2"),
        (lambda: figures.cost_by_samples([1, 2], {}, ""), "costs must have an entry"),
        (lambda: figures.cost_by_samples([2, 1], {"a": (1, [1, 2], 1)}, ""), "num_samples must be ascending"),
        (lambda: figures.cost_by_samples([1, 2], {"a": (1, [1], 1)}, ""), r"scoring must .* shape \(2,\)"),
        (lambda: figures.cost_by_samples([1, 2], {"a": (0, [1, 2], 1)}, ""), "above 0, got a: 0"),
        (lambda: figures.cost_by_samples([1, 2], {"a": (1, [1, 2], 3)}, ""), "S of a must be 1..2, got 3"),
        (lambda: figures.convergence([0, 1], np.zeros((2, 1))), "num_samples must be at least 1, got 0"),
        (lambda: figures.convergence([1, 2], np.zeros((3, 1))), "estimates must have 2 rows"),
        (lambda: figures.convergence([1, 2], np.zeros((2, 1))), "at least 2 replicates, got 1"),
        (
            lambda: figures.error_bars([1, 1, 2], {"a": CURVE}, "", ""),
            r"x must be ascending, got \[1. 1. 2.\]",
        ),
        (lambda: figures.error_bars([0, 1, 2], {"a": CURVE}, "", "", log_x=True), "x must be above 0, got 0"),
        (lambda: figures.error_bars([], {"a": CURVE}, "", ""), "x must be numbers"),
        (lambda: figures.error_bars([1, 2, 4], {}, "", ""), "curves must have an entry"),
        (lambda: figures.error_bars([1, 2], {"a": CURVE}, "", ""), r"means must be numbers of shape \(2,\)"),
        (lambda: figures.error_bars([1], {"a": ([1], [1, 2])}, "", ""), r"lengths must .* shape \(1,\)"),
        (
            lambda: figures.error_bars([1], {"a": ([1], [np.nan])}, "", ""),
            "lengths must be numbers .* finite",
        ),
        (lambda: figures.error_bars([1], {"a": ([1], [-1])}, "", ""), "lengths must not be negative"),
        (lambda: figures.intervals(M, M[1:], M, HIGH, ("", "")), r"low must be numbers of shape \(60,\)"),
        (lambda: figures.intervals(M, M, M * np.nan, HIGH, ("", "")), "high must be numbers .* finite"),
        (lambda: figures.intervals(M, M, M, HIGH[1:], ("", "")), r"bool \(60,\), got bool \(59,\)"),
        (lambda: figures.intervals(M, M, M, M, ("", "")), r"listed must be bool \(60,\), got float64"),
        (lambda: figures.intervals(M, M + 1, M + 2, HIGH, ("", "")), "ends of intervals around M"),
        (lambda: figures.intervals(M, M - 2, M - 1, HIGH, ("", "")), "ends of intervals around M"),
        (lambda: figures.intervals(M, M, M, HIGH, ("", ""), most=0), "most must be at least 1, got 0"),
        (lambda: figures.weight_health({}, 0.5), "khat must have an entry"),
        (lambda: figures.weight_health({"a": KHAT, "b": []}, 0.5), r"shape \(n,\), got b: \(0,\)"),
        (lambda: figures.weight_health({"a": KHAT[None]}, 0.5), r"shape \(n,\), got a: \(1, 61\)"),
        (lambda: figures.weight_health({"a": [0.5, np.nan]}, 0.5), r"khat must be numbers .* got a: \(2,\)"),
        (lambda: figures.roc_curves({}), "panels must have curves"),
        (lambda: figures.roc_curves({"a": {"b": ROC}, "c": {}}), "panels must have curves"),
        (lambda: figures.roc_curves({"a": {"b": ([0, 1], [0, 0.5, 1])}}), "ascend from 0 to 1, got b"),
        (lambda: figures.roc_curves({"a": {"b": ([0, 1], [0.1, 1])}}), "ascend from 0 to 1, got b"),
        (lambda: figures.roc_curves({"a": {"b": ([0, 0.9], [0, 1])}}), "ascend from 0 to 1, got b"),
        (lambda: figures.roc_curves({"a": {"b": ([0, 0.5, 0.4, 1], [0, 0, 0, 1])}}), "ascend from 0 to 1"),
        (lambda: figures.roc_curves({"a": {"b": ([0, np.nan, 1], [0, 0, 1])}}), "rates must be finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(-18.04, "−18"), (199.7, "200"), (6512.3, "6512"), (4.4, "4.4"), (-1e-9, "0"), (0.0512, "0.0512")],
)
def test_numbers_in_titles_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize("name", FIGURES)
def test_ticks_keep_their_style_when_drawn_outside_of_it(name):
    figure = FIGURES[name]()
    with plt.style.context({"xtick.labelsize": 30, "ytick.labelsize": 30, "ytick.labelcolor": "red"}):
        figure.draw_without_rendering()
    for axes in figure.axes:
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            sizes = (8, 9) if name == "verdicts" else (10,)  # a table of many columns
            assert label.get_size() in sizes and to_hex(label.get_color()) == "#222222"
