r"""Chapter 18: scores that are cheaper than retraining, from gradients of one model and from its ELBO.

Gradients are taken for every example by itself, by `torch.func`. Parameters go by name; a loss takes them and
the tensors of one example, and returns one number.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from memlib.checks import check_range, check_whole
from memlib.data import ImageSet
from memlib.device import own_settings
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment, Stream
from memlib.figures.style import BLUE, RED, WIDTH, check_array, note_left_out, require, styled
from memlib.training import negative_elbo

Loss = Callable[..., Tensor]  # of parameters by name and the tensors of one example
Parameters = dict[str, Tensor]


def version_noise(experiment: Experiment, images: ImageSet, version: int = 0) -> Tensor:
    """What binarizes or dequantizes the images in a version that all models score, in [0, 1), (n, D).

    Fitted proposals score version 0, whatever `noise` the experiment has.
    """
    n, D = len(images), images.images[0].size
    return torch.rand(n, D, generator=experiment.torch_stream(Stream.VERSIONS, version), dtype=torch.float32)


@own_settings()
def scored_version(experiment: Experiment, images: ImageSet, model: Ensemble) -> Tensor:
    """The images as a run of the experiment scores them, (n, D): its first version, shared by all models.

    Args:
        experiment: with `noise` "paired".
        images: its training images.
        model: whose likelihood binarizes or dequantizes, and on whose device the result is.

    Raises:
        ValueError: an experiment in which each model has a version of its own.
    """
    if experiment.noise != "paired":
        raise ValueError(f"noise is {experiment.noise!r}; allowed: 'paired', with one version for all models")
    gray = torch.tensor(images.images).flatten(1)
    uniform = version_noise(experiment, images).to(model.device, model.dtype)
    return model.likelihood.perturb(gray.to(model.device), uniform)


@own_settings()
@torch.no_grad()
def elbos(models: Ensemble, y: Tensor, eps: Tensor) -> Tensor:
    """ELBO of every observation under every model, (E, n) nats, its mean over draws of the latent noise.

    Args:
        models: E models.
        y: observations, (n, D).
        eps: standard normal noise, the same for all models, (n, draws, Z).
    """
    shown = y.expand(len(models), -1, -1)
    each = [negative_elbo(models, shown, e.expand(len(models), -1, -1)) for e in eps.unbind(1)]
    return -torch.stack(each).mean(0)


def elbo_loss(model: Ensemble) -> tuple[Loss, Parameters]:
    """The negative ELBO of a single model as a loss, and the parameters that it has.

    Returns:
        `loss(parameters, y, eps)` in nats, of an observation (D,) with noise (draws, Z), over which it is
        averaged; and the parameters, each (1, ...).

    Raises:
        ValueError: an ensemble of several models.
    """
    if len(model) != 1:
        raise ValueError(f"the ensemble has {len(model)} models; allowed: 1, such as full_model gives")
    own = model.part(slice(None)).train(False)

    def loss(parameters: Parameters, y: Tensor, eps: Tensor) -> Tensor:
        return negative_elbo(
            dataclasses.replace(own, params=parameters), y.expand(1, len(eps), -1), eps[None]
        ).mean()

    return loss, own.params


class Gradients(NamedTuple):
    """Of every example: the projected gradient (n, d), and the length of the whole one (n,)."""

    features: Tensor
    norm: Tensor


@own_settings()
def gradients(
    loss: Loss,
    parameters: Parameters,
    *examples: Tensor,
    dimensions: int = 0,
    generator: torch.Generator | None = None,
    at_once: int = 16,
) -> Gradients:
    """The gradient of the loss at every example, projected at random to few dimensions.

    Every parameter gets a random sign and one random coordinate, to which it is added: a sparse projection,
    with which inner products are right on average.

    Args:
        loss, parameters: see above; `elbo_loss` gives both.
        examples: tensors of n examples, each (n, ...).
        dimensions: d; 0 for no projection, which takes n numbers for every parameter.
        generator: of the projection, on the CPU; without one that of seed 0.
        at_once: examples whose gradients are in memory together, 1 or more.

    Raises:
        ValueError: dimensions below 0, or fewer than one example at once.

    Source: Charikar, Chen & Farach-Colton (2002) for the projection.
    """
    check_whole(0, dimensions=dimensions)
    each = vmap(grad(loss), (None, *(0 for _ in examples)))
    device = next(iter(parameters.values())).device
    generator = generator or torch.Generator().manual_seed(0)
    places, signs = [], []
    for p in parameters.values() if dimensions else ():
        places.append(torch.randint(dimensions, (p.numel(),), generator=generator).to(device))
        signs.append((2.0 * torch.randint(2, (p.numel(),), generator=generator) - 1).to(device))
    features, norms = [], []
    for part in _batches(examples, at_once):
        own = [g.flatten(1) for g in each(parameters, *part).values()]  # (B, size of a parameter) each
        norms.append(torch.stack([g.square().sum(1) for g in own]).sum(0).sqrt())
        if not dimensions:
            features.append(torch.cat(own, dim=1))
            continue
        sketch = own[0].new_zeros(len(own[0]), dimensions)
        for g, place, sign in zip(own, places, signs, strict=True):
            sketch.index_add_(1, place, g * sign.to(g.dtype))
        features.append(sketch)
    return Gradients(torch.cat(features), torch.cat(norms))


@own_settings()
def self_influence(features: Tensor, ridge: float) -> Tensor:
    r"""How much every example holds its own loss down, by TRAK with one model: (n,), between 0 and 1.

    $$h_i = \phi_i^T (\Phi^T \Phi + \lambda I)^{-1} \phi_i, \qquad
    \lambda = \mathrm{ridge} \cdot \frac{1}{d} \mathrm{tr} \, \Phi^T \Phi$$

    For a linear model whose $\phi_i$ are its inputs and $\lambda = 0$ these are the leverage scores.

    Args:
        features: $\Phi$, (n, d), such as `gradients` gives.
        ridge: relative to the mean of the diagonal, 0 or more; with 0 there have to be as many independent
            examples as dimensions.

    Raises:
        ValueError: a ridge below 0, features that are not (n, d) or not finite, or too few of them for a
            ridge of 0.

    Source: Park et al. (2023), whose factor Q is 1 for an output that is the loss itself.
    """
    check_range(0, ridge=ridge)
    if features.ndim != 2 or not features.isfinite().all():
        raise ValueError(f"features are {tuple(features.shape)}; allowed: (n, d), finite")
    phi = features.double()
    gram = phi.T @ phi
    if not ridge and (rank := int(torch.linalg.matrix_rank(gram, hermitian=True))) < len(gram):
        raise ValueError(f"ridge is 0 and the features have rank {rank} of {len(gram)}; allowed: above 0")
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    return (phi * torch.linalg.solve(gram, phi.T).T).sum(1)


@own_settings()
def unlearning_rise(
    loss: Loss, parameters: Parameters, *examples: Tensor, steps: int, rate: float, at_once: int = 16
) -> Tensor:
    """By how much the loss of an example rises as a model unlearns it, after every step: (steps, n).

    Each example has a copy of the model, which goes up the gradient of that example's loss alone; noise that
    is part of the example is the same in all steps.

    Args:
        loss, parameters, examples, at_once: as for `gradients`.
        steps: 1 or more.
        rate: the step is so many times the gradient; above 0.

    Raises:
        ValueError: no step, or a rate that is not above 0.
        FloatingPointError: a loss is not finite any more: the rate is too large.

    Source: the idea of Murata et al. (2026) and Serra et al. (2026), who unlearn groups, or what a model
    has generated, and keep the model good for the rest.
    """
    check_whole(1, steps=steps)
    if not rate > 0:
        raise ValueError(f"rate is {rate}; allowed: above 0")
    step, rises = vmap(grad_and_value(loss)), []
    for part in _batches(examples, at_once):
        own = {name: p.expand(len(part[0]), *p.shape) for name, p in parameters.items()}
        values = []
        for _ in range(steps):
            slope, value = step(own, *part)
            values.append(value)
            own = {name: torch.add(p, slope[name], alpha=rate) for name, p in own.items()}
        values.append(step(own, *part)[1])
        rises.append(torch.stack(values[1:]) - values[0])
    rise = torch.cat(rises, dim=1)
    if bad := int((~rise.isfinite()).any(0).sum()):
        raise FloatingPointError(f"{bad} losses are not finite after {steps} steps; allowed: a smaller rate")
    return rise


def _batches(examples: tuple[Tensor, ...], size: int) -> Iterator[tuple[Tensor, ...]]:
    check_whole(1, at_once=size)
    yield from zip(*(x.split(size) for x in examples), strict=True)


@styled
def agreement_by_cost(table: Mapping[str, tuple[float, float, float, float]], retrained: set[str]) -> Figure:
    """Draw how well scores agree with the reference against what they cost, a labeled point for each.

    Args:
        table: name -> (cost in trainings, above 0; rank correlation; ends of its interval). What is NaN, as
            it is where the reference is too noisy, is counted in the legend instead.
        retrained: names of those that train models without some of the images, in another color.

    Raises:
        ValueError: no score, a cost that is not above 0, or an agreement outside of its interval.
    """
    require(len(table) > 0, "table must have a score")
    rows = check_array("table", list(table.values()), None, 4, finite=False)
    cost, agreement, low, high = rows.T
    require(bool((cost > 0).all()), f"cost must be above 0, got {cost.min():g}")
    known = np.isfinite(rows).all(axis=1)
    outside = known & ~((low <= agreement) & (agreement <= high))
    require(not outside.any(), f"{[*table][outside.argmax()]} must lie within its interval")
    again = np.array([name in retrained for name in table])
    figure, axes = plt.subplots(figsize=(WIDTH, 5), layout="constrained")
    axes.axhline(0, color="#888888", ls="--", lw=1, zorder=0)
    for kind, color, label in ((again, BLUE, "models retrained"), (~again, RED, "one model, or none")):
        if (at := np.flatnonzero(kind & known)).size:
            reach = [agreement[at] - low[at], high[at] - agreement[at]]
            axes.errorbar(cost[at], agreement[at], reach, fmt="o", color=color, capsize=3, label=label)
    place = np.log10(cost)
    for i in np.flatnonzero(known):
        # where a label would lie, to the right or to the left, there may be another point
        near = known & (abs(agreement - agreement[i]) < 0.05) & (np.arange(len(cost)) != i)
        right, left = (near & (0 <= way) & (way < 1) for way in (place - place[i], place[i] - place))
        where = {"xytext": (7, 0), "ha": "left", "va": "center"}
        if right.any():
            where |= {"xytext": (-7, 0), "ha": "right"}
        if right.any() and left.any():
            where = {"xytext": (0, -7), "ha": "center", "va": "top"}
        end = agreement[i] if where["va"] == "center" else low[i]
        axes.annotate([*table][i], (cost[i], end), textcoords="offset points", fontsize=9, **where)
    axes.set_xscale("log")
    axes.set(xlabel="cost (trainings of the full model)", ylabel="rank correlation with the gap, corrected")
    axes.margins(x=0.15)
    axes.grid(axis="y")
    if known.any():
        axes.legend(loc="lower left")
    note_left_out(axes, known)
    return figure
