"""Encoders and decoders with closed forms: estimates are exact, unbiased, paired; misfits are refused."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
)

from memlib.data import ImageSet
from memlib.densities import LinearGaussian
from memlib.latent_model import LatentModel
from memlib.pareto import khat_threshold

D, Z, N = 6, 2, 23
_draw = torch.Generator().manual_seed(0)
LINEAR = LinearGaussian(torch.randn(D, Z, generator=_draw), torch.randn(D, generator=_draw), sigma2=0.3)
IMAGES = ImageSet.of(np.random.default_rng(0).integers(0, 256, (N, 1, 32, 32), np.uint8))


def prepare(levels):
    return levels.flatten(1)[:, :D].double() / 64 - 2  # (B, 1, 32, 32) -> (B, D)


EXACT = LINEAR.log_px(prepare(torch.tensor(IMAGES.images))).numpy()


def exact_posterior(x):
    mean, covariance = LINEAR.posterior(x)
    return MultivariateNormal(mean, covariance)


def wide_posterior(x):
    mean, covariance = LINEAR.posterior(x)
    return MultivariateNormal(mean, 2 * covariance)


def decoder(z):
    return Independent(Normal(z @ LINEAR.weight.T + LINEAR.bias, LINEAR.sigma2**0.5), 1)


def wide(**options):
    return LatentModel(wide_posterior, decoder, prepare=prepare, **options)


@settings(max_examples=25)
@given(num_samples=st.integers(1, 70), batch_size=st.integers(1, 40), seed=st.integers(0, 2**40))
def test_the_exact_posterior_gives_the_exact_density_whatever_the_noise(num_samples, batch_size, seed):
    options = {"num_samples": num_samples, "batch_size": batch_size, "seed": seed}
    scored = LatentModel(exact_posterior, decoder, prepare=prepare, **options).estimate(IMAGES)
    np.testing.assert_allclose(scored.log_px, EXACT, rtol=1e-10)
    np.testing.assert_allclose(scored.ess, num_samples, rtol=1e-8)
    assert (scored.num_samples == num_samples).all() and scored.log_px.shape == (N,)


def test_the_estimate_of_p_is_unbiased_and_comes_closer_with_more_samples():
    model = wide(num_samples=64)
    log_px = torch.stack([model.estimate(IMAGES, seed).log_px for seed in range(200)])
    ratio = (log_px - torch.tensor(EXACT)).exp()  # 1 on average
    error = ratio.std(0) / math.sqrt(len(ratio))
    # 23 means of 200 that are nearly normal: one is beyond 5 standard errors with probability 1e-5
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all() and (error > 0).all()
    few, many = (np.abs(wide(num_samples=S).log_prob(IMAGES) - EXACT).mean() for S in (16, 4096))
    assert many < few / 4  # the ratio expected is 16


def test_its_health_is_that_of_the_weights():
    healthy = wide(num_samples=256).estimate(IMAGES)
    assert (healthy.khat < khat_threshold(256)).double().mean() > 0.9  # bounded weights: k is below 0
    # twice the variance in Z = 2 dimensions: E[w]^2 / E[w^2] = (sqrt(3) / 2)^2, of a Gaussian weight
    assert abs(healthy.ess.mean().item() / 256 - 3 / 4) < 0.02
    narrow = LatentModel(
        lambda x: Normal(LINEAR.posterior(x)[0], 0.02), decoder, num_samples=256, prepare=prepare
    )
    # weights without a mean, of which a fit to the largest of 256 sees most
    assert (narrow.estimate(IMAGES).khat > khat_threshold(256)).double().mean() > 0.5


def test_distributions_may_leave_event_dimensions_as_batch_dimensions():
    def diagonal(x):
        mean, covariance = LINEAR.posterior(x)
        return Normal(mean, (3 * covariance.diagonal()).sqrt().expand_as(mean))

    def q(x):
        return Independent(diagonal(x), 1)

    def p(z):
        return decoder(z).base_dist

    zeros = torch.zeros(Z).double()
    priors = None, Normal(zeros, 1.0), MultivariateNormal(zeros, torch.eye(Z).double())
    options = {"prepare": prepare, "num_samples": 32, "batch_size": 7}
    scores = [
        LatentModel(*pair, prior=prior, **options).log_prob(IMAGES)
        for pair in [(q, decoder), (diagonal, decoder), (q, p), (diagonal, p)]
        for prior in priors
    ]
    for other in scores[1:]:
        np.testing.assert_allclose(other, scores[0], rtol=1e-12)
    assert np.abs(scores[0] - EXACT).mean() < 0.5


def test_images_and_latents_keep_their_shapes():
    """Latents (2, 4, 4), images (1, 32, 32); the decoder ignores z, so p(x) is known."""

    def p(z):
        assert z.shape[1:] == (2, 4, 4)
        return Bernoulli(probs=torch.full((len(z), 1, 32, 32), 0.25))

    def q(x):
        assert x.shape[1:] == (1, 32, 32)
        return Normal(torch.zeros(len(x), 2, 4, 4), 1.0)

    model = LatentModel(q, p, num_samples=5, batch_size=4, prepare=lambda levels: (levels > 127).float())
    ones = (IMAGES.images > 127).sum((1, 2, 3))
    expected = ones * math.log(0.25) + (1024 - ones) * math.log(0.75)
    np.testing.assert_allclose(model.log_prob(IMAGES), expected, rtol=1e-5)


def test_discrete_latents_with_a_prior_of_their_own():
    """A mixture of two Gaussians, whose p(x) is a sum of two terms."""
    prior, means = Categorical(torch.tensor([0.3, 0.7])), torch.tensor([[-1.0] * D, [0.5] * D]).double()

    def p(z):
        return Normal(means[z], 1.0)

    def q(x):
        return Categorical(torch.full((len(x), 2), 0.5))

    log_px = LatentModel(q, p, num_samples=20_000, prior=prior, prepare=prepare).log_prob(IMAGES)
    components = Independent(Normal(means, 1.0), 1)
    mixture = MixtureSameFamily(Categorical(prior.probs.double()), components)
    exact = mixture.log_prob(prepare(torch.tensor(IMAGES.images))).numpy()
    np.testing.assert_allclose(log_px, exact, atol=0.05)
    with pytest.raises(
        ValueError, match=r"latents of the encoder's Categorical .*; allowed: a prior for them"
    ):
        LatentModel(q, p, prepare=prepare).log_prob(IMAGES)


def test_a_mixture_of_normals_has_real_support():
    def q(x):
        mean, covariance = LINEAR.posterior(x)
        parts = MultivariateNormal(mean[:, None].expand(-1, 2, -1), 2 * covariance)
        return MixtureSameFamily(Categorical(torch.ones(len(x), 2)), parts)

    mixed = LatentModel(q, decoder, 4096, prepare=prepare).log_prob(IMAGES)
    assert np.abs(mixed - EXACT).mean() < 0.05


def test_another_prior_counts():
    heavy = StudentT(3.0 * torch.ones(Z))
    given = wide(prior=heavy, num_samples=4000).log_prob(IMAGES)
    grid = torch.linspace(-30, 30, 601).double()
    z = torch.cartesian_prod(grid, grid)
    x = prepare(torch.tensor(IMAGES.images[:3]))
    log_joint = decoder(z).log_prob(x[:, None]) + Independent(heavy, 1).log_prob(z)
    exact = log_joint.logsumexp(-1) + 2 * math.log(0.1)
    np.testing.assert_allclose(given[:3], exact, atol=0.1)


def test_noise_follows_from_the_seed_alone_and_is_the_same_for_other_models():
    drawn = []

    def q(shift):
        def encoder(x):
            class Recorded(Normal):
                def sample(self, shape):
                    z = super().sample(shape)
                    drawn.append((z - shift) / 2)
                    return z

            return Recorded(torch.full((len(x), Z), shift).double(), 2.0)

        return encoder

    def noisy(levels):
        return prepare(levels) + torch.rand(len(levels), D)

    torch.manual_seed(5)
    before = torch.get_rng_state()
    options = {"num_samples": 4, "prepare": noisy, "batch_size": 10}
    scores = [LatentModel(q(s), decoder, **options).log_prob(IMAGES) for s in (0.0, 3.0)]
    assert torch.equal(torch.get_rng_state(), before), "the caller's generator moved"
    one, other = drawn[:3], drawn[3:]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))
    assert not torch.allclose(one[0], one[1])  # batches differ
    torch.manual_seed(6)
    again = LatentModel(q(0.0), decoder, **options)
    np.testing.assert_array_equal(again.log_prob(IMAGES), scores[0])
    np.testing.assert_array_equal(again.estimate(IMAGES, 0).log_px, scores[0])
    assert (again.estimate(IMAGES, 1).log_px.numpy() != scores[0]).all()


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


@pytest.mark.parametrize("batch_size", [1, 7, 23, 100])
def test_modules_are_evaluated_without_dropout_in_batches(batch_size):
    torch.manual_seed(0)
    vae = Perceptron().train()
    model = LatentModel(vae.encode, vae.decode, 30, batch_size=batch_size, prepare=prepare)
    first = model.log_prob(IMAGES)
    assert not vae.training and vae.most <= batch_size
    vae.train()
    np.testing.assert_array_equal(model.log_prob(IMAGES), first)
    undropped = Perceptron()
    undropped.load_state_dict(vae.state_dict())
    undropped.drop = nn.Identity()
    other = LatentModel(undropped.encode, undropped.decode, 30, batch_size=batch_size, prepare=prepare)
    np.testing.assert_array_equal(other.log_prob(IMAGES), first)


def test_modules_behind_partial_attributes_and_prepare_are_evaluated():
    class Pair:
        """Not a module; has two."""

        def __init__(self):
            self.to_z, self.to_x = Perceptron(), Perceptron()

        def encode(self, x):
            return self.to_z.encode(x)

        def decode(self, z, scale):
            return self.to_x.decode(scale * z)

        def __call__(self, levels):
            return prepare(levels)

    def encode(network, x):
        return network.encode(x)

    pair, scaled, bound, direct = Pair(), Pair(), Perceptron(), Perceptron()
    modules = [pair.to_z, pair.to_x, scaled.to_z, scaled.to_x, bound, direct]
    for module in modules:
        module.train()
    decode = functools.partial(pair.decode, scale=1.0)
    LatentModel(functools.partial(encode, bound), decode, 3, prepare=scaled).log_prob(IMAGES)
    LatentModel(pair.encode, functools.partial(direct.decode), 3, prepare=prepare).log_prob(IMAGES)
    assert not any(module.training for module in modules)


def test_no_generator_of_another_device_is_seeded(monkeypatch):
    def fail(seed):
        raise AssertionError("a generator that is not forked was seeded")

    expected = wide(num_samples=3).log_prob(IMAGES)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", fail)
    monkeypatch.setattr(torch, "manual_seed", fail)
    np.testing.assert_array_equal(wide(num_samples=3).log_prob(IMAGES), expected)


def test_levels_become_numbers_from_0_to_1_by_default():
    seen = []

    def q(x):
        seen.append(x)
        return Normal(torch.zeros(len(x), Z), 1.0)

    LatentModel(q, lambda z: Normal(torch.zeros(len(z), 1, 32, 32), 1.0), 1).log_prob(IMAGES)
    assert seen[0].dtype == torch.float32
    np.testing.assert_allclose(seen[0], IMAGES.images / 255.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": lambda x: (x, x)}, "the encoder returned a tuple; allowed: a torch.distr"),
        ({"decoder": lambda z: z}, "the decoder returned a Tensor; allowed: a torch.distributions"),
        (
            {"encoder": lambda x: Independent(Normal(x[:, :Z], 1.0), 2)},
            r"Independent with batch shape \(\) and event shape \(23, 2\) for 23 inputs; allowed: .* 23",
        ),
        (
            {"encoder": lambda x: Normal(torch.zeros(Z), 1.0)},
            r"the encoder returned a Normal with batch shape \(2,\) and event shape \(\) for 23 inputs",
        ),
        (
            {"decoder": lambda z: Independent(Normal(z @ LINEAR.weight.T, 1.0), 2)},
            r"the decoder returned a Independent with batch shape \(\) and event shape \(.*, 6\)",
        ),
        (
            {"decoder": lambda z: Normal(z @ LINEAR.weight.T[:, :1], 1.0)},
            r"decoder's distribution is over the shape \(1,\), and prepare gives .*shape \(6,\); allowed",
        ),
        (
            {"prior": Normal(0.0, 1.0)},
            r"prior is over the shape \(\), and the encoder's latents have the shape \(2,\); allowed",
        ),
        (
            {"encoder": lambda x: LogNormal(torch.zeros(len(x), Z), 1.0)},
            r"prior is None, and latents of the encoder's LogNormal have the support GreaterThan\(lower",
        ),
        (
            {"encoder": lambda x: Bernoulli(torch.full((len(x), Z), 0.5))},
            r"prior is None, and latents of the encoder's Bernoulli have the support Boolean\(\)",
        ),
        (
            {"prior": Bernoulli(torch.full((Z,), 0.5))},
            "prior is a Bernoulli, which is discrete, and the encoder's MultivariateNormal is continuous; al",
        ),
        (
            {
                "prior": Independent(Normal(torch.zeros(Z), 1.0), 1),
                "encoder": lambda x: Bernoulli(torch.full((len(x), Z), 0.5)),
            },
            "prior is a Normal, which is continuous, and the encoder's Bernoulli is discrete; allowed: both",
        ),
        (
            {
                "decoder": lambda z: Normal((z @ LINEAR.weight.T).bfloat16(), 1.0),
                "prepare": lambda i: prepare(i).bfloat16(),
                "encoder": lambda x: Normal(torch.zeros(len(x), Z).double(), 1.0),
            },
            "log_prob of the decoder returned torch.bfloat16; allowed: floating point of 32 bits or more",
        ),
        (
            {"encoder": nn.Linear(6, 2, device="meta")},
            "parameters are on 'meta'; allowed: a CPU or CUDA device",
        ),
        ({"prior": Normal(torch.zeros(3), 1.0)}, r"prior is over the shape \(3,\)"),
        ({"prepare": lambda levels: levels[:5]}, r"prepare returned a tensor \(5, .*of 23 images; allowed"),
        ({"prepare": lambda levels: levels.numpy()}, "prepare returned a ndarray of 23 images"),
        ({"encoder": None}, "encoder is a NoneType; allowed: a module or a function"),
        ({"prior": "normal"}, "prior is a str; allowed: None, or a torch.distributions.Distribution"),
        ({"num_samples": 0}, "num_samples is 0; allowed: a whole number, 1 or more"),
        ({"num_samples": 2.0}, "num_samples is 2.0; allowed: a whole number"),
        ({"batch_size": 0}, "batch_size is 0; allowed"),
        ({"seed": -1}, "seed is -1; allowed: a whole number, 0 or more"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    given = {"encoder": exact_posterior, "decoder": decoder, "num_samples": 2, "prepare": prepare}
    with pytest.raises(ValueError, match=message):
        LatentModel(**(given | changes)).log_prob(IMAGES)


def test_arrays_are_refused_as_images():
    with pytest.raises(ValueError, match="images is a ndarray; allowed: an ImageSet"):
        wide().log_prob(IMAGES.images)


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
