"""Closed forms of the score and of log p(x) against simulation, enumeration and Bayes' rule."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.distributions import Normal

from memlib.chapters.exact import LinearGaussian, gaussian_fold_scores


def linear_gaussian(dim=5, latent_dim=3, inflation=1.0):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(dim, latent_dim, generator=generator), torch.randn(dim, generator=generator)
    return LinearGaussian(weight, bias, 0.3, inflation)


def log_normal(difference, covariance):
    return multivariate_normal.logpdf(difference, np.zeros(len(covariance)), covariance)


def test_gaussian_fold_scores_are_what_random_folds_and_seeds_approach():
    rng, n, folds, repeats = np.random.default_rng(0), 60, 4, 4000
    x = rng.uniform(-1.7, 1.7, (n, 2))
    covariance, seed_variance = 0.4 * np.array([[0.9, 0.3], [0.3, 0.7]]), 0.04
    U, V, gap, M = gaussian_fold_scores(x, folds, covariance, seed_variance)
    fold_of = rng.permuted(np.tile(np.arange(n) % folds, (repeats, 1)), axis=1)
    held_out = fold_of[:, None] == np.arange(folds)[:, None]  # (repeats, folds, n)
    mean = ~held_out @ x / (n - n // folds) + np.sqrt(seed_variance) * rng.normal(size=(repeats, folds, 2))
    log_p = log_normal(x - mean[:, :, None], covariance)
    gaps = (log_p * (1 / (folds - 1) - held_out * folds / (folds - 1))).sum(axis=1)  # (repeats, n)
    z = (gaps.mean(axis=0) - gap) / gaps.std(axis=0) * np.sqrt(repeats)
    assert abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 2
    p = np.exp(log_p)
    for expected, counted, per_repeat in ((U, ~held_out, folds - 1), (V, held_out, 1)):
        mean_p = (p * counted).sum(axis=1) / per_repeat  # (repeats, n)
        error = mean_p.std(axis=0) / mean_p.mean(axis=0) / np.sqrt(repeats)
        z = (np.log(mean_p.mean(axis=0)) - expected) / error
        assert abs(z).max() < 4.5 and np.sqrt(np.mean(z**2)) < 2
        assert error.max() < 0.1
    np.testing.assert_array_equal(M, U - V)
    assert (M > 0).mean() > 0.8 and M.max() > 0.1


@pytest.mark.parametrize(("folds", "d"), [(3, 2), (6, 2), (3, 1)])
def test_gaussian_fold_scores_count_every_choice_of_a_fold(folds, d):
    """Mean and covariance of a sample without replacement, by listing all samples."""
    x, seed_variance = np.random.default_rng(0).normal(1, 2, (6, d)), 0.4
    covariance = np.array([[1.0, 0.3], [0.3, 2.0]])[:d, :d]
    U, V, gap, _ = gaussian_fold_scores(x, folds, covariance, seed_variance)
    for i in range(6):
        mean_log = {}
        for log_p, seen in ((U, True), (V, False)):
            samples = itertools.combinations(range(6), 6 - 6 // folds)
            means = np.array([x[list(t)].mean(axis=0) for t in samples if (i in t) == seen])
            spread = np.atleast_2d(np.cov(means, rowvar=False, ddof=0))
            total = covariance + seed_variance * np.eye(d) + spread
            assert log_p[i] == pytest.approx(log_normal(x[i] - means.mean(axis=0), total), abs=1e-11)
            lost = seed_variance * np.trace(np.linalg.inv(covariance)) / 2
            mean_log[seen] = log_normal(x[i] - means, covariance).mean() - lost
        assert gap[i] == pytest.approx(mean_log[True] - mean_log[False], abs=1e-11)


def test_log_px_keeps_its_digits_with_little_noise():
    model = LinearGaussian(torch.tensor([[3.0], [4.0]]), torch.zeros(2), sigma2=1e-12)
    y = 7e5 * torch.tensor([[0.6, 0.8]], dtype=torch.float64)  # along W, where the variance is 25 + 1e-12
    expected = -0.5 * (2 * np.log(2 * np.pi) + np.log(25) + np.log(1e-12) + 7e5**2 / 25)
    assert model.log_px(y).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("dim", "latent_dim"), [(5, 3), (2, 4)])
def test_bayes_rule_holds_at_any_latent_point(dim, latent_dim):
    model, generator = linear_gaussian(dim, latent_dim), torch.Generator().manual_seed(1)
    y, z = model.sample(1, generator), torch.randn(6, latent_dim, dtype=torch.float64, generator=generator)
    mean, covariance = model.posterior(y)
    decoded, log_var = model.decode(z[None])
    assert decoded.shape == (1, 6, dim)
    log_joint = Normal(decoded[0], log_var[0].mul(0.5).exp()).log_prob(y).sum(-1)
    log_joint += Normal(0.0, 1.0).log_prob(z).sum(-1)
    log_posterior = multivariate_normal(mean[0].numpy(), covariance.numpy()).logpdf(z)
    np.testing.assert_allclose(log_joint.numpy() - log_posterior, model.log_px(y).expand(6), rtol=1e-10)


def test_encode_proposes_around_the_posterior_and_not_more_narrowly():
    model = linear_gaussian(inflation=1.5)
    y = model.sample(4, torch.Generator().manual_seed(1))[None]  # (n, D) -> (E, B, D)
    mu, log_var = model.encode(y)
    mean, covariance = model.posterior(y)
    torch.testing.assert_close(mu, mean)
    torch.testing.assert_close(log_var.exp(), 1.5 * covariance.diagonal().expand(1, 4, 3))


def test_samples_have_the_moments_and_repeat_with_the_generator():
    model = linear_gaussian()
    x = model.sample(20000, torch.Generator().manual_seed(3))
    W, n = model.weight, len(x)
    expected = W @ W.T + 0.3 * torch.eye(5, dtype=torch.float64)
    error = (expected.diagonal().outer(expected.diagonal()) + expected**2).sqrt() / n**0.5
    assert ((x.mean(0) - model.bias).abs() < 5 * (expected.diagonal() / n).sqrt()).all()
    assert ((torch.cov(x.T) - expected).abs() < 5 * error).all()
    assert torch.equal(x, model.sample(20000, torch.Generator().manual_seed(3)))
