"""Figures of images."""

import numpy as np
import pytest
from gallery import COLOR, GRAY, M, which
from hypothesis import given, settings
from hypothesis import strategies as st

from memlib import figures


@pytest.mark.parametrize("images", [GRAY, COLOR])
def test_image_grid_shows_the_images_as_they_are(images):
    figure = figures.image_grid(images[:7], columns=3)
    assert which(figure, images) == list(range(7))
    assert all(axes.get_images()[0].get_clim() == (0, 255) for axes in figure.axes)
    boxes = np.array([axes.get_position().bounds for axes in figure.axes]) * np.tile(
        figure.get_size_inches(), 2
    )
    np.testing.assert_allclose(boxes[:, 2], boxes[:, 3])  # square
    assert len(set(boxes[:, 0].round(6))) == 3 and len(set(boxes[:, 1].round(6))) == 3
    assert boxes[3, 1] < boxes[0, 1] and boxes[1, 0] > boxes[0, 0]


def test_extreme_indices_in_a_small_case():
    lowest, median, highest = figures.extreme_indices([5, 1, 9, 3, 7, 100, -50], 2)
    assert lowest.tolist() == [6, 1] and highest.tolist() == [2, 5]
    assert median.tolist() == [3, 0]  # 3 and 7 are equally near to 5: the lower one


@settings(deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=30), st.data())
def test_extreme_indices_are_extreme_and_ascending(scores, data):
    scores = np.array(scores)
    count = data.draw(st.integers(1, len(scores)))
    distance = np.abs(scores - np.median(scores))
    for chosen, order in zip(
        figures.extreme_indices(scores, count), (scores, distance, -scores), strict=True
    ):
        assert len(set(chosen.tolist())) == count and (np.diff(scores[chosen]) >= 0).all()
        assert sorted(order[chosen]) == sorted(order)[:count]


def test_extremes_shows_the_three_groups_with_their_ranges():
    figure = figures.extremes(GRAY, M, count=7)
    groups = figures.extreme_indices(M, 7)
    assert which(figure, GRAY) == np.concatenate(groups).tolist()
    left = [min(axes.get_position().x0 for axes in figure.axes[k : k + 7]) for k in (0, 7, 14)]
    assert left == sorted(left)
    texts = [text.get_text() for text in figure.texts]
    assert [text.split("\n")[0] for text in texts] == ["(a) lowest", "(b) near the median", "(c) highest"]
    assert texts[2].endswith(f"$M$ {M[groups[2][0]]:.3g} to {M.max():.3g} nats")


def test_extremes_shows_all_where_there_are_few():
    figure = figures.extremes(GRAY[:4], M[:4])
    assert which(figure, GRAY) == np.concatenate(figures.extreme_indices(M[:4], 4)).tolist()


def test_reconstructions_pairs_images_and_wraps():
    figure = figures.reconstructions(GRAY[:5], COLOR[:5], columns=3)
    assert which(figure, [*GRAY[:5], *COLOR[:5]]) == [0, 1, 2, 5, 6, 7, 3, 4, 8, 9]
    boxes = [axes.get_position() for axes in figure.axes]
    assert boxes[0].x0 == pytest.approx(boxes[3].x0) and boxes[0].y0 > boxes[3].y0 > boxes[6].y0
    assert [text.get_text() for text in figure.texts] == ["image", "reconstruction"] * 2


def test_neighbors_panel_puts_each_neighbor_below_its_image():
    figure = figures.neighbors_panel(GRAY[:4], GRAY[10:14], GRAY[20:24], [0.5, 1, np.inf, 2])
    assert which(figure, GRAY) == [*range(4), *range(10, 14), *range(20, 24)]
    assert figure.axes[0].get_position().x0 == pytest.approx(figure.axes[8].get_position().x0)
    assert [axes.get_title() for axes in figure.axes[8:]] == [
        rf"$\rho$ = {r}" for r in ("0.50", "1.00", "inf", "2.00")
    ]
