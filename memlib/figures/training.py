"""Figures of a training run: losses and scores over the epochs, and the density of the scores at its end."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from memlib.figures.style import (
    CURVES,
    Curves,
    Floats,
    bin_count,
    check_curves,
    check_vector,
    draw_density,
    number,
    require,
    styled,
)
from memlib.memorization import least_observations

FEWEST = 20  # observations of a distribution: as many as have a top 5 %, five for each parameter of the fit


class JohnsonSU(NamedTuple):
    """Parameters of a Johnson SU distribution, in the order `scipy.stats.johnsonsu` takes them."""

    a: float
    b: float
    loc: float
    scale: float


@styled
def losses(train_loss: Curves, test_loss: Curves, first_epoch: int = 6) -> Figure:
    """Draw the loss over the epochs, of the training set (solid) and the test set (dashed).

    Args:
        train_loss: (epochs,), per image in nats, from epoch 1 on; or label -> (epochs,) to overlay models.
        test_loss: the same for the test set.
        first_epoch: the first one drawn, 1-based, at most the number of epochs. The paper leaves out five.

    Source: paper, figure 4a.
    """
    train, test = check_curves("train_loss", train_loss), check_curves("test_loss", test_loss)
    shapes = {name: curve.shape for name, curve in train.items()}
    require(
        shapes == {name: curve.shape for name, curve in test.items()},
        "train_loss and test_loss must have the same labels and lengths",
    )
    shortest = min(len(curve) for curve in train.values())
    require(1 <= first_epoch <= shortest, f"first_epoch must be 1..{shortest}, got {first_epoch}")
    lines = {
        name: {"train": train[name][first_epoch - 1 :], "test": test[name][first_epoch - 1 :]}
        for name in train
    }
    epochs = {name: np.arange(first_epoch, len(curve) + 1) for name, curve in train.items()}
    return _epochs(epochs, lines, "loss per image (nats)")


@styled
def quantile_curves(epochs: ArrayLike, M: Curves, levels: Sequence[float] = (0.95, 0.999)) -> Figure:
    """Draw upper quantiles of the score over the epochs.

    Args:
        epochs: (evaluated epochs,), the x axis.
        M: (evaluated epochs, n), in nats, n at least 20; or label -> such an array to overlay several models.
        levels: quantiles in 0..1; one line style each. Of one that needs more observations than there are,
            such as the 0.999 quantile of fewer than 1000, the legend says how many there are.

    Source: paper, figure 4b.
    """
    epochs, M = check_vector("epochs", epochs), check_curves("M", M, dimensions=2)
    require(
        all(len(scores) == len(epochs) for scores in M.values()), f"M must have {len(epochs)} rows (epochs)"
    )
    require(all(0 <= level <= 1 for level in levels), f"levels must be in 0..1, got {levels}")
    _check_enough(M)
    lines = {
        name: {_level(level, scores.shape[1]): np.quantile(scores, level, axis=1) for level in levels}
        for name, scores in M.items()
    }
    return _epochs(dict.fromkeys(M, epochs), lines, "quantile of $M$ (nats)", marker="o")


def _check_enough(M: Mapping[str, Floats]) -> None:
    for scores in M.values():
        n = scores.shape[-1]
        require(n >= FEWEST, f"M must have at least {FEWEST} observations, got {n}")


def _level(level: float, n: int) -> str:
    """What a legend calls a quantile of n observations."""
    return f"{level:g} quantile" + (f" of only {n}" if n < least_observations(level) else "")


def fit_johnson_su(M: ArrayLike) -> JohnsonSU:
    r"""Fit a Johnson SU distribution by maximum likelihood.

    $$\frac{x - \text{loc}}{\text{scale}} = \sinh \frac{t - a}{b}, \quad t \sim N(0, 1)$$

    Args:
        M: (n,), finite, not all equal, n at least 20: four parameters fit fewer whatever they are.

    Returns:
        The four parameters, `loc` and `scale` in the unit of M.

    Raises:
        ValueError: if `M` is not as above.
    """
    from scipy.stats import johnsonsu

    M = check_vector("M", M)
    require(np.ptp(M) > 0, "M must not be all equal for a distribution to be fitted")
    _check_enough({"": M})
    # A search in the data's own unit: scipy's start is far off for heavy tails.
    low, center, high = np.quantile(M, (0.25, 0.5, 0.75))
    unit = high - low or np.ptp(M)
    a, b, loc, scale = johnsonsu.fit((M - center) / unit, 0, 1, loc=0, scale=1)
    return JohnsonSU(float(a), float(b), float(center + unit * loc), float(unit * scale))


@styled
def score_density(M: Curves, quantile: float = 0.95, x_range: tuple[float, float] | None = None) -> Figure:
    """Draw the density of the score: histogram, Johnson SU fit, dashed line at a quantile.

    Args:
        M: (n,), in nats, n at least 20; or label -> (n,) to overlay several models.
        quantile: in 0..1, above it an observation is called highly memorized; n must be enough to have it.
        x_range: what is shown, in nats, ascending; the paper's is (-15, 35), without it the middle 99.8 % of
            the scores. Densities count the scores outside too.

    Source: paper, figure 4c.
    """
    from scipy.stats import johnsonsu

    M = check_curves("M", M)
    require(0 <= quantile <= 1, f"quantile must be in 0..1, got {quantile}")
    fewest, least = min(map(len, M.values())), least_observations(quantile)
    require(
        fewest >= least, f"M must have at least {least} observations for a {quantile} quantile, got {fewest}"
    )
    if x_range is None:
        x_range = tuple(np.quantile(np.concatenate(list(M.values())), (0.001, 0.999)))
    require(x_range[0] < x_range[1], f"x_range must be ascending, got {x_range}")
    fits = {name: fit_johnson_su(scores) for name, scores in M.items()}
    edges = np.linspace(*x_range, bin_count(*M.values(), at_most=80) + 1)
    grid = np.linspace(*x_range, 500)
    figure, axes = plt.subplots(layout="constrained")
    for k, (name, scores) in enumerate(M.items()):
        color, prefix = CURVES[k % 3], f"{name}, " if name else ""
        threshold = np.quantile(scores, quantile)
        draw_density(axes, scores, edges, color, prefix + "$M$")
        axes.plot(grid, johnsonsu.pdf(grid, *fits[name]), color=color, label=prefix + "Johnson SU fit")
        label = f"{prefix}{quantile:g} quantile: {number(threshold)}"
        axes.axvline(threshold, color=color, ls="--", lw=1.4, label=label)
    axes.set(xlabel="$M$ (nats)", ylabel="density (1/nat)", xlim=x_range)
    axes.legend(frameon=True, framealpha=0.9, edgecolor="none")  # a quantile's line may pass behind
    return figure


def _epochs(
    x: Mapping[str, Floats], lines: Mapping[str, Mapping[str, Floats]], ylabel: str, **style
) -> Figure:
    """Draw curves by model and kind; models differ in color, kinds in dash (one model's in color too)."""
    figure, axes = plt.subplots(layout="constrained")
    for k, (name, kinds) in enumerate(lines.items()):
        for j, (kind, curve) in enumerate(kinds.items()):
            color, dash = CURVES[(k if len(lines) > 1 else j) % 3], ("-", "--", ":")[j % 3]
            label = f"{name}, {kind}" if name else kind
            axes.plot(x[name], curve, dash, color=color, label=label, **style)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.grid(axis="y")
    crowded = len(axes.lines) > 2  # then any place inside may hide a curve
    axes.legend(**({"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2} if crowded else {}))
    return figure
