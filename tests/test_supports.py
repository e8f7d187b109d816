"""Supports and shapes of a model's distributions, against quadrature and sums by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate
from torch.distributions import (
    AffineTransform,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Exponential,
    Gamma,
    Gumbel,
    HalfNormal,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Poisson,
    StudentT,
    TransformedDistribution,
    Uniform,
    VonMises,
    constraints,
)

from memlib.data import ImageSet
from memlib.runs.latent_model import LatentModel

LEVELS = np.array([0, 64, 128, 255], np.uint8).reshape(4, 1, 1, 1)
IMAGES = ImageSet.of(LEVELS)
NORMAL = Normal(torch.zeros(1), 1.0)


def full(B, *values):
    return [torch.full((B, 1), float(v)) for v in values]


def spread(B, low, high):
    """Half of either, side by side."""
    low = torch.tensor([low, high]).expand(B, 1, 2)
    parts = Uniform(low, low + 2, validate_args=False)
    return MixtureSameFamily(Categorical(torch.ones(B, 1, 2)), parts, validate_args=False)


def affine(base, loc, scale):
    return TransformedDistribution(base, AffineTransform(loc, scale))


def decoder(z):
    return Normal(z.reshape(-1, 1, 1, 1), 0.5)


def by_quadrature(prior, low, high, breaks=()):
    """log p(x) of the four images, from the prior's density on an interval."""

    def joint(z, x):
        return math.exp(float(prior.log_prob(torch.tensor([z], dtype=torch.double)))) * math.exp(
            float(Normal(z, 0.5).log_prob(torch.tensor(x, dtype=torch.double)))
        )

    return [
        math.log(integrate.quad(joint, low, high, (x,), points=breaks or None, limit=200)[0])
        for x in LEVELS.ravel() / 255
    ]


def double(kind, *values):
    return kind(*(torch.tensor([float(v)], dtype=torch.double) for v in values))


COVERED = {  # q by the number of images; prior; the ends of its support, as far as there is any of it
    "normal, exponential": (lambda B: Normal(*full(B, 0.5, 1)), double(Exponential, 1), 0, 40),
    "normal, half normal": (lambda B: Normal(*full(B, 0.5, 1)), double(HalfNormal, 1), 0, 12),
    "normal, log normal": (lambda B: Normal(*full(B, 1, 1)), double(LogNormal, 0, 1), 1e-9, 60),
    "normal, beta": (lambda B: Normal(*full(B, 0.5, 1)), double(Beta, 2, 3), 1e-9, 1 - 1e-9),
    "normal, uniform": (lambda B: Normal(*full(B, 0.5, 1)), double(Uniform, -0.5, 1), -0.5, 1),
    "normal, angles": (lambda B: Normal(*full(B, 0.5, 1)), double(VonMises, 0, 1), -math.pi, math.pi),
    "t, gumbel": (lambda B: StudentT(*full(B, 3, 0, 2)), double(Gumbel, 0, 1), -5, 30),
    "gamma, log normal": (lambda B: Gamma(*full(B, 1, 1)), double(LogNormal, 0, 1), 1e-9, 60),
    "log normal, exponential": (lambda B: LogNormal(*full(B, -0.5, 1.5)), double(Exponential, 1), 0, 40),
    "exponential, uniform": (lambda B: Exponential(*full(B, 1)), double(Uniform, 0.2, 3), 0.2, 3),
    "beta, uniform": (lambda B: Beta(*full(B, 1, 1)), double(Uniform, 0, 1), 0, 1),
    "uniform, beta": (lambda B: Uniform(*full(B, -1, 2)), double(Beta, 2, 3), 1e-9, 1 - 1e-9),
    "affine beta, uniform": (
        lambda B: affine(Beta(*full(B, 1, 1)), -1.0, 3.0),
        double(Uniform, -0.5, 1),
        -0.5,
        1,
    ),
    "mixture, uniform": (lambda B: spread(B, -2.0, 0.0), double(Uniform, -1, 1), -1, 1),
    "gumbel, normal": (lambda B: Gumbel(*full(B, 0, 1.5)), double(Normal, 0, 1), -9, 9),
    "laplace, normal": (lambda B: Laplace(*full(B, 0, 1)), double(Normal, 0, 1), -9, 9),
}


@pytest.mark.parametrize("name", COVERED)
def test_an_encoder_that_covers_the_prior_gives_what_quadrature_gives(name):
    encoder, prior, low, high = COVERED[name]
    exact = by_quadrature(prior, low, high)
    for proposal in ("encoder", "fitted") if name.startswith(("normal", "t,", "laplace")) else ("encoder",):
        model = LatentModel(
            lambda x: encoder(len(x)), decoder, 20_000, prior=prior, batch_size=40, proposal=proposal
        )
        found = model.estimate(IMAGES)
        error = (1 / found.ess - 1 / found.num_samples).sqrt()
        assert ((found.log_px - torch.tensor(exact)).abs() < 5 * error + 1e-3).all(), proposal
        assert (error < 0.05).all()


