"""The paper's numbers and how runs are compared with them."""

import numpy as np
import pytest

from memlib.chapters import paper
from memlib.inference import Corrected


def test_bins_are_those_of_the_figures():
    np.testing.assert_array_equal(paper.bins("mnist-lr3", "log_p"), np.arange(-150, -29, 10))
    # the last bin holds the end
    np.testing.assert_array_equal(paper.bins("mnist-lr4", "scores"), np.append(np.arange(-15, 60, 2), 61))
    assert paper.bins("cifar10", "log_p") is None and paper.bins("digits-lr3", "scores") is None


def test_score_bins_are_the_papers_or_hold_the_middle_of_the_scores():
    assert paper.score_bins("mnist-lr3", [0.0, 1.0]) == (2, -20, 130)
    width, low, high = paper.score_bins("digits-lr3", np.arange(1001.0))
    assert (low, high) == pytest.approx((5, 995)) and width == pytest.approx(990 / 25)


def test_settings_are_of_the_papers_data():
    assert paper.settings("cifar10-partial") == paper.settings("cifar10")
    assert paper.settings("cifar10")["images"] == "cifar10" and paper.settings("celeba")["noise"] == "paper"
    with pytest.raises(ValueError, match="unknown experiment of the paper 'digits-lr3'"):
        paper.settings("digits-lr3")


@pytest.mark.parametrize(
    ("experiment", "M", "verdict"),
    [
        (
            "mnist-lr3",
            [-400, 4.4, 190],
            "median within 0.3 nats, lowest 22 times the paper's, highest of the same order",
        ),
        ("mnist-lr3", [-18, 4.8, 200], "median 0.4 nats above, lowest of the same order, highest of the sa"),
        ("mnist-lr4", [-5, 2.5, 20], "median 1.0 nats below, lowest of the same order, highest 0.25 times"),
        ("celeba", [-450, 65.9, 6500], "median within 6 nats"),
        ("cifar10", [1, 2, 3], "no numbers to compare"),
        ("digits-lr3", [1, 2, 3], "not one of the paper's experiments"),
    ],
)
def test_extremes(experiment, M, verdict):
    row = paper.extremes(experiment, M)
    assert row["verdict"].startswith(verdict)
    assert row["here"].startswith("M from ") and row["here"].endswith(f"median {M[1]:.1f} nats")
    if experiment == "mnist-lr3":
        assert row["paper"] == "M from −18 to 200, median 4.4 nats"


def relation(corrected: float, low: float, high: float) -> Corrected:
    verdict = "positive" if low > 0 else "negative" if high < 0 else "undecided"
    return Corrected(0.0, 0.5, corrected, low, high, verdict)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((-0.05, -0.08, 0.04), "holds as observed: no relation, or one within ±0.1"),
        ((0.09, 0.02, 0.16), "undecided: the interval is neither within ±0.1 nor beyond"),
        ((-0.3, -0.55, -0.05), "undecided: the interval is neither within ±0.1 nor beyond"),
        ((0.2, 0.18, 0.22), "does not hold: the ratio rises with memorization"),
        ((-0.3, -0.4, -0.2), "does not hold: the ratio falls with memorization"),
        ((np.nan, np.nan, np.nan), "undecided at this size"),
    ],
)
def test_neighbors_are_judged_by_the_corrected_correlation_of_the_gap(interval, verdict):
    row = paper.neighbors(relation(*interval), found=0.07)
    assert row["verdict"] == verdict and "hold 7%" in row["here"]


@pytest.mark.parametrize(
    ("interval", "verdict", "words"),
    [
        (
            (-0.57, -0.6, -0.5),
            "the less probable an image, the more it is memorized",
            "−0.57 (−0.60 to −0.50)",
        ),
        ((0.2, 0.1, 0.3), "the more probable an image, the more it is memorized", "0.20 (0.10 to 0.30)"),
        (
            (-0.1, -0.3, 0.1),
            "undecided whether improbable images are memorized more",
            "−0.10 (−0.30 to 0.10)",
        ),
        ((np.nan,) * 3, "undecided whether improbable images are memorized more", "not known, as the gaps"),
    ],
)
def test_outliers_are_judged_by_the_sign_of_the_corrected_correlation(interval, verdict, words):
    row = paper.outliers(relation(*interval), 0.1, 0.05)
    assert row["verdict"] == verdict and f"log p {words}" in row["here"]
    assert row["here"].endswith("10% are among the 5 % least probable, where nothing is memorized 5%")


SURE, NOT_SURE, OPPOSITE = (1.0, 0.1), (0.1, 0.1), (-1.0, 0.1)


@pytest.mark.parametrize(
    ("growth", "less", "verdict"),
    [
        ((SURE, SURE), SURE, "holds for the mean gap"),
        ((SURE, NOT_SURE), SURE, "undecided at this size: growth at the smaller rate"),
        ((SURE, SURE), (1.0, np.nan), "undecided at this size: less at the smaller rate"),
        ((OPPOSITE, NOT_SURE), SURE, "does not hold: the opposite of growth at the larger rate"),
    ],
)
def test_training(growth, less, verdict):
    row = paper.training(growth, less, (12.0, 5.0), repeats=5)
    assert row["verdict"] == verdict and row["here"].endswith("0.95 quantiles of M 12.0 and 5.0 nats")


@pytest.mark.parametrize(("repeats", "decided"), [(1, False), (2, False), (3, True)])
def test_few_repeats_decide_less(repeats, decided):
    # ten standard errors; the 97.5 % point of Student's t is 12.7 with one degree of freedom, 4.3 with two
    verdict = paper.training((SURE, SURE), SURE, (12.0, 5.0), repeats)["verdict"]
    assert verdict.startswith("holds") == decided
