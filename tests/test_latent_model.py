"""Encoders and decoders with closed forms: estimates are exact, unbiased, paired."""

import functools
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from memlib.chapters.exact import LinearGaussian
from memlib.data import ImageSet
from memlib.psis import khat_threshold
from memlib.runs.latent_model import LatentModel

Encoded = functools.partial(LatentModel, proposal="encoder")

D, Z, N = 6, 2, 23
_draw = torch.Generator().manual_seed(0)
LINEAR = LinearGaussian(torch.randn(D, Z, generator=_draw), torch.randn(D, generator=_draw), sigma2=0.3)
IMAGES = ImageSet.of(np.random.default_rng(0).integers(0, 256, (N, 1, 32, 32), np.uint8))


def prepare(levels):
    return levels.flatten(1)[:, :D].double() / 64 - 2  # (B, 1, 32, 32) -> (B, D)


EXACT = LINEAR.log_px(prepare(torch.tensor(IMAGES.images))).numpy()


def posterior(scale=1):
    """The exact one, but for so many times its covariance."""

    def q(x):
        mean, covariance = LINEAR.posterior(x)
        return MultivariateNormal(mean, scale * covariance)

    return q


def decoder(z):
    return Independent(Normal(z @ LINEAR.weight.T + LINEAR.bias, LINEAR.sigma2**0.5), 1)


def wide(**options):
    return Encoded(posterior(2), decoder, prepare=prepare, **options)


@pytest.mark.parametrize(
    ("num_samples", "batch_size"),
    [(1, 40), (7, 1), (70, 9), (70, 500)],
    ids=["one", "images one by one", "samples one by one", "seven and the rest"],
)
def test_the_exact_posterior_gives_the_exact_density_whatever_the_noise(num_samples, batch_size):
    model = Encoded(posterior(), decoder, num_samples, batch_size=batch_size, prepare=prepare)
    scored = model.estimate(IMAGES, seed=2**40)
    np.testing.assert_allclose(scored.log_px, EXACT, rtol=1e-10)
    np.testing.assert_allclose(scored.ess, num_samples, rtol=1e-8)
    assert (scored.num_samples == num_samples).all() and scored.log_px.shape == (N,)


def test_a_fitted_proposal_needs_no_good_encoder():
    """One that knows nothing of the image; latents with a shape of their own, and batches of one image."""

    def prior(x):
        return Normal(torch.zeros(len(x), Z, 1).double(), 1.0)

    def far(z):
        return decoder(z[..., 0])

    for batch_size in (1, 500):
        models = (
            LatentModel(prior, far, 128, batch_size=batch_size, prepare=prepare, proposal=proposal)
            for proposal in ("fitted", "encoder")
        )
        fitted, encoder = (model.estimate(IMAGES).log_px.numpy() - EXACT for model in models)
        assert np.abs(fitted).max() < 0.3 and abs(fitted.mean()) < 0.03
        assert np.abs(encoder).mean() > 2 * np.abs(fitted).mean()


def test_fitted_proposals_refuse_what_has_no_gradient():
    def coins(x):
        return Bernoulli(probs=torch.full((len(x), Z), 0.5).double())

    def blind(z):
        return decoder(z.detach())

    for q, p, message in (
        (coins, decoder, r'the support Boolean\(\); allowed: proposal="encoder"'),
        (posterior(), blind, 'no gradient with respect to the latents; allowed: one, or proposal="encoder"'),
    ):
        with pytest.raises(ValueError, match=message):
            LatentModel(q, p, prepare=prepare).log_prob(IMAGES)


def test_the_estimate_of_p_is_unbiased():
    model = wide(num_samples=16)
    log_px = torch.stack([model.estimate(IMAGES, seed).log_px for seed in range(100)])
    ratio = (log_px - torch.tensor(EXACT)).exp()  # 1 on average
    error = ratio.std(0) / math.sqrt(len(ratio))
    # 23 means of 100 that are nearly normal: one is beyond 5 standard errors with probability 1e-5
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all() and (error > 0).all()


