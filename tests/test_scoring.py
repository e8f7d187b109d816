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
from memlib.device import compiler_works
from memlib.ensemble import Ensemble, perturbed
from memlib.models import Bernoulli, build_vae
from memlib.pareto import khat_threshold, tail_length
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


def test_a_single_sample_has_no_standard_error():
    assert standard_error(torch.ones(4), 1).isnan().all()


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
def test_tiles_change_nothing_but_the_memory_used(num_samples, tile):
    """Against torch.logsumexp over all weights at once, computed with torch.distributions."""
    rows = []

    class Watched(Linear):
        def decode(self, z):
            rows.append(z.shape[1])
            return super().decode(z)

    model = Watched(inflation=3.0)
    x = model.draw(3)[None]
    scored = log_px(model, x, num_samples, torch.Generator().manual_seed(0), tile)
    assert sum(rows) == 3 * num_samples and max(rows) <= max(1, tile // 6)

    normal = torch.distributions.Normal
    mu, log_var = model.encode(x)
    q = normal(mu[:, :, None], torch.exp(log_var / 2)[:, :, None])
    shape, generator = (1, 3, num_samples, 2), torch.Generator().manual_seed(0)
    z = q.loc + q.scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    mean, decoded = (p.unflatten(1, (3, num_samples)) for p in model.decode(z.flatten(1, 2)))
    log_pxz = normal(mean, torch.exp(decoded / 2)).log_prob(x[:, :, None]).sum(-1)
    log_w = log_pxz + normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    expected = log_w.logsumexp(-1) - math.log(num_samples)
    torch.testing.assert_close(scored.log_px, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scored.ess, 1 / log_w.softmax(-1).square().sum(-1), rtol=1e-8, atol=0)
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


class Isotropic(LinearGaussian):
    """Two latent dimensions with a round posterior, and a proposal of another variance.

    In units of the posterior's the squared radius of a sample is twice an exponential variable e, times the
    variance v of the proposal: the weight is exp((1 - v) e) up to a constant, a Pareto variable of shape
    1 - v where the proposal is too narrow, and bounded where it is too wide.
    """

    def __init__(self, variance):
        super().__init__(2 * torch.eye(6, 2), torch.zeros(6), sigma2=0.3)
        self.variance = variance

    def encode(self, y):
        mean, log_var = super().encode(y)
        return mean, log_var + math.log(self.variance)


@pytest.mark.parametrize("variance", [0.05, 0.4, 0.7])
def test_a_proposal_that_is_too_narrow_has_the_k_hat_of_its_closed_form(variance):
    model, S = Isotropic(variance), 10_000
    x = model.sample(40, torch.Generator().manual_seed(1))
    scored = estimate(model, x, S)
    M = tail_length(S)
    expected = (M * (1 - variance) + 5) / (M + 10)  # ten observations of the prior for 0.5
    assert scored.khat.mean().item() == pytest.approx(expected, abs=0.05)
    share = (scored.khat > khat_threshold(S)).float().mean().item()
    assert share == pytest.approx(float(variance < 0.3), abs=0.15)


def test_a_proposal_that_is_wide_enough_has_a_low_k_hat():
    model = Isotropic(1.5)
    scored = estimate(model, model.sample(40, torch.Generator().manual_seed(1)), 10_000)
    assert scored.khat.max() < 0


def test_every_number_comes_with_its_health():
    model = Linear(inflation=3.0)
    scored = estimate(model, model.draw(5), 30)
    assert {column.shape for column in scored} == {(1, 5)}
    assert scored.num_samples.dtype == torch.int64 and (scored.num_samples == 30).all()
    assert scored.khat.dtype == scored.log_px.dtype and scored.khat.isfinite().all()
    few = estimate(model, model.draw(5), 20)
    assert few.khat.isinf().all() and (few.num_samples == 20).all()


def test_no_samples_is_an_error():
    with pytest.raises(ValueError, match="num_samples is 0; allowed: 1 or more"):
        estimate(Linear(), Linear().draw(1), 0)


def vaes(architecture, likelihood, channels, count=2, precision="float32", dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    options = {"channels": channels, "latent_dim": 3, "width": 4, "generator": generator}
    single = [build_vae(architecture, likelihood, **options).to(dtype) for _ in range(count)]
    return Ensemble.stack(single, precision=precision)


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


KINDS = [("mlp", "bernoulli", 1), ("mlp", "gaussian", 1), ("conv", "gaussian", 3), ("conv", "bernoulli", 1)]


def pictures(channels, count=24):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, channels, 32, 32), dtype=torch.uint8, generator=generator)


