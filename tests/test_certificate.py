"""Bounds of log p(y) of a linear Gaussian model, whose log p(y) and posterior are known."""

import pytest
import torch

from memlib.certificate import annealed
from memlib.chapters.exact import LinearGaussian
from memlib.scoring import log_joint

GENERATOR = torch.Generator().manual_seed(0)
MODEL = LinearGaussian(torch.randn(5, 3, generator=GENERATOR), torch.randn(5, generator=GENERATOR), 0.3)


def simulated(count, generator):
    """Latents (1, B, Z), observations (1, B, D) that they made, and exact Gaussian posteriors."""
    z = torch.randn(1, count, 3, generator=generator, dtype=torch.float64)
    y = MODEL.likelihood.sample(generator, *MODEL.decode(z))
    mean, covariance = MODEL.posterior(y)
    return z, y, mean, torch.linalg.cholesky(covariance).expand(1, count, 3, 3)


def both(base, temperatures, count=100):
    """Lower and upper bounds minus the truth, each (B,), and the mean share of accepted moves."""
    generator = torch.Generator().manual_seed(1)
    z, y, mean, scale = simulated(count, generator)
    if base == "elsewhere":
        mean, scale = mean + 0.5, 0.8 * torch.eye(3).to(mean).expand_as(scale)
    joint, truth = log_joint(MODEL, y), MODEL.log_px(y)[0]
    forward = annealed(joint, mean, scale, generator, temperatures=temperatures)
    reverse = annealed(joint, mean, scale, generator, temperatures=temperatures, exact=z)
    return forward.lower()[0] - truth, reverse.upper()[0] - truth, forward.accepted.mean()


def test_from_the_posterior_itself_both_bounds_are_the_truth():
    lower, upper, accepted = both("posterior", 5)
    assert lower.abs().max() < 1e-12 and upper.abs().max() < 1e-12
    assert accepted > 0.95, "moves follow the gradient"


def test_bounds_enclose_the_truth_and_meet_with_more_temperatures():
    gaps = []
    for temperatures in (10, 100):
        lower, upper, _ = both("elsewhere", temperatures)
        assert lower.mean() < 3 * lower.std() / 10 and upper.mean() > -3 * upper.std() / 10
        gaps.append((upper - lower).mean())
    assert gaps[0] > 0.3 and abs(gaps[1]) < 0.15


def test_without_moves_bounds_stay_apart():
    lower, upper, _ = both("elsewhere", 1)
    assert (upper - lower).mean() > 2


@pytest.mark.parametrize("reverse", [False, True])
def test_weights_are_unbiased(reverse):
    """Of one observation: the weights for p(y), their inverses over exact samples for 1 / p(y)."""
    generator = torch.Generator().manual_seed(2)
    _, y, mean, scale = (t[:, :1].expand(1, 4000, *t.shape[2:]) for t in simulated(1, generator))
    eps = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    exact = mean + (scale @ eps[..., None]).squeeze(-1) if reverse else None
    base = mean + 0.5 * scale.diagonal(dim1=-2, dim2=-1), 1.3 * scale
    found = annealed(
        log_joint(MODEL, y), *base, generator, exact=exact, chains=1, temperatures=4, step=0.8, leapfrog=2
    )
    relative = torch.exp((found.log_w[0, :, 0] - MODEL.log_px(y)[0]) * (-1 if reverse else 1))
    error = relative.std() / len(relative) ** 0.5
    assert error < 0.03 and abs(relative.mean() - 1) < 3 * error
    assert 0.5 < found.accepted.mean() < 0.98