def test_its_health_is_that_of_the_weights():
    healthy = wide(num_samples=256).estimate(IMAGES)
    assert (healthy.khat < khat_threshold(256)).double().mean() > 0.9  # bounded weights: k is below 0
    # twice the variance in Z = 2 dimensions: E[w]^2 / E[w^2] = (sqrt(3) / 2)^2, of a Gaussian weight
    assert abs(healthy.ess.mean().item() / 256 - 3 / 4) < 0.02
    narrow = Encoded(
        lambda x: Normal(LINEAR.posterior(x)[0], 0.02), decoder, num_samples=256, prepare=prepare
    )
    # weights without a mean, of which a fit to the largest of 256 sees most
    assert (narrow.estimate(IMAGES).khat > khat_threshold(256)).double().mean() > 0.5


def test_distributions_may_leave_event_dimensions_as_batch_dimensions():
    def diagonal(x):
        mean, covariance = LINEAR.posterior(x)
        return Normal(mean, (3 * covariance.diagonal()).sqrt().expand_as(mean))

    zeros, whole = torch.zeros(Z).double(), (lambda x: Independent(diagonal(x), 1), decoder)
    parts = diagonal, lambda z: decoder(z).base_dist
    priors = None, Normal(zeros, 1.0), MultivariateNormal(zeros, torch.eye(Z).double())
    options = {"prepare": prepare, "num_samples": 32, "batch_size": 7}
    first, *others = (
        LatentModel(*pair, prior=prior, **options).log_prob(IMAGES)
        for pair, prior in itertools.product([whole, parts], priors)
    )
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-10)
    assert np.abs(first - EXACT).mean() < 0.5


def test_every_channel_and_pixel_of_an_image_and_every_axis_of_a_latent_counts():
    """Coins with a probability for every place, whatever the latent, so that p(x) is known."""
    rng = np.random.default_rng(6)
    images = ImageSet.of(rng.integers(0, 256, (9, 3, 8, 6), np.uint8))
    probs = rng.uniform(0.1, 0.9, (3, 8, 6))

    def q(x):
        return Normal(torch.zeros(len(x), 2, 4, 4).double(), 1.0)

    def p(z):
        assert z.shape[1:] == (2, 4, 4)
        return Bernoulli(probs=torch.tensor(probs).expand(len(z), 3, 8, 6))

    model = Encoded(q, p, num_samples=5, batch_size=4, prepare=lambda levels: (levels > 127).double())
    expected = np.where(images.images > 127, np.log(probs), np.log1p(-probs)).sum((1, 2, 3))
    np.testing.assert_allclose(model.log_prob(images), expected, rtol=1e-10)


def test_discrete_latents_with_a_prior_of_their_own():
    """A mixture of two Gaussians, whose p(x) is a sum of two terms."""
    weights, means = torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0] * D, [0.5] * D]).double()

    def p(z):
        return Normal(means[z], 1.0)

    def joint(x):
        return p(torch.arange(2)).log_prob(x[:, None]).sum(-1) + weights.log()  # (B, 2)

    def q(x):
        return Categorical(logits=joint(x))  # the posterior, with which every sample is exact

    log_px = Encoded(q, p, num_samples=5, prior=Categorical(weights), prepare=prepare).log_prob(IMAGES)
    exact = joint(prepare(torch.tensor(IMAGES.images))).logsumexp(-1)
    np.testing.assert_allclose(log_px, exact, rtol=1e-10)


def test_a_mixture_of_normals_has_real_support():
    def q(x):
        mean, covariance = LINEAR.posterior(x)
        parts = MultivariateNormal(mean[:, None].expand(-1, 2, -1), covariance)
        return MixtureSameFamily(Categorical(torch.ones(len(x), 2).double()), parts)

    mixed = Encoded(q, decoder, 8, prepare=prepare).log_prob(IMAGES)
    np.testing.assert_allclose(mixed, EXACT, rtol=1e-10)


def test_another_prior_counts():
    """Latents 1 + 2 u with standard normal u: the same as another weight and bias."""
    other = LinearGaussian(2 * LINEAR.weight, LINEAR.bias + LINEAR.weight.sum(1), LINEAR.sigma2)

    def q(x):
        mean, covariance = other.posterior(x)
        return MultivariateNormal(1 + 2 * mean, 4 * covariance)

    prior = Normal(torch.ones(Z).double(), 2.0)
    log_px = Encoded(q, decoder, 4, prior=prior, prepare=prepare).log_prob(IMAGES)
    exact = other.log_px(prepare(torch.tensor(IMAGES.images)))
    np.testing.assert_allclose(log_px, exact, rtol=1e-10)


