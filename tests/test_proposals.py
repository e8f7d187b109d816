"""Fitted proposals against posteriors and densities that are known."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from vaes import generator

from memlib.proposals import Proposal, evaluations, fit, gradient, refined, rule_of

Z = 5


class Gaussian:
    """A posterior with mean and covariance that are known, up to a constant, and what it was asked for."""

    def __init__(self, latent_dim=Z, seed=0):
        noise = generator(seed)
        root = torch.randn(latent_dim, latent_dim, generator=noise, dtype=torch.float64)
        self.covariance = root @ root.T / latent_dim + 0.1 * torch.eye(latent_dim)
        self.mean = torch.randn(latent_dim, generator=noise, dtype=torch.float64)
        self.points = []

    def __call__(self, z):
        self.points.append(math.prod(z.shape[:-1]))
        away = z - self.mean
        return 3 - 0.5 * (away @ torch.linalg.inv(self.covariance) * away).sum(-1)


def started(images=2, latent_dim=Z):
    shape = images, latent_dim
    return torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)


@pytest.mark.parametrize("latent_dim", [Z, 33])
def test_a_gaussian_posterior_is_met(latent_dim):
    """Differences of gradients are its curvature, wherever the fit begins."""
    target = Gaussian(latent_dim)
    proposal = fit(target, *started(2, latent_dim), generator(1))
    for _ in range(8):  # the curvature that a step believes is limited
        proposal = refined(target, proposal, generator(2), 1)
    covariance = proposal.scale @ proposal.scale.mT
    torch.testing.assert_close(covariance, target.covariance.expand(2, -1, -1), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(proposal.mean, target.mean.expand(2, -1), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(proposal.log_det, torch.linalg.slogdet(proposal.scale).logabsdet)


def test_a_proposal_that_fits_stays():
    target, [mean, _] = Gaussian(), started()
    scale = torch.linalg.cholesky(target.covariance).expand(2, Z, Z)
    before = Proposal(mean + target.mean, scale, torch.linalg.slogdet(scale).logabsdet)
    after = refined(target, before, generator(0))
    torch.testing.assert_close(after.mean, before.mean)
    torch.testing.assert_close(after.scale @ after.scale.mT, scale @ scale.mT)


def test_signs_and_order_of_axes_do_not_matter(monkeypatch):
    """Libraries choose them, so that samples would differ between machines by more than rounding."""
    expected, own = fit(Gaussian(), *started(), generator(1)), torch.linalg.eigh

    def otherwise(matrix):
        value, axes = own(matrix)
        signs = torch.tensor([1, -1, 1, -1, -1], dtype=axes.dtype)
        return value.flip(-1), (axes * signs).flip(-1)

    monkeypatch.setattr(torch.linalg, "eigh", otherwise)
    for found, wanted in zip(fit(Gaussian(), *started(), generator(1)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_step_believes_no_curvature_that_is_none():
    """A flat, or even a convex, density would make a proposal that is infinitely wide."""
    rule, start = rule_of(Z), Proposal.diagonal(*started())
    wide = refined(lambda z: 50 * z.square().sum(-1), start, generator(0), 1)
    torch.testing.assert_close(wide.scale @ wide.scale.mT, (torch.eye(Z) / rule.low).double().expand(2, Z, Z))
    far = refined(lambda z: -50 * (z - 1000).square().sum(-1), start, generator(0), 1)
    torch.testing.assert_close(far.mean.norm(dim=-1), torch.full((2,), rule.longest).double())


@pytest.mark.parametrize("degrees", [8, math.inf])
def test_samples_have_the_density_that_they_come_with(degrees):
    target = Gaussian()
    scale = torch.linalg.cholesky(target.covariance)
    proposal = Proposal(target.mean, scale, torch.linalg.slogdet(scale).logabsdet).wider(1.3)
    z, log_q = proposal.sample(20_000, generator(0), degrees)
    covariance = 1.3**2 * target.covariance.numpy()
    t = stats.multivariate_t(target.mean.numpy(), covariance, df=degrees)  # with infinite df a normal
    np.testing.assert_allclose(log_q, t.logpdf(z.numpy()), rtol=1e-9)
    spread = 1 if math.isinf(degrees) else degrees / (degrees - 2)
    np.testing.assert_allclose(np.cov(z.T.numpy()), covariance * spread, atol=0.15)


@pytest.mark.parametrize("latent_dim", [Z, 33])
def test_evaluations_are_those_of_a_fit(latent_dim):
    target = Gaussian(latent_dim)
    fit(target, *started(1, latent_dim), generator(0))
    assert evaluations(latent_dim, 100) == 2 * sum(target.points) + 100
    assert max(target.points) <= 32, "memory is bounded"


def test_where_the_density_is_no_number_there_is_no_slope():
    values = gradient(lambda z: z.log().sum(-1), torch.tensor([[-1.0, 0.0, 2.0]]))
    torch.testing.assert_close(values, torch.tensor([[-1.0, 0.0, 0.5]]))
    mean, log_var = started()
    proposal = fit(lambda z: math.nan * z.sum(-1), mean * math.nan, log_var + math.inf, generator(0))
    assert all(column.isfinite().all() for column in proposal)