def float64_scores(architecture, likelihood, channels, num_samples):
    """The scores in float64 at the very noise that float32 models see."""
    model, images = vaes(architecture, likelihood, channels), pictures(channels)
    noise = torch.Generator().manual_seed(1)
    y = perturbed(model.likelihood, images.flatten(1).expand(2, -1, -1), noise).double()
    eps = torch.randn((2, len(images), num_samples, 3), generator=noise).double()
    exact = vaes(architecture, likelihood, channels, dtype=torch.float64).train(False)
    mu, log_var = (t[:, :, None] for t in exact.encode(y))
    z = mu + torch.exp(log_var / 2) * eps
    parameters = (p.unflatten(1, eps.shape[1:3]) for p in exact.decode(z.flatten(1, 2)))
    log_w = exact.likelihood.log_prob(y[:, :, None], *parameters)
    log_w = log_w + 0.5 * (eps.square() - z.square() + log_var).sum(-1)
    return (log_w.logsumexp(-1) - math.log(num_samples) + exact.likelihood.log_jacobian(y)).detach()


@pytest.mark.parametrize(("precision", "mean_error"), [("float32", 2e-3), ("bfloat16", 0.05)])
@pytest.mark.parametrize(("architecture", "likelihood", "channels"), KINDS)
def test_every_precision_is_near_float64_at_equal_noise(
    architecture, likelihood, channels, precision, mean_error
):
    """float32 to its own rounding of sums of a thousand terms and more; bfloat16 to 0.05 nats."""
    exact = float64_scores(architecture, likelihood, channels, 150)
    model = vaes(architecture, likelihood, channels, precision=precision)
    scored = score_images(model, pictures(channels), 150, torch.Generator().manual_seed(1))
    error = (scored.log_px.double() - exact).abs()
    scale = exact.abs().mean() / 700  # a gray value is worth more nats than a bit
    assert error.mean() < mean_error * max(1, scale)
    if precision == "bfloat16":
        assert error.max() > 1e-5, "products were not rounded"


@pytest.mark.parametrize(("architecture", "likelihood", "channels"), KINDS)
def test_compiled_scores_are_the_same_up_to_rounding(architecture, likelihood, channels):
    if not compiler_works(torch.device("cpu")):
        pytest.skip("torch.compile finds no C++ compiler")
    model, images = vaes(architecture, likelihood, channels), pictures(channels, 5)
    eager, compiled = (
        score_images(model, images, 20, torch.Generator().manual_seed(0), compiled=way)
        for way in (False, True)
    )
    torch.testing.assert_close(compiled.log_px, eager.log_px, rtol=1e-5, atol=0)


def test_scores_of_stacked_repeats_are_those_of_each_repeat():
    single = [vae for seed in (0, 1) for vae in vaes("mlp", "bernoulli", 1).unstack()]
    images = pictures(1, 7)
    streams = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    together = score_images(Ensemble.stack(single), images, 10, streams)
    alone = score_images(Ensemble.stack(single[2:]), images, 10, torch.Generator().manual_seed(6))
    torch.testing.assert_close(together.log_px[2:], alone.log_px)


def test_scored_pairs_are_reported():
    counts = []
    images = pictures(1, 600)
    score_images(vaes("mlp", "bernoulli", 1), images, 1, torch.Generator(), tick=counts.append)
    assert counts == [2 * 512, 2 * 88]


@pytest.mark.gpu
@pytest.mark.parametrize(("architecture", "likelihood", "channels"), KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_scores_as_the_cpu_does(architecture, likelihood, channels, compiled):
    """Equal models, other noise: means over many images agree within the noise of binarization."""
    model, images = vaes(architecture, likelihood, channels), pictures(channels, 200)
    template = build_vae(architecture, likelihood, channels=channels, latent_dim=3, width=4)
    there = Ensemble.from_state(template, model.state(), "cuda")
    ours = score_images(model, images, 20, torch.Generator().manual_seed(0)).log_px
    noise = torch.Generator("cuda").manual_seed(0)
    theirs = score_images(there, images.cuda(), 20, noise, compiled=compiled).log_px.cpu()
    spread = ours.std(1) / len(images) ** 0.5
    assert ((ours.mean(1) - theirs.mean(1)).abs() < 6 * spread).all()