def test_noise_follows_from_the_seed_alone_and_is_the_same_for_other_models():
    drawn = []

    class Recorded(Normal):
        def sample(self, shape):
            z = super().sample(shape)
            drawn.append((z - self.loc) / 2)
            return z

    def score(shift, seed=0):
        def q(x):
            return Recorded(torch.full((len(x), Z), shift).double(), 2.0)

        def noisy(levels):
            return prepare(levels) + torch.rand(len(levels), D)

        one, other = (Encoded(q, decoder, 4, None, 10, own, noisy) for own in (seed, seed + 1))
        drawn.clear()
        log_px, noise = one.log_prob(IMAGES), drawn.copy()
        np.testing.assert_array_equal(other.estimate(IMAGES, seed).log_px, log_px)
        return log_px, noise

    torch.manual_seed(5)
    before = torch.get_rng_state()
    (scores, one), (_, other) = score(0.0), score(3.0)
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator moved"
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))
    assert not torch.allclose(one[0], one[1])  # batches differ
    torch.manual_seed(6)
    np.testing.assert_array_equal(score(0.0)[0], scores)
    assert (score(0.0, seed=1)[0] != scores).all()


class Perceptron(nn.Module):
    """A variational autoencoder of one module, with dropout, that counts what it is given."""

    def __init__(self):
        super().__init__()
        self.to_z, self.to_x = nn.Linear(D, 2 * Z), nn.Linear(Z, D)
        self.drop, self.most = nn.Dropout(0.5), 0

    def encode(self, x):
        assert not torch.is_grad_enabled()
        self.most = max(self.most, len(x))
        mu, log_sigma = self.drop(self.to_z(x.float())).chunk(2, -1)
        return Normal(mu, log_sigma.exp())

    def decode(self, z):
        self.most = max(self.most, len(z))
        return Normal(self.drop(self.to_x(z)), 1.0)


@pytest.mark.parametrize("batch_size", [7, 100])
def test_modules_are_evaluated_without_dropout_in_batches(batch_size):
    torch.manual_seed(0)
    vae, undropped = Perceptron(), Perceptron()
    undropped.load_state_dict(vae.state_dict())
    undropped.drop = nn.Identity()
    one, other = (
        LatentModel(net.train().encode, net.decode, 30, batch_size=batch_size, prepare=prepare)
        for net in (vae, undropped)
    )
    np.testing.assert_array_equal(one.log_prob(IMAGES), other.log_prob(IMAGES))
    assert vae.most <= batch_size


def test_no_generator_of_another_device_is_seeded(monkeypatch):
    def fail(seed):
        raise AssertionError("a generator that is not forked was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    monkeypatch.setattr(torch, "manual_seed", fail)
    wide(num_samples=3).log_prob(IMAGES)


def test_levels_become_numbers_from_0_to_1_by_default():
    seen = []

    def q(x):
        seen.append(x)
        return Normal(torch.zeros(len(x), Z), 1.0)

    Encoded(q, lambda z: Normal(torch.zeros(len(z), 1, 32, 32), 1.0), 1).log_prob(IMAGES)
    assert seen[0].dtype == torch.float32
    np.testing.assert_allclose(seen[0], IMAGES.images / 255.0, rtol=1e-6)


@pytest.mark.gpu
def test_a_model_on_a_gpu_is_scored_there_and_moves_no_generator():
    torch.manual_seed(0)
    vae = Perceptron().cuda()
    before = torch.cuda.get_rng_state()
    model = LatentModel(vae.encode, vae.decode, 200, prepare=lambda levels: prepare(levels).float())
    scored = model.estimate(IMAGES)
    assert torch.equal(torch.cuda.get_rng_state(), before) and scored.log_px.device.type == "cpu"
    on_cpu = LatentModel(vae.cpu().encode, vae.decode, 200, prepare=prepare).estimate(IMAGES)
    # other generators on the two devices: the standard errors of both estimates
    error = (1 / scored.ess + 1 / on_cpu.ess).sqrt()
    assert ((scored.log_px - on_cpu.log_px).abs() < 5 * error).all()
