"""Figures of near-duplicates."""

import numpy as np
from gallery import COLOR, which

from memlib import figures


def test_group_rows_shows_every_group_from_a_new_row_on():
    groups = [np.arange(5, 12), [3], [40, 2]]
    figure = figures.group_rows(COLOR, groups, ["car,\n7 times", "b", "c"], columns=3)
    assert which(figure, COLOR) == [*range(5, 12), 3, 40, 2]
    places = np.array([axes.get_position().bounds for axes in figure.axes])
    rows = np.unique((-places[:, 1]).round(6), return_inverse=True)[1]
    assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 4, 4]
    np.testing.assert_allclose(places[[0, 3, 6, 7, 8], 0], places[0, 0])
    assert [text.get_text() for text in figure.texts] == ["car,\n7 times", "b", "c"]
    heights = [text.get_position()[1] for text in figure.texts]
    np.testing.assert_allclose(heights, (places[:, 1] + places[:, 3] / 2)[[0, 7, 8]])


def test_class_counts_draws_every_count_from_the_top():
    figure = figures.class_counts(["cat", "dog"], {"groups": [3, 0], "images": [9, 1]}, "training set")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["groups", "images"]
    for axes, expected in zip(figure.axes, ([3, 0], [9, 1]), strict=True):
        assert [bar.get_width() for bar in axes.patches[:2]] == expected
        assert [text.get_text() for text in axes.texts] == [str(value) for value in expected]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["cat", "dog"]
    assert figure.axes[0].yaxis_inverted()


def test_by_threshold_draws_the_numbers_and_the_choice():
    panels = {"groups": {"a": [9, 3, 0], "b": [20, 10, 1]}, "largest": {"a": [5, 2, 0], "b": [8, 8, 2]}}
    figure = figures.by_threshold([0.8, 0.85, 0.9], panels, 0.85)
    assert [axes.get_ylabel() for axes in figure.axes] == list(panels)
    for axes, curves in zip(figure.axes, panels.values(), strict=True):
        choice, *drawn = axes.get_lines()
        assert choice.get_xdata()[0] == 0.85
        for line, (label, values) in zip(drawn, curves.items(), strict=True):
            assert line.get_ydata().tolist() == values and line.get_label() == label
            assert line.get_xdata().tolist() == [0.8, 0.85, 0.9]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
