"""Importance sampling against closed forms; scores of models, with more samples where k-hat asks for them."""

import functools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vaes import KINDS, generator, models, pictures, stacked

from memlib.chapters.exact import LinearGaussian
from memlib.decoding import PerceptronDecoder
from memlib.device import compiler_works
from memlib.ensemble import Ensemble, draws, perturbed
from memlib.psis import khat_threshold, pareto_k, tail_length
from memlib.scoring import (
    LogProb,
    compiled_log_prob,
    log_px,
    score_images,
    standard_error,
)

SMALL = KINDS[0]
FEW = 32  # samples, enough for a k-hat


class Linear(LinearGaussian):
    """A linear model with random weights; `latent_dim` 1 makes the diagonal proposal the exact posterior."""

    def __init__(self, dim=6, latent_dim=2, inflation=1.5):
        noise = generator(0)
        weight = torch.randn(dim, latent_dim, generator=noise)
        super().__init__(weight, torch.randn(dim, generator=noise), sigma2=0.3, inflation=inflation)

    def draw(self, n):
        return self.sample(n, generator(1))


def estimate(model, x, num_samples):
    return log_px(model, x[None], num_samples, generator(0))


def errors_in_standard_errors(model, S=2000):
    x = model.draw(200)
    scored = estimate(model, x, S)
    error = standard_error(scored.ess, S)[0].numpy()
    assert error.max() < 0.05
    return (scored.log_px[0].numpy() - model.log_px(x).numpy()) / error


def test_linear_decoder_agrees_with_the_closed_form_within_its_standard_error():
    z = errors_in_standard_errors(Linear())
    assert abs(z.mean()) < 4 / math.sqrt(200) + 0.1 and 0.8 < z.std() < 1.2 and np.abs(z).max() < 5


def test_a_wrong_proposal_is_seen_by_the_comparison():
    """The case that must fail: the weights of a proposal that is not the one sampled from."""

    class Wrong(Linear):
        def decode(self, z):
            return super().decode(z + 0.2)

    assert np.abs(errors_in_standard_errors(Wrong())).mean() > 5


def test_the_exact_posterior_needs_one_sample():
    """With a single latent dimension a diagonal proposal is the posterior: all weights are equal."""
    model = Linear(latent_dim=1, inflation=1.0)
    x = model.draw(20)
    scored = estimate(model, x, 3)
    np.testing.assert_allclose(scored.log_px[0], model.log_px(x).numpy(), rtol=1e-12)
    np.testing.assert_allclose(scored.ess, 3, rtol=1e-9)
    np.testing.assert_allclose(standard_error(scored.ess, 3), 0, atol=1e-5)
    assert standard_error(torch.ones(4), 1).isnan().all(), "of a single sample nothing is known"


