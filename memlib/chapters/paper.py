"""What the paper reports, and how a run compares with it (chapters 04 to 11).

Source of all numbers: van den Burg & Williams (2021), text, figures and supplement.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from memlib.checks import Floats, check_known
from memlib.experiment import EXPERIMENTS
from memlib.inference import Corrected

Bins = tuple[float, float, float]
Row = dict[str, str]  # of the table of figures: `paper`, `here`, `verdict`
Estimate = tuple[float, float]  # a number and its standard error over repeats

WEAK = 0.1  # rank correlations up to here count as no relation


@dataclass(frozen=True)
class Reported:
    """What the paper reports of one of its experiments; None where it gives no number. Nats."""

    images: str  # its data set
    num_images: int  # training images
    median: float | None = None  # of M
    lowest: float | None = None  # of M, read off a figure, as is the highest
    highest: float | None = None
    tolerance: float = 0.3  # how far another run's median may be for the two to agree; ours, not the paper's
    log_p: Bins | None = None  # of the log-probability: start, end, width
    scores: Bins | None = None  # of M, in which the distance ratio is averaged
    density: tuple[float, float] | None = None  # the range of M over which its density is drawn


_CELEBA = Reported(
    "celeba", 162_770, 60, -450, 6500, tolerance=6, log_p=(-17_000, -11_000, 500), scores=(-550, 3200, 50)
)

REPORTED: dict[str, Reported] = {
    "mnist-lr3": Reported(
        "mnist", 60_000, 4.4, -18, 200, log_p=(-150, -30, 10), scores=(-20, 130, 2), density=(-15, 35)
    ),
    "mnist-lr4": Reported(
        "mnist", 60_000, 3.5, -13, 80, log_p=(-160, -30, 10), scores=(-15, 60, 2), density=(-15, 35)
    ),
    "cifar10": Reported("cifar10", 50_000),
    "cifar10-partial": Reported("cifar10", 50_000),
    "celeba": _CELEBA,
    "cifar10-as-celeba": dataclasses.replace(_CELEBA, log_p=None, scores=None),  # other images, other bins
}


def bins(experiment: str, kind: Literal["log_p", "scores"]) -> Floats | None:
    """Edges of the paper's bins of log P or of M in an experiment, or None where it has none.

    >>> bins("mnist-lr3", "log_p")[:3]
    array([-150., -140., -130.])
    """
    check_known("experiment", experiment, EXPERIMENTS)
    given = getattr(REPORTED[experiment], kind) if experiment in REPORTED else None
    if given is None:
        return None
    start, end, width = given
    return start + width * np.arange(np.ceil((end - start) / width) + 1)


def score_bins(experiment: str, M: ArrayLike) -> Bins:
    """Width, start and end of the paper's bins of M, or where it has none of 25 over its middle 99 %."""
    edges = bins(experiment, "scores")
    if edges is None:
        edges = np.linspace(*np.quantile(M, (0.005, 0.995)), 26)
    return float(edges[1] - edges[0]), float(edges[0]), float(edges[-1])


def extremes(experiment: str, M: ArrayLike) -> Row:
    """The range of M (n,), in nats, beside that of an experiment.

    Ends of the range are of the same order where neither is more than three times the other.
    """
    lowest, median, highest = np.min(M), np.median(M), np.max(M)
    here = f"M from {_number(lowest)} to {_number(highest)}, median {_number(median, 1)} nats"
    reported = REPORTED.get(experiment)
    if reported is None:
        return {"paper": "nothing", "here": here, "verdict": "not one of the paper's experiments"}
    if reported.median is None:
        return {"paper": "images only, no numbers", "here": here, "verdict": "no numbers to compare"}
    off = median - reported.median
    verdict = f"median {abs(off):.1f} nats {'above' if off > 0 else 'below'}"
    if abs(off) <= reported.tolerance:
        verdict = f"median within {reported.tolerance:g} nats"
    for name, ours, theirs in (("lowest", lowest, reported.lowest), ("highest", highest, reported.highest)):
        ratio = ours / theirs
        same = 1 / 3 <= ratio <= 3
        verdict += f", {name} of the same order" if same else f", {name} {ratio:.2g} times the paper's"
    ends = f"M from {_number(reported.lowest)} to {_number(reported.highest)}"
    return {"paper": f"{ends}, median {reported.median:g} nats", "here": here, "verdict": verdict}