NOT_COVERED = {
    "beta": (lambda B: Beta(*full(B, 1, 1)), NORMAL),
    "uniform": (lambda B: Uniform(*full(B, -1, 1)), NORMAL),
    "wide uniform": (lambda B: Uniform(*full(B, -9, 9)), NORMAL),
    "one of the images": (
        lambda B: Uniform(torch.full((B, 1), -9.0), torch.arange(B)[:, None] + 1.0),
        NORMAL,
    ),
    "log normal": (lambda B: LogNormal(*full(B, 0, 1)), NORMAL),
    "exponential": (lambda B: Exponential(*full(B, 1)), NORMAL),
    "half normal": (lambda B: HalfNormal(*full(B, 1)), NORMAL),
    "angles": (lambda B: VonMises(*full(B, 0, 1)), NORMAL),
    "beta, log normal": (lambda B: Beta(*full(B, 1, 1)), LogNormal(torch.zeros(1), 1.0)),
    "uniform, beta": (lambda B: Uniform(*full(B, 0, 0.9)), Beta(torch.ones(1), 1.0)),
    "affine beta": (lambda B: affine(Beta(*full(B, 1, 1)), -1.0, 2.0), NORMAL),
    "affine log normal": (lambda B: affine(LogNormal(*full(B, 0, 1)), 1.0, -1.0), NORMAL),
    "mixture with a hole": (lambda B: spread(B, -3.0, 1.0), Uniform(-torch.ones(1), 3.0)),
    "simplex": (lambda B: Dirichlet(torch.ones(B, 3)), Normal(torch.zeros(3), 1.0)),
    "normal, simplex": (lambda B: Normal(torch.zeros(B, 3), 1.0), Dirichlet(torch.ones(3))),
    "few categories": (lambda B: Categorical(torch.ones(B, 1, 3)), Categorical(torch.ones(1, 4))),
    "categories, counts": (lambda B: Categorical(torch.ones(B, 1, 9)), Poisson(torch.ones(1))),
}


@pytest.mark.parametrize("name", NOT_COVERED)
def test_an_encoder_that_does_not_cover_the_prior_is_refused(name):
    encoder, prior = NOT_COVERED[name]
    for proposal in ("encoder", "fitted") if "categories" not in name else ("encoder",):
        model = LatentModel(lambda x: encoder(len(x)), decoder, 30, prior=prior, proposal=proposal)
        kind = type(encoder(2)).__name__
        message = rf"the encoder's {kind} has the support .* prior's {type(prior).__name__} with the support"
        with pytest.raises(ValueError, match=message):
            model.log_prob(IMAGES)


# what log_prob returns


class Summing(Normal):
    """One whose log_prob sums over the last dimension."""

    def log_prob(self, value):
        return super().log_prob(value).sum(-1)


class Kept(Normal):
    def log_prob(self, value):
        return super().log_prob(value).sum(-1, keepdim=True)


class Whole(Normal):
    def log_prob(self, value):
        return super().log_prob(value).sum()


class Listed(Normal):
    def log_prob(self, value):
        return super().log_prob(value).tolist()


class Vector(Distribution):
    """Two normal numbers as one event, and so a log_prob that sums as it should."""

    arg_constraints, support = {}, constraints.real_vector

    def __init__(self, loc):
        super().__init__(loc.shape[:-1], loc.shape[-1:])
        self.own = Independent(Normal(loc, 1.0), 1)
        self.sample, self.log_prob = self.own.sample, self.own.log_prob

    mean = property(lambda self: self.own.mean)
    variance = property(lambda self: self.own.variance)


def shown(kind=Normal):
    return lambda z: kind(z.sum(-1)[:, None, None, None].expand(-1, 1, 2, 2), 1.0)


@pytest.mark.parametrize("proposal", ["fitted", "encoder"])
@pytest.mark.parametrize("kind", [Summing, Kept, Whole, Listed, lambda *a: Independent(Summing(*a), 1)])
@pytest.mark.parametrize("num_samples", [2, 5, 8])
def test_a_log_prob_of_another_shape_is_refused_also_where_it_would_fit(kind, num_samples, proposal):
    """With as many samples as images, or as latent dimensions, too."""
    rng = np.random.default_rng(0)
    images = ImageSet.of(rng.integers(0, 256, (5, 1, 2, 2), np.uint8))
    options = {"num_samples": num_samples, "proposal": proposal}

    def encoder(x):
        return Normal(torch.zeros(len(x), 2), 1.0)

    for name, model in {
        "encoder": LatentModel(
            lambda x: kind(torch.zeros(len(x), 2), torch.ones(len(x), 2)), shown(), **options
        ),
        "decoder": LatentModel(encoder, shown(kind), **options),
        "prior": LatentModel(encoder, shown(), prior=kind(torch.zeros(2), torch.ones(2)), **options),
    }.items():
        with pytest.raises(ValueError, match=rf"log_prob of the {name}'s \w+ returned .*; allowed: \("):
            model.log_prob(images)


@pytest.mark.parametrize("proposal", ["fitted", "encoder"])
def test_a_log_prob_that_sums_over_its_event_is_right(proposal):
    images = ImageSet.of(np.random.default_rng(0).integers(0, 256, (5, 1, 2, 2), np.uint8))
    summed, plain = (
        LatentModel(q, shown(), 30, prior=prior, proposal=proposal).log_prob(images)
        for q, prior in (
            (lambda x: Vector(torch.zeros(len(x), 2)), Vector(torch.zeros(2))),
            (lambda x: Normal(torch.zeros(len(x), 2), 1.0), None),
        )
    )
    np.testing.assert_allclose(summed, plain, rtol=1e-6)