@given(st.integers(1, 40), st.integers(1, 400))
@settings(max_examples=20)
def test_tiles_change_nothing_but_the_memory_used(num_samples, tile):
    """Against torch.logsumexp over all weights at once, computed with torch.distributions."""
    rows = []

    class Watched(Linear):
        def decode(self, z):
            rows.append(z.shape[1])
            return super().decode(z)

    model = Watched(inflation=3.0)
    x = model.draw(3)[None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memlib.scoring.TILE", tile)
        scored = log_px(model, x, num_samples, generator(0))
    assert sum(rows) == 3 * num_samples and max(rows) <= max(1, tile // 6)

    normal = torch.distributions.Normal
    mu, log_var = model.encode(x)
    q = normal(mu[:, :, None], torch.exp(log_var / 2)[:, :, None])
    shape = (1, 3, num_samples, 2)
    z = q.loc + q.scale * torch.randn(shape, generator=generator(0), dtype=torch.float64)
    mean, decoded = (p.unflatten(1, (3, num_samples)) for p in model.decode(z.flatten(1, 2)))
    log_pxz = normal(mean, torch.exp(decoded / 2)).log_prob(x[:, :, None]).sum(-1)
    log_w = log_pxz + normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    expected = log_w.logsumexp(-1) - math.log(num_samples)
    torch.testing.assert_close(scored.log_px, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(scored.ess, 1 / log_w.softmax(-1).square().sum(-1), rtol=1e-8, atol=0)


@pytest.mark.parametrize(("mean", "log_p", "ess"), [(math.inf, -math.inf, 1), (math.nan, math.nan, math.nan)])
def test_what_is_impossible_has_probability_zero_and_what_is_not_a_number_stays_so(mean, log_p, ess):
    class Fixed(Linear):
        def decode(self, z):
            zeros, log_var = super().decode(z)
            return torch.full_like(zeros, mean), log_var

    scored = estimate(Fixed(), Linear().draw(1), 10)
    np.testing.assert_array_equal([scored.log_px.item(), scored.ess.item()], [log_p, ess])


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


@pytest.mark.parametrize(("variance", "shape"), [(0.05, 0.95), (0.7, 0.3), (1.5, -1)])
def test_k_hat_is_the_shape_of_the_weights_of_a_round_proposal(variance, shape):
    model, S = Isotropic(variance), 10_000
    scored = estimate(model, model.sample(40, generator(1)), S)
    M = tail_length(S)
    expected = (M * shape + 5) / (M + 10)  # ten observations of the prior for 0.5
    assert scored.khat.mean().item() == pytest.approx(expected, abs=0.05)
    share = (scored.khat > khat_threshold(S)).float().mean().item()
    assert share == pytest.approx(float(variance < 0.3), abs=0.15)


def test_scores_are_densities_of_gray_values():
    """Decoder constant, encoder the prior: a normal density of logits, transformed to gray values."""
    [vae] = models("mlp", "gaussian", 1, count=1)
    with torch.no_grad():
        for layer in (vae.encoder.mean, vae.encoder.log_var, vae.decoder.trunk[-1]):
            layer.weight.zero_()
            layer.bias.zero_()
    images = pictures(4)
    scored = score_images(Ensemble.stack([vae]), images, 5, generator(1))
    u = torch.rand((1, 4, 1024), generator=generator(1), dtype=torch.float64)
    share = 0.05 + 0.9 * (images.flatten(1) + u).numpy() / 256  # the logit's argument
    density = scipy.stats.norm.logpdf(scipy.special.logit(share)) + np.log(0.9 / 256 / (share * (1 - share)))
    np.testing.assert_allclose(scored.log_px, density.sum(-1), rtol=1e-10)
    np.testing.assert_allclose(scored.ess, 5, rtol=1e-9)


def float64_scores(kind, images, S):
    """The scores in float64 at the very noise that float32 models see."""
    exact, noise = stacked(*kind).train(False), generator(1)
    y = perturbed(exact.likelihood, images.flatten(1).expand(len(exact), -1, -1), noise).double()
    eps = torch.randn((*y.shape[:2], S, exact.latent_dim), generator=noise).double()
    mu, log_var = (t[:, :, None] for t in exact.encode(y))
    z = mu + torch.exp(log_var / 2) * eps
    parameters = (p.unflatten(1, eps.shape[1:3]) for p in exact.decode(z.flatten(1, 2)))
    log_w = exact.likelihood.log_prob(y[:, :, None], *parameters)
    log_w = log_w + 0.5 * (eps.square() - z.square() + log_var).sum(-1)
    return (log_w.logsumexp(-1) - math.log(S) + exact.likelihood.log_jacobian(y)).detach()


@pytest.mark.parametrize(
    ("kind", "count", "S"),
    [
        (KINDS[0], 4, 20),
        (KINDS[2], 4, 20),
        *(pytest.param(k, 24, 150, marks=pytest.mark.slow) for k in KINDS),
    ],
)
def test_every_precision_is_near_float64_at_equal_noise(kind, count, S):
    """float32 to its own rounding, bfloat16 to that of products alone: sums in it would be wrong by 2e-3."""
    images = pictures(count, kind[-1])
    single, half = (
        score_images(stacked(*kind, dtype=torch.float32, precision=precision), images, S, generator(1)).log_px
        for precision in ("float32", "bfloat16")
    )
    exact = float64_scores(kind, images, S)
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)
    torch.testing.assert_close(half.double(), exact, rtol=3e-4, atol=0)
    assert (single != half).any(), "products were not rounded"


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("eager", KINDS[0]),
        *(pytest.param("inductor", kind, marks=pytest.mark.slow) for kind in (KINDS[0], KINDS[2])),
    ],
)
def test_compiled_scores_are_the_same_up_to_rounding(backend, kind, monkeypatch):
    """Without the slow part, the C++ compiler, what follows the decoder is still traced into one graph."""
    if backend == "inductor" and not compiler_works(torch.device("cpu")):
        pytest.skip("torch.compile finds no C++ compiler")
    whole, traced = functools.partial(torch.compile, backend=backend, fullgraph=True), []
    monkeypatch.setattr(torch, "compile", lambda function: traced.append(function) or whole(function))
    monkeypatch.setattr(
        "memlib.scoring.compiled_log_prob", compiled_log_prob.__wrapped__
    )  # without its cache
    model, images = stacked(*kind, dtype=torch.float32), pictures(5, kind[-1])
    eager = score_images(model, images, 20, generator(0))
    assert not traced
    compiled = score_images(model, images, 20, generator(0), compiled=True)
    assert traced == [model.likelihood.log_prob]
    torch.testing.assert_close(compiled.log_px, eager.log_px, rtol=1e-5, atol=0)


