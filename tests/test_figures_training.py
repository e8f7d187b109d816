"""Figures of a training run."""

import numpy as np
import pytest
from gallery import RNG, M, legend
from scipy.stats import johnsonsu

from memlib import figures
from memlib.figures import BLUE, RED


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
    np.testing.assert_allclose(moved, (fit.a, fit.b, 1024 * fit.loc - 50, 1024 * fit.scale), rtol=1e-9)


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
