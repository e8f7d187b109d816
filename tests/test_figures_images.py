"""Figures of images."""

import numpy as np
from gallery import COLOR, GRAY, M, which

from memlib import figures


def test_image_grid_shows_the_images_as_they_are_row_by_row():
    figure = figures.image_grid(COLOR[:7], columns=3)
    assert which(figure, COLOR) == list(range(7))
    boxes = np.array([axes.get_position().bounds for axes in figure.axes])
    boxes *= np.tile(figure.get_size_inches(), 2)
    np.testing.assert_allclose(boxes[:, 2], boxes[:, 3])  # square
    assert len(set(boxes[:, 0].round(6))) == 3 and len(set(boxes[:, 1].round(6))) == 3
    assert boxes[3, 1] < boxes[0, 1] and boxes[1, 0] > boxes[0, 0]


def test_extreme_indices_are_ascending_and_in_a_tie_the_first():
    lowest, median, highest = figures.extreme_indices([5, 1, 9, 3, 7, 100, -50], 2)
    assert lowest.tolist() == [6, 1] and highest.tolist() == [2, 5]
    assert median.tolist() == [3, 0]  # 3 and 7 are equally near to 5: the lower one
    tied = figures.extreme_indices([0, 8, 8, 0, 2, 0, 8], 4)
    assert [chosen.tolist() for chosen in tied] == [[0, 3, 5, 4], [0, 3, 5, 4], [4, 1, 2, 6]]


def test_extremes_shows_the_three_groups_with_their_ranges():
    figure = figures.extremes(GRAY, M, count=7)
    groups = figures.extreme_indices(M, 7)
    assert which(figure, GRAY) == np.concatenate(groups).tolist()
    assert all(axes.get_images()[0].get_clim() == (0, 255) for axes in figure.axes)
    tops = [figure.axes[k].get_position().y1 for k in (0, 7, 14)]
    assert tops == sorted(tops, reverse=True)
    texts = [text.get_text() for text in figure.texts]
    assert [text.split(":")[0] for text in texts] == ["(a) lowest", "(b) near the median", "(c) highest"]
    assert texts[2].endswith(f"$M$ {M[groups[2][0]]:.3g} to {M.max():.3g} nats")


def test_extremes_of_few_shows_all_with_short_numbers():
    figure = figures.extremes(GRAY[:3], [-18.04, -1e-9, 6512.3])
    assert which(figure, GRAY) == [0, 1, 2] * 3
    assert {text.get_text().split(": ")[1] for text in figure.texts} == {"$M$ −18 to 6512 nats"}
    (_, median, _) = figures.extremes(GRAY[:3], [-18.04, -1e-9, 6512.3], count=1).texts
    assert median.get_text().endswith("$M$ 0 to 0 nats")


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


def test_neighbors_panel_puts_each_neighbor_and_its_ratio_below_its_image():
    figure = figures.neighbors_panel(GRAY[:3], GRAY[10:13], GRAY[20:23], [0.5, 1, np.inf])
    assert which(figure, GRAY) == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    boxes = np.array([axes.get_position().bounds for axes in figure.axes]).reshape(3, 3, 4)
    np.testing.assert_allclose(boxes[:, :, 0], boxes[[0, 0, 0], :, 0])
    assert (np.diff(boxes[:, 0, 1]) < 0).all()
    ratios = [rf"$\rho$ = {r}" for r in ("0.50", "1.00", "inf")]
    assert [axes.get_title() for axes in figure.axes] == 6 * [""] + ratios
