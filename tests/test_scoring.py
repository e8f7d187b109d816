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
from memlib.ensemble import Ensemble, draws, perturbed
from memlib.models import Bernoulli, build_vae
from memlib.pareto import khat_threshold, pareto_k, tail_length
from memlib.scoring import LogProb, log_px, score_images, standard_error


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


S = 32  # enough for a k-hat


def generator(seed):
    return torch.Generator().manual_seed(seed)


def equal(a, b):
    for name in LogProb._fields:
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0, msg=name)


def of(scored, models=slice(None), images=slice(None)):
    return LogProb(*(column[models][:, images] for column in scored))


def limit(monkeypatch, value):
    """Let every image whose k-hat is above the value fail."""
    monkeypatch.setattr("memlib.scoring.khat_threshold", lambda num_samples: value)


@pytest.mark.parametrize(("architecture", "likelihood", "channels"), KINDS)
def test_equal_models_have_equal_scores_where_they_share_the_noise_and_only_there(
    architecture, likelihood, channels
):
    [one] = vaes(architecture, likelihood, channels, count=1).unstack()
    model, images = Ensemble.stack([one] * 4), pictures(channels, 5)

    def score(paired):
        return score_images(model, images, S, [generator(5), generator(6)], paired=paired, rescoring=2)

    scored = score(True)
    equal(of(scored, slice(0, 1)), of(scored, slice(1, 2)))
    equal(of(scored, slice(2, 3)), of(scored, slice(3, 4)))
    assert (scored.log_px[0] != scored.log_px[2]).all(), "repeats have streams of their own"
    scored = score(False)
    assert all(len(scored.log_px[:, i].unique()) == 4 for i in range(5))


@pytest.mark.parametrize("rescoring", [1, 3])
@pytest.mark.parametrize("paired", [True, False])
def test_stacked_repeats_are_each_by_itself_with_shared_noise_and_more_samples(
    monkeypatch, paired, rescoring
):
    monkeypatch.setattr("memlib.scoring.BATCH", 3)
    single, images = vaes("mlp", "bernoulli", 1, count=4).unstack(), pictures(1, 8)

    def score(models, *seeds):
        streams = [generator(seed) for seed in seeds]
        return score_images(Ensemble.stack(models), images, S, streams, paired=paired, rescoring=rescoring)

    limit(monkeypatch, math.inf)
    limit(monkeypatch, score(single, 5, 6).khat.unflatten(0, (2, 2)).amax(1).median().item())
    together = score(single, 5, 6)
    equal(of(together, slice(0, 2)), score(single[:2], 5))
    equal(of(together, slice(2, 4)), score(single[2:], 6))
    if rescoring > 1:
        assert set(together.num_samples[1].tolist()) == set(together.num_samples[2].tolist()) == {S, 3 * S}
        assert (together.num_samples[0] != together.num_samples[2]).any(), "each repeat has its own images"


def scored_by_hand(model, images, seed, paired, rescoring, failing):
    """Estimates and sizes of samples in float64 from the noise as it is drawn: of all images, then more of
    those that fail; k-hat by `pareto_k`."""
    noise, E, Z = generator(seed), len(model), model.latent_dim
    shared = {"dtype": torch.float64, "shared": paired}
    y = perturbed(model.likelihood, images.flatten(1).expand(E, -1, -1), noise, **shared)
    eps = draws(torch.randn, (E, len(images), S, Z), noise, **shared)
    added = generator(int(torch.randint(2**62, (), generator=noise)))
    extra = (rescoring - 1) * S
    more = iter(draws(torch.randn, (E, len(failing), extra, Z), added, **shared).unbind(1))
    columns = []
    for i in range(len(images)):
        own = torch.cat([eps[:, i], next(more)], dim=1) if i in failing else eps[:, i]
        mu, log_var = (t[:, i, None] for t in model.encode(y))
        z = mu + torch.exp(log_var / 2) * own
        log_w = model.likelihood.log_prob(y[:, i, None], *model.decode(z))
        log_w = log_w + 0.5 * (own.square() - z.square() + log_var).sum(-1)
        count = own.shape[1]
        log_p = log_w.logsumexp(-1) - math.log(count) + model.likelihood.log_jacobian(y)[:, i]
        ess = 1 / log_w.softmax(-1).square().sum(-1)
        columns.append((log_p, ess, pareto_k(log_w), torch.full((E,), count)))
    return LogProb(*(torch.stack(column, dim=1).detach() for column in zip(*columns, strict=True)))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("architecture", "likelihood", "channels", "paired"),
    [("mlp", "bernoulli", 1, True), ("mlp", "gaussian", 1, False), ("conv", "gaussian", 3, True)],
)
def test_images_that_fail_get_a_plain_estimate_from_more_samples_and_the_others_keep_theirs(
    monkeypatch, architecture, likelihood, channels, paired, together
):
    if together:  # as on a GPU
        monkeypatch.setattr(Ensemble, "unstack", lambda self: [])
    model = vaes(architecture, likelihood, channels, dtype=torch.float64)
    images, rescoring = pictures(channels, 11), 3
    first = score_images(model, images, S, generator(1), paired=paired)
    worst = first.khat.amax(0)
    limit(monkeypatch, worst.median().item())
    failing = (worst > worst.median()).nonzero().flatten().tolist()
    kept = [i for i in range(11) if i not in failing]
    assert len(failing) == 5
    scored = score_images(model, images, S, generator(1), paired=paired, rescoring=rescoring)
    equal(of(scored, images=kept), of(first, images=kept))
    assert (scored.num_samples[:, failing] == 3 * S).all() and (scored.num_samples[:, kept] == S).all()
    assert (scored.log_px[:, failing] != first.log_px[:, failing]).all()
    expected = scored_by_hand(model.train(False), images, 1, paired, rescoring, failing)
    for name in LogProb._fields:
        torch.testing.assert_close(
            getattr(scored, name), getattr(expected, name), rtol=1e-7, atol=1e-7, msg=name
        )


