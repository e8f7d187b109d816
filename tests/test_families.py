"""Chapter 17: its four families against closed forms, and what it draws and counts."""

import itertools
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from chapters import ROOT
from matplotlib.colors import to_hex
from scipy import stats

from memlib.chapters.families import remembered, share_explained, standing_out
from memlib.figures.style import BLUE, RED
from memlib.models import Bernoulli

GRAY = torch.tensor(np.random.default_rng(0).integers(0, 256, (40, 4)), dtype=torch.float32)
EVERY = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))  # all images of four binary pixels


@pytest.fixture(scope="module")
def cells() -> dict[str, Any]:
    """The names that the chapter's cells define, without those that train on its images."""
    names: dict[str, Any] = {"likelihood": Bernoulli()}
    for cell in nbformat.read(ROOT / "book" / "17-other-models.ipynb", 4).cells:
        if cell.source.startswith("class Exact"):
            return names
        source = cell.source.partition("\nbinary = ")[0]  # what follows the imports checks parameters
        if cell.cell_type == "code" and "vae.images" not in source:
            exec(source, names)
    raise AssertionError("the chapter has no class Exact")


def given(monkeypatch, cells, family, **parameters):
    """A family of the chapter with other parameters."""
    for name, value in parameters.items():
        monkeypatch.setitem(cells, name, value)
    return cells[family]


@pytest.mark.parametrize("family", ["mixture", "kernels", "made"])
def test_probabilities_of_all_images_sum_to_one(cells, family):
    log_p = cells[family](GRAY, 0)
    with torch.no_grad():
        assert log_p(EVERY).double().exp().sum().item() == pytest.approx(1, abs=1e-4)


def test_a_mixture_of_one_component_has_the_mean_pixels(monkeypatch, cells):
    log_p = given(monkeypatch, cells, "mixture", components=1)(GRAY, 0, smooth=1e-6)
    mean = GRAY.mean(0).numpy() / 255
    want = stats.bernoulli(mean).logpmf(EVERY.numpy()).sum(1)
    np.testing.assert_allclose(log_p(EVERY).numpy(), want, atol=1e-4)


def test_kernels_are_flipped_images_with_the_width_that_leaving_one_out_prefers(cells):
    x = GRAY.gt(127) * 255.0  # black and white, so that their binary version is sure
    own = x.numpy() / 255
    differ = (EVERY.numpy()[:, None] != own).sum(-1)  # (16, n)
    apart = (own[:, None] != own).sum(-1)

    def mean_kernel(d, h):  # over the images, by hand
        return (h**d * (1 - h) ** (4 - d)).mean(-1)

    def left_out(h):
        others = np.array([np.delete(row, i) for i, row in enumerate(apart)])
        return np.log(mean_kernel(others, h)).mean()

    widths = (0.02, 0.1, 0.3, 0.45)
    best = max(widths, key=left_out)
    got = cells["kernels"](x, 0, widths)(EVERY)
    np.testing.assert_allclose(got.exp().numpy(), mean_kernel(differ, best), rtol=1e-4)


def test_made_learns_that_a_pixel_repeats_an_earlier_one(monkeypatch, cells):
    first = torch.arange(400) % 2 * 255.0
    x = torch.stack([first, first, torch.full((400,), 127.5)], 1)
    log_p = given(monkeypatch, cells, "made", made_passes=200)(x, 0)
    y = torch.tensor([[0.0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 1]])
    with torch.no_grad():
        p = log_p(y).exp().numpy()
    np.testing.assert_allclose(p, [0.25, 0.25, 0.25, 0.25, 0], atol=0.03)


def test_the_flow_is_a_density_of_gray_levels_that_integrates_to_one(monkeypatch, cells):
    log_p = given(monkeypatch, cells, "flow", flow_passes=20)(GRAY[:, :2], 0)
    middles = (torch.arange(512) + 0.5) / 2
    grid = torch.cartesian_prod(middles, middles)
    with torch.no_grad():
        density = log_p(grid).double().exp()
    assert density.sum().item() / 4 == pytest.approx(1, abs=0.02)


def test_standing_out_goes_by_the_lowest_and_by_the_lead_in_ranks():
    gaps = {"a": [0.1, 5, 9, 2, 3], "b": [-1, 40, 90, 700, 0]}  # ranks 1 4 5 2 3 and 1 3 4 5 2
    found = standing_out(gaps, 2)
    assert {name: rows.tolist() for name, rows in found.items()} == {"all": [2, 1], "a": [1, 2], "b": [3, 0]}
    with pytest.raises(ValueError, match="two families or more"):
        standing_out({"a": [1.0, 2.0]}, 1)
    with pytest.raises(ValueError, match="count is 6; allowed: 1 to 5"):
        standing_out(gaps, 6)


def test_the_share_explained_is_that_of_the_ranks():
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 4000))
    assert share_explained(np.exp(x), stats.rankdata(x)) == pytest.approx(1)
    classes = np.eye(40)[np.arange(4000) % 40][:, 1:]
    assert abs(share_explained(noise, classes)) < 0.01  # 40 columns that have nothing to do with it
    mixed = x + noise
    want = stats.spearmanr(mixed, x).statistic ** 2
    assert share_explained(mixed, stats.rankdata(x)) == pytest.approx(want, abs=1e-3)
    assert share_explained(mixed, stats.rankdata(x), stats.rankdata(x)) == pytest.approx(want, abs=1e-3)
    with pytest.raises(ValueError, match="the number of images is 3; allowed: 4 or more"):
        share_explained([1, 2, 3], [[1, 0], [0, 1], [3, 1]])


IMAGES = np.random.default_rng(1).integers(0, 256, (9, 1, 8, 8), np.uint8)


def test_remembered_writes_every_correlation_and_shows_every_image():
    values = np.array([[1, -0.25], [np.nan, 1]])
    rows = {"both": [3, 1, 8], "a alone": [0, 2, 4]}
    matrix, *tiles = remembered(values, ["a", "b"], IMAGES, rows).axes
    written = {(t.get_position()[1] - 0.5, t.get_position()[0] - 0.5): t.get_text() for t in matrix.texts}
    assert written == {(0, 0): "1.00", (0, 1): "−0.25", (1, 0): "–", (1, 1): "1.00"}
    paints = [(p.get_xy(), to_hex(p.get_facecolor()).upper(), p.get_alpha()) for p in matrix.patches[1::2]]
    assert paints[0] == ((0, 0), BLUE, 0.6) and paints[1] == ((1, 0), RED, 0.15) and paints[2][2] == 0
    assert [t.get_text() for t in matrix.get_xticklabels()] == ["a", "b"] and matrix.yaxis_inverted()
    shown = np.stack([axes.images[0].get_array() for axes in tiles])
    np.testing.assert_array_equal(shown, IMAGES[[3, 1, 8, 0, 2, 4], 0])


@pytest.mark.parametrize(
    ("values", "rows", "message"),
    [
        (np.eye(3), {"all": [0]}, "shape"),
        ([[1, 1.1], [1.1, 1]], {"all": [0]}, "within -1..1"),
        (np.eye(2), {"all": [0], "a": [0, 1]}, "rows must be as long"),
    ],
)
def test_remembered_refuses(values, rows, message):
    with pytest.raises(ValueError, match=message):
        remembered(values, ["a", "b"], IMAGES, rows)