def equal(a, b, tolerance=0):
    for name, ours, theirs in zip(LogProb._fields, a, b, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, msg=name)


def of(scored, models=slice(None), images=slice(None)):
    return LogProb(*(column[models][:, images] for column in scored))


def limit(monkeypatch, value):
    """Let every image whose k-hat is above the value fail."""
    monkeypatch.setattr("memlib.scoring.khat_threshold", lambda num_samples: value)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", [SMALL, *(pytest.param(kind, marks=pytest.mark.gpu) for kind in KINDS[1:])])
def test_equal_models_have_equal_scores_where_they_share_the_noise_and_only_there(monkeypatch, kind, device):
    limit(monkeypatch, -math.inf)
    model = Ensemble.stack(models(*kind, count=1, dtype=torch.float32) * 4, device)
    images = pictures(5, kind[-1]).to(device)

    def score(paired):
        streams = [generator(seed, device) for seed in (5, 6)]
        return score_images(model, images, FEW, streams, paired=paired, rescoring=3)

    scored = score(True)
    assert (scored.num_samples == 3 * FEW).all()
    for a, b in ((0, 1), (2, 3)):
        tolerance = 0 if device == "cpu" else 1e-5  # one product of all models on a GPU
        torch.testing.assert_close(scored.log_px[a], scored.log_px[b], rtol=tolerance, atol=0)
    assert (scored.log_px[0] != scored.log_px[2]).all(), "repeats have streams of their own"
    scored = score(False)
    assert all(len(scored.log_px[:, i].unique()) == 4 for i in range(5))


def as_on_a_gpu(monkeypatch):
    """All models of a repeat in one product."""
    monkeypatch.setattr("memlib.scoring._members", lambda model, num_samples: [model])


@pytest.mark.parametrize(
    ("kind", "paired", "together"), [(SMALL, True, False), (("conv", "bernoulli", 1), False, True)]
)
def test_stacked_repeats_are_each_by_itself_with_shared_noise_and_more_samples(
    monkeypatch, kind, paired, together
):
    if together:
        as_on_a_gpu(monkeypatch)
    monkeypatch.setattr("memlib.scoring.BATCH", 3)
    single = [vae.train(False) for vae in models(*kind, count=4)]
    images, done = pictures(5), []

    def score(models, *seeds):
        options = {"paired": paired, "rescoring": 3, "tick": done.append}
        return score_images(Ensemble.stack(models), images, FEW, list(map(generator, seeds)), **options)

    limit(monkeypatch, math.inf)
    first = score(single, 5, 6)
    assert done == [12, 8] and (first.num_samples == FEW).all()
    limit(monkeypatch, first.khat.unflatten(0, (2, 2)).amax(1).flatten().sort().values[4:6].mean().item())
    scored = score(single, 5, 6)
    equal(of(scored, slice(0, 2)), score(single[:2], 5), 1e-7)
    equal(of(scored, slice(2, 4)), score(single[2:], 6), 1e-7)
    assert set(scored.num_samples[1].tolist()) == set(scored.num_samples[2].tolist()) == {FEW, 3 * FEW}
    assert (scored.num_samples[0] != scored.num_samples[2]).any(), "each repeat has its own images"