def test_more_samples_are_drawn_in_pieces_that_change_nothing(monkeypatch):
    """As many images at once as fit: the noise of each piece follows that of the one before."""
    limit(monkeypatch, -math.inf)
    model, images = vaes("mlp", "bernoulli", 1, dtype=torch.float64), pictures(1, 7)
    whole = score_images(model, images, S, generator(1), paired=True, rescoring=3)
    sizes = []
    original = draws

    def counted(draw, shape, *args):
        sizes.append(shape[1:3])
        return original(draw, shape, *args)

    monkeypatch.setattr("memlib.scoring.draws", counted)
    monkeypatch.setattr("memlib.scoring._images_at_once", lambda noise: 7 if noise == 2 * S * 3 else 2)
    pieces = score_images(model, images, S, generator(1), paired=True, rescoring=3)
    assert sizes == [(7, S), *[(2, 2 * S)] * 3, (1, 2 * S)]
    assert (whole.num_samples == 3 * S).all()
    for name in LogProb._fields:
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("paired", [True, False])
def test_later_batches_do_not_depend_on_which_images_get_more_samples(monkeypatch, paired):
    monkeypatch.setattr("memlib.scoring.BATCH", 4)
    model, images = vaes("mlp", "bernoulli", 1), pictures(1, 16)

    def score(threshold, rescoring):
        limit(monkeypatch, threshold)
        noise = generator(1)
        scored = score_images(model, images, S, noise, paired=paired, rescoring=rescoring)
        return scored, noise.get_state()

    none, after_none = score(math.inf, 3)
    assert (none.num_samples == S).all()
    middle = none.khat.amax(0).median().item()
    for threshold, rescoring in ((middle, 2), (middle, 5), (-math.inf, 3)):
        some, after_some = score(threshold, rescoring)
        assert torch.equal(after_some, after_none)
        more = some.num_samples[0] == rescoring * S
        assert torch.equal(more, none.khat.amax(0) > threshold)
        equal(of(some, images=~more), of(none, images=~more))
        assert (some.log_px[:, more] != none.log_px[:, more]).all()
    once, _ = score(middle, 1)
    equal(of(once, images=slice(0, 4)), of(none, images=slice(0, 4)))


def test_images_of_too_few_samples_for_a_k_hat_always_get_more():
    model, images = vaes("mlp", "bernoulli", 1), pictures(1, 6)
    scored = score_images(model, images, 5, generator(0), rescoring=4)
    assert (scored.num_samples == 20).all() and scored.khat.isinf().all()
    scored = score_images(model, images, 5, generator(0), rescoring=5)
    assert (scored.num_samples == 25).all() and scored.khat.isfinite().all()


@pytest.mark.parametrize("rescoring", [0, -2])
def test_scoring_again_less_than_once_is_an_error(rescoring):
    with pytest.raises(ValueError, match=f"rescoring is {rescoring}; allowed: 1 or more"):
        score_images(vaes("mlp", "bernoulli", 1), pictures(1, 2), 2, generator(0), rescoring=rescoring)


def test_scored_pairs_are_reported():
    counts = []
    images = pictures(1, 600)
    score_images(vaes("mlp", "bernoulli", 1), images, 1, torch.Generator(), tick=counts.append)
    assert counts == [2 * 512, 2 * 88]


@pytest.mark.gpu
@pytest.mark.parametrize(("architecture", "likelihood", "channels"), KINDS)
def test_equal_models_have_equal_scores_on_a_gpu_too(monkeypatch, architecture, likelihood, channels):
    limit(monkeypatch, -math.inf)
    [one] = vaes(architecture, likelihood, channels, count=1).unstack()
    model, images = Ensemble.stack([one] * 4, "cuda"), pictures(channels, 5).cuda()
    streams = [torch.Generator("cuda").manual_seed(seed) for seed in (5, 6)]
    scored = score_images(model, images, S, streams, paired=True, rescoring=3)
    assert (scored.num_samples == 3 * S).all() and scored.khat.isfinite().all()
    for a, b in ((0, 1), (2, 3)):
        torch.testing.assert_close(scored.log_px[a], scored.log_px[b], rtol=1e-5, atol=0)
    assert (scored.log_px[0] != scored.log_px[2]).all()


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
