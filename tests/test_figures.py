"""What holds for every figure: one size, texts within its edges, its style wherever it is drawn."""

import matplotlib.pyplot as plt
import pytest
from gallery import FIGURES
from matplotlib.colors import to_hex

from memlib import figures


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_whole_and_in_style_and_leaves_no_trace(name):
    before = plt.rcParams.copy()
    figure = FIGURES[name]()
    assert plt.rcParams == before
    assert plt.get_fignums() == []  # or a notebook would show it twice
    width = 5.2 if name == "extremes" else figures.WIDTH
    assert figure.get_figwidth() == pytest.approx(width, abs=0.6) and figure.dpi == 160
    assert figure.get_facecolor() == (1, 1, 1, 1)

    # drawn where other settings hold, with no warning, such as a missing glyph or a layout that failed
    with plt.style.context({"xtick.labelsize": 30, "ytick.labelsize": 30, "ytick.labelcolor": "red"}):
        figure.draw_without_rendering()
        box = figure.get_tightbbox()  # in inches
    for axes in figure.axes:
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            sizes = (8, 9) if name == "verdicts" else (10,)  # a table of many columns
            assert label.get_size() in sizes and to_hex(label.get_color()) == "#222222"
    width, height = figure.get_size_inches()
    assert box.x0 > -0.02 and box.y0 > -0.02 and box.x1 < width + 0.02 and box.y1 < height + 0.02


def test_the_gallery_holds_every_public_figure():
    drawn = {name for name, value in vars(figures).items() if hasattr(value, "__wrapped__")}
    assert drawn == set(FIGURES)