def corrected_words(relation: Corrected) -> str:
    """A corrected rank correlation with its interval, or that it cannot be told."""
    if not np.isfinite(relation.corrected):
        return "not known, as the gaps of two halves of the repeats do not agree"
    words = f"{relation.corrected:.2f} ({relation.low:.2f} to {relation.high:.2f})"
    return words.replace("-", "\N{MINUS SIGN}")


def outliers(relation: Corrected, in_lowest: float, null: float) -> Row:
    """Are memorized images the improbable ones?

    Args:
        relation: of the gap with log p, each from other repeats. It decides: noise brings the shares to 5 %.
        in_lowest: share of the top 5 % by gap among the 5 % least probable, 0..1.
        null: the same where nothing is memorized.
    """
    found = {
        "negative": "the less probable an image, the more it is memorized",
        "positive": "the more probable an image, the more it is memorized",
        "undecided": "undecided whether improbable images are memorized more",
    }
    return {
        "paper": "memorization is not confined to outliers",
        "here": f"corrected rank correlation of the gap with log p {corrected_words(relation)}; of the top "
        f"5 % by gap {in_lowest:.0%} are among the 5 % least probable, where nothing is memorized {null:.0%}",
        "verdict": found[relation.verdict],
    }


def training(growth: Sequence[Estimate], less: Estimate, q95: tuple[float, float], repeats: int) -> Row:
    """Does memorization grow during training, and is it less at the smaller of two learning rates?

    A difference whose 95 % interval, by Student's t over the repeats, holds zero decides nothing.

    Args:
        growth: of the mean gap from the first evaluated epoch to the last, in nats, at the larger and at the
            smaller rate.
        less: mean gap at the end, at the larger rate minus at the smaller.
        q95: 0.95 quantile of M at the end, at the larger and at the smaller rate, in nats.
        repeats: behind the standard errors.
    """
    reach = stats.t.ppf(0.975, repeats - 1) if repeats > 1 else np.inf
    found = [np.sign(mean) if abs(mean) > reach * error else 0 for mean, error in (*growth, less)]
    names = ("growth at the larger rate", "growth at the smaller rate", "less at the smaller rate")
    verdict = "holds for the mean gap"
    for sign, words in ((0, "undecided at this size:"), (-1, "does not hold: the opposite of")):
        if these := [name for name, its in zip(names, found, strict=True) if its == sign]:
            verdict = f"{words} {', '.join(these)}"
    spans = [f"{_number(mean, 2)} ± {error:.2f}" for mean, error in (*growth, less)]
    return {
        "paper": "memorization grows during training, and is less at the smaller learning rate",
        "here": f"the mean gap grows by {spans[0]} nats, by {spans[1]} at the smaller rate, and ends "
        f"{spans[2]} lower there; 0.95 quantiles of M {q95[0]:.1f} and {q95[1]:.1f} nats",
        "verdict": verdict,
    }


def neighbors(relation: Corrected, found: float) -> Row:
    """Do nearest neighbors not see memorization?

    Args:
        relation: of the gap with the corrected distance ratio.
        found: share of the top 5 % by gap among the 5 % with the largest ratio, 0..1.
    """
    return {
        "paper": "the distance ratio is unrelated to memorization",
        "here": f"corrected rank correlation with the gap {corrected_words(relation)}; the 5 % largest "
        f"ratios hold {found:.0%} of the top 5 % by gap",
        "verdict": neighbors_verdict(relation.corrected, relation.low, relation.high),
    }


def neighbors_verdict(rank: float, low: float, high: float) -> str:
    """Whether "no relation" holds: a rank correlation whose interval is within `WEAK` of zero."""
    if not np.isfinite([rank, low, high]).all():
        return "undecided at this size"
    if -WEAK < low and high < WEAK:
        return f"holds as observed: no relation, or one within ±{WEAK:g}"
    if low <= WEAK and high >= -WEAK:
        return f"undecided: the interval is neither within ±{WEAK:g} nor beyond"
    return f"does not hold: the ratio {'rises' if rank > 0 else 'falls'} with memorization"


def settings(experiment: str) -> dict[str, Any]:
    """The fields of an experiment in `REPORTED` as the paper ran it: its data, its noise, its proposal."""
    check_known("experiment of the paper", experiment, REPORTED)
    own = {"images": REPORTED[experiment].images, "noise": "paper", "proposal": "encoder"}
    return dataclasses.asdict(EXPERIMENTS[experiment]) | own


def _number(value: float, decimals: int | None = None) -> str:
    decimals = (0 if abs(value) >= 10 else 1) if decimals is None else decimals
    return f"{value:.{decimals}f}".replace("-", "\N{MINUS SIGN}")
