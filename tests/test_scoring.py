"""Importance sampling against closed forms."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from memlib.densities import LinearGaussian
from memlib.ensemble import Ensemble
from memlib.models import Bernoulli, LogitGaussian, build_vae
from memlib.scoring import log_px, score_images, standard_error


class Linear(LinearGaussian):
    """A linear model with random weights; `latent_dim` 1 makes the diagonal proposal the exact posterior."""

    def __init__(self, dim=6, latent_dim=2, inflation=1.5):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(dim, latent_dim, generator=generator)
        super().__init__(weight, torch.randn(dim, generator=generator), sigma2=0.3, inflation=inflation)

    def draw(self, n):
        return self.sample(n, torch.Generator().manual_seed(1))


def estimate(model, x, num_samples, seed=0, tile=None):
    return log_px(model, x[None], num_samples, torch.Generator().manual_seed(seed), tile)


def test_linear_decoder_agrees_with_the_closed_form_within_its_standard_error():
    model, S = Linear(), 2000
    x = model.draw(200)
    scored = estimate(model, x, S)
    error = standard_error(scored.ess, S)[0].numpy()
    z = (scored.log_px[0].numpy() - model.log_px(x).numpy()) / error
    assert error.max() < 0.05
    assert abs(z.mean()) < 4 / math.sqrt(200) + 0.1 and 0.8 < z.std() < 1.2 and np.abs(z).max() < 5


def test_a_wrong_proposal_is_seen_by_the_comparison():
    """The case that must fail: the weights of a proposal that is not the one sampled from."""

    class Wrong(Linear):
        def decode(self, z):
            mean, log_var = super().decode(z + 0.2)
            return mean, log_var

    model, S = Wrong(), 2000
    x = model.draw(200)
    scored = estimate(model, x, S)
    z = (scored.log_px[0].numpy() - model.log_px(x).numpy()) / standard_error(scored.ess, S)[0].numpy()
    assert np.abs(z).mean() > 5


def test_the_exact_posterior_needs_one_sample():
    """With a single latent dimension a diagonal proposal is the posterior: all weights are equal."""
    model = Linear(latent_dim=1, inflation=1.0)
    x = model.draw(20)
    scored = estimate(model, x, 3)
    np.testing.assert_allclose(scored.log_px[0], model.log_px(x).numpy(), rtol=1e-12)
    np.testing.assert_allclose(scored.ess, 3, rtol=1e-9)
    np.testing.assert_allclose(standard_error(scored.ess, 3), 0, atol=1e-5)


def test_a_decoder_that_ignores_the_latent_variable_gives_the_likelihood():
    class Constant(Linear):
        likelihood = Bernoulli()

        def encode(self, y):
            return (torch.zeros(*y.shape[:2], 2, dtype=y.dtype),) * 2

        def decode(self, z):
            return (torch.full((*z.shape[:2], 6), 0.7, dtype=z.dtype),)

    y = torch.tensor([[1.0, 0, 1, 0, 0, 0]], dtype=torch.float64)
    scored = estimate(Constant(), y, 50)
    p = 1 / (1 + math.exp(-0.7))
    assert scored.log_px.item() == pytest.approx(2 * math.log(p) + 4 * math.log(1 - p), rel=1e-12)


@given(st.integers(1, 40), st.integers(1, 400))
def test_streaming_equals_all_samples_at_once(num_samples, tile):
    """The running log-sum-exp against torch.logsumexp over the very same weights."""
    weights = []

    class Watched(Linear):
        def decode(self, z):
            self.z = z
            return super().decode(z)

    model = Watched(inflation=3.0)
    x = model.draw(3)[None]

    class Recording(LogitGaussian):
        def log_prob(self, y, mean, log_var):
            log_pxz = super().log_prob(y, mean, log_var)
            mu, q_log_var = model.encode(x)
            z = model.z.unflatten(1, log_pxz.shape[1:])
            normal = torch.distributions.Normal
            log_pz = normal(0.0, 1.0).log_prob(z).sum(-1)
            log_qzx = normal(mu[:, :, None], torch.exp(q_log_var / 2)[:, :, None]).log_prob(z).sum(-1)
            weights.append(log_pxz + log_pz - log_qzx)
            return log_pxz

    Watched.likelihood = Recording()
    scored = log_px(model, x, num_samples, torch.Generator().manual_seed(0), tile)
    log_w = torch.cat(weights, -1)
    assert log_w.shape[-1] == num_samples
    assert max(w.shape[-1] for w in weights) <= max(1, tile // 18)
    torch.testing.assert_close(
        scored.log_px, log_w.logsumexp(-1) - math.log(num_samples), rtol=1e-10, atol=1e-10
    )
    w = log_w.softmax(-1)
    torch.testing.assert_close(scored.ess, 1 / w.square().sum(-1), rtol=1e-8, atol=0)
    assert (scored.ess >= 1 - 1e-9).all() and (scored.ess <= num_samples * (1 + 1e-9)).all()


def test_an_impossible_observation_has_log_probability_minus_infinity():
    class Impossible(Linear):
        def decode(self, z):
            mean, log_var = super().decode(z)
            return torch.full_like(mean, math.inf), log_var

    for tile in (None, 6):  # all samples at once, one by one
        scored = estimate(Impossible(), Linear().draw(1), 10, tile=tile)
        assert scored.log_px.item() == -math.inf and scored.ess.item() == 1


def test_what_is_not_a_number_stays_so():
    class Broken(Linear):
        def decode(self, z):
            mean, log_var = super().decode(z)
            return torch.full_like(mean, math.nan), log_var

    scored = estimate(Broken(), Linear().draw(1), 10)
    assert scored.log_px.isnan().all() and scored.ess.isnan().all()


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="num_samples is 0; allowed: 1 or more"):
        estimate(Linear(), Linear().draw(1), 0)


def vaes(architecture, likelihood, channels, count=2):
    generator = torch.Generator().manual_seed(0)
    options = {"channels": channels, "latent_dim": 3, "width": 4, "generator": generator}
    return Ensemble.stack([build_vae(architecture, likelihood, **options) for _ in range(count)])


@pytest.mark.parametrize(
    ("architecture", "likelihood", "channels"), [("mlp", "bernoulli", 1), ("conv", "gaussian", 3)]
)
def test_images_are_scored_in_order_and_in_pixel_space(architecture, likelihood, channels):
    model = vaes(architecture, likelihood, channels)
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (9, channels, 32, 32), dtype=torch.uint8, generator=generator)
    images[4] = 255 if likelihood == "bernoulli" else 0
    scored = score_images(model, images, 300, torch.Generator().manual_seed(0))
    assert scored.log_px.shape == scored.ess.shape == (2, 9)
    for i in (0, 4, 8):
        alone = score_images(model, images[i : i + 1], 300, torch.Generator().manual_seed(1))
        # both are random: binarization or dequantization moves the score by a few nats at most here
        np.testing.assert_allclose(scored.log_px[:, i], alone.log_px[:, 0], rtol=0.02)
    bits = -scored.log_px / (images[0].numel() * math.log(2))
    assert (bits > 0).all() and (bits < 12).all()  # per gray value: 1 bit of a coin, about 8 bits of noise


@pytest.mark.parametrize("num_samples", [1, 5])
def test_scores_are_densities_of_gray_values(num_samples):
    """Decoder constant, encoder the prior: a normal density of logits, transformed to gray values."""
    vae = build_vae("mlp", "gaussian", channels=1, latent_dim=3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in (vae.encoder.mean, vae.encoder.log_var, vae.decoder.trunk[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
    model = Ensemble.stack([vae.double()])
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8, generator=generator)
    scored = score_images(model, images, num_samples, torch.Generator().manual_seed(1))
    u = torch.rand((1, 4, 1024), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    share = 0.05 + 0.9 * (images.flatten(1) + u).numpy() / 256  # the logit's argument
    density = scipy.stats.norm.logpdf(scipy.special.logit(share)) + np.log(0.9 / 256 / (share * (1 - share)))
    np.testing.assert_allclose(scored.log_px, density.sum(-1), rtol=1e-10)
    np.testing.assert_allclose(scored.ess, num_samples, rtol=1e-9)


def test_scoring_leaves_batch_norm_statistics_alone():
    model = vaes("conv", "gaussian", 3).train()
    before = model.state()
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    score_images(model, images, 2, torch.Generator().manual_seed(0))
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])