def scored_by_hand(model, images, noise, paired, failing, extra):
    """Estimates and sizes of samples in float64 from the noise as it is drawn: of all images, then more of
    those that fail, from a stream of their own; k-hat by `pareto_k`."""
    E, Z, shared = len(model), model.latent_dim, {"dtype": torch.float64, "shared": paired}
    y = perturbed(model.likelihood, images.flatten(1).expand(E, -1, -1), noise, **shared)
    eps = draws(torch.randn, (E, len(images), FEW, Z), noise, **shared)
    fork = generator(0).set_state(noise.get_state())
    added = generator(int(torch.randint(2**62, (), generator=fork)))
    more = iter(draws(torch.randn, (E, int(failing.sum()), extra, Z), added, **shared).unbind(1))
    columns = []
    for i, fails in enumerate(failing):
        own = torch.cat([eps[:, i], next(more)], dim=1) if fails else eps[:, i]
        mu, log_var = (t[:, i, None] for t in model.encode(y))
        z = mu + torch.exp(log_var / 2) * own
        log_w = model.likelihood.log_prob(y[:, i, None], *model.decode(z))
        log_w = log_w + 0.5 * (own.square() - z.square() + log_var).sum(-1)
        count = own.shape[1]
        log_p = log_w.logsumexp(-1) - math.log(count) + model.likelihood.log_jacobian(y)[:, i]
        ess = 1 / log_w.softmax(-1).square().sum(-1)
        columns.append((log_p, ess, pareto_k(log_w), torch.full((E,), count)))
    return [torch.stack(column, dim=1).detach() for column in zip(*columns, strict=True)]


@pytest.mark.parametrize(
    ("kind", "paired", "way"),
    [
        (SMALL, True, "without hidden units that are off"),
        (SMALL, True, "one by one"),
        (("mlp", "gaussian-scalar", 1), False, "one by one"),
        (("conv", "gaussian", 3), True, "together"),
    ],
)
def test_images_that_fail_get_a_plain_estimate_from_more_samples_and_the_others_keep_theirs(
    monkeypatch, kind, paired, way
):
    if way == "together":
        as_on_a_gpu(monkeypatch)
    without, calls, decode = way.startswith("without"), [], PerceptronDecoder.__call__
    monkeypatch.setattr("memlib.scoring.FEWEST_SAMPLES", FEW if without else FEW + 1)
    monkeypatch.setattr(PerceptronDecoder, "__call__", lambda *args: calls.append(1) or decode(*args))
    monkeypatch.setattr("memlib.scoring.BATCH", 4)
    model, images = stacked(*kind), pictures(7, kind[-1])
    first = score_images(model, images, FEW, generator(1), paired=paired)
    worst = first.khat.amax(0)
    limit(monkeypatch, worst.median().item())
    failing = worst > worst.median()
    scored = score_images(model, images, FEW, generator(1), paired=paired, rescoring=3)
    assert failing.sum() == 3 and (scored.num_samples == torch.where(failing, 3 * FEW, FEW)).all()
    equal(of(scored, images=~failing), of(first, images=~failing))
    batches, noise = zip(images.split(4), failing.split(4), strict=True), generator(1)
    expected = [scored_by_hand(model.train(False), x, noise, paired, some, 2 * FEW) for x, some in batches]
    equal(scored, [torch.cat(columns, dim=1) for columns in zip(*expected, strict=True)], 1e-7)
    assert bool(calls) == without


def test_more_samples_are_drawn_in_pieces_that_change_nothing(monkeypatch):
    """As many images at once as fit: the noise of each piece follows that of the one before."""
    limit(monkeypatch, -math.inf)
    model, images, sizes = stacked(*SMALL), pictures(7), []
    whole = score_images(model, images, FEW, generator(1), paired=True, rescoring=3)

    def counted(draw, shape, *args):
        sizes.append(shape[1:3])
        return draws(draw, shape, *args)

    monkeypatch.setattr("memlib.scoring.draws", counted)
    monkeypatch.setattr("memlib.scoring.NOISE", 7 * len(model) * FEW * model.latent_dim)
    pieces = score_images(model, images, FEW, generator(1), paired=True, rescoring=3)
    assert sizes == [(7, FEW), (3, 2 * FEW), (3, 2 * FEW), (1, 2 * FEW)]
    equal(pieces, whole, 1e-9)


def test_images_of_too_few_samples_for_a_k_hat_always_get_more():
    scored = score_images(stacked(*SMALL), pictures(6), 5, generator(0), rescoring=5)
    assert (scored.num_samples == 25).all() and scored.khat.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_scores_as_the_cpu_does(kind, compiled):
    """Equal models, other noise: means over many images agree within the noise of binarization."""
    images, options = pictures(200, kind[-1]), {"count": 2, "dtype": torch.float32}
    ours = score_images(stacked(*kind, **options), images, 20, generator(0)).log_px
    there, noise = stacked(*kind, **options, device="cuda"), generator(0, "cuda")
    theirs = score_images(there, images.cuda(), 20, noise, compiled=compiled).log_px.cpu()
    spread = ours.std(1) / len(images) ** 0.5
    assert ((ours.mean(1) - theirs.mean(1)).abs() < 6 * spread).all()
