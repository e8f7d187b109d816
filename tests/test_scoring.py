"""Importance sampling against closed forms; scores of models in versions of images."""

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
from memlib.device import compiler_works
from memlib.ensemble import Ensemble, perturbed
from memlib.proposals import gradient
from memlib.psis import khat_threshold, tail_length
from memlib.scoring import (
    compiled_log_prob,
    log_joint,
    log_px,
    members,
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


def estimate(model, x, num_samples, proposal="encoder"):
    return log_px(model, x[None], num_samples, generator(0), proposal)


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
        scored = log_px(model, x, num_samples, generator(0), "encoder")
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


def test_fitted_proposals_reach_the_closed_form_where_no_diagonal_one_does():
    model = Linear(latent_dim=4, inflation=1)
    x = model.draw(200)
    truth = model.log_px(x)
    fitted, encoder = (estimate(model, x, 128, name) for name in ("fitted", "encoder"))
    error = fitted.log_px[0] - truth
    assert abs(error.mean()) < 3 * error.std() / len(x) ** 0.5 and error.abs().max() < 0.2
    assert (fitted.khat <= khat_threshold(128)).float().mean() > 0.98
    assert (encoder.log_px[0] - truth).abs().mean() > 2 * error.abs().mean()


class Memorizing(Linear):
    """With an encoder that was fitted to its training images alone: it gives the posterior of the nearest."""

    def __init__(self, training):
        super().__init__(dim=20, latent_dim=4, inflation=1)
        self.training_images = self.sample(training, generator(1))

    def encode(self, y):
        nearest = torch.cdist(y[0], self.training_images).argmin(1)
        return super().encode(self.training_images[None, nearest])


def test_what_an_encoder_has_not_seen_counts_as_memorized_unless_proposals_are_fitted():
    """The truth: the model itself has seen none of the images, and the gap between the two sets is chance."""
    model = Memorizing(100)
    seen, held_out = model.training_images, model.sample(1000, generator(2))

    def gap(proposal):
        errors = [estimate(model, x, 256, proposal).log_px[0] - model.log_px(x) for x in (seen, held_out)]
        return errors[0].mean().item(), errors[1].mean().item()

    assert gap("fitted") == (pytest.approx(0, abs=0.02), pytest.approx(0, abs=0.02))
    known, unknown = gap("encoder")
    assert known > -0.5 and unknown < -3


def test_images_that_fail_get_more_samples_of_a_better_proposal_and_the_others_keep_theirs(monkeypatch):
    """Two models that fail for different images, in one product as on a GPU."""

    class Two(Linear):
        def encode(self, y):
            return tuple(t.expand(2, -1, -1) for t in super().encode(y[:1]))

        def decode(self, z):
            return tuple(torch.cat([p, p]) for p in super().decode(z[:1]))

    model, x = Two(latent_dim=3), Linear(latent_dim=3).draw(9)[None].expand(2, -1, -1)
    limit(monkeypatch, math.inf)
    first = log_px(model, x, FEW, generator(0))
    assert (first.num_samples == FEW).all()
    limit(monkeypatch, first.khat.median().item())
    scored = log_px(model, x, FEW, generator(0))
    kept = scored.num_samples == FEW
    assert {FEW, 2 * FEW} <= set(scored.num_samples.flatten().tolist()) <= {FEW, 2 * FEW, 4 * FEW, 8 * FEW}
    assert (kept == (first.khat <= first.khat.median())).all() and kept.any(0).any() and not kept.all(0).all()
    for ours, before in zip(scored, first, strict=True):
        assert (ours[kept] == before[kept]).all()
    limit(monkeypatch, -math.inf)
    assert (log_px(model, x, FEW, generator(0)).num_samples == 8 * FEW).all(), "bounded"


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
    scored = score_images(Ensemble.stack([vae]), images, 5, generator(1), [generator(2)], "encoder")
    u = torch.rand((1, 4, 1024), generator=generator(2), dtype=torch.float64)
    share = 0.05 + 0.9 * (images.flatten(1) + u).numpy() / 256  # the logit's argument
    density = scipy.stats.norm.logpdf(scipy.special.logit(share)) + np.log(0.9 / 256 / (share * (1 - share)))
    np.testing.assert_allclose(scored.log_px[:, 0], density.sum(-1), rtol=1e-10)
    np.testing.assert_allclose(scored.ess, 5, rtol=1e-9)


def float64_scores(kind, images, S):
    """The scores in float64 at the very noise that float32 models see."""
    exact, noise = stacked(*kind).train(False), generator(1)
    y = perturbed(exact.likelihood, images.flatten(1).expand(len(exact), -1, -1), noise).double()
    forks = [generator(int(torch.randint(2**62, (), generator=noise))) for _ in range(len(exact))]
    shape = len(images), S, exact.latent_dim
    eps = torch.stack([torch.randn(shape, generator=fork) for fork in forks]).double()
    mu, log_var = (t[:, :, None] for t in exact.encode(y))
    z = mu + torch.exp(log_var / 2) * eps
    parameters = (p.unflatten(1, eps.shape[1:3]) for p in exact.decode(z.flatten(1, 2)))
    log_w = exact.likelihood.log_prob(y[:, :, None], *parameters)
    log_w = log_w + 0.5 * (eps.square() - z.square() + log_var).sum(-1)
    return (log_w.logsumexp(-1) - math.log(S) + exact.likelihood.log_jacobian(y)).detach()[:, None]


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
        score_images(
            stacked(*kind, dtype=torch.float32, precision=precision),
            images,
            S,
            generator(1),
            proposal="encoder",
        ).log_px
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
    eager = score_images(model, images, 20, generator(0), proposal="encoder")
    assert not traced
    compiled = score_images(model, images, 20, generator(0), proposal="encoder", compiled=True)
    assert traced == [model.likelihood.log_prob]
    torch.testing.assert_close(compiled.log_px, eager.log_px, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", [*KINDS, ("conv", "gaussian-scalar", 3)])
def test_the_gradient_of_log_p_is_the_traced_one(kind):
    """With models of all kinds together and, as a CPU has them, alone."""
    model, images = stacked(*kind).train(False), pictures(5, kind[-1])
    y = perturbed(model.likelihood, images.flatten(1).expand(len(model), -1, -1), generator(0), torch.float64)
    z = torch.randn(len(model), 5, 40, model.latent_dim, generator=generator(1), dtype=torch.float64)
    joint = log_joint(model, y)
    expected = gradient(joint.value, z)
    torch.testing.assert_close(gradient(joint, z), expected)
    for e, alone in enumerate(members(model, FEW)):
        found = gradient(log_joint(alone, y[e : e + 1]), z[e : e + 1])
        torch.testing.assert_close(found, expected[e : e + 1])


def limit(monkeypatch, value):
    """Let every image whose k-hat is above the value fail."""
    monkeypatch.setattr("memlib.scoring.khat_threshold", lambda num_samples: value)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", [SMALL, *(pytest.param(kind, marks=pytest.mark.gpu) for kind in KINDS[1:3])])
def test_versions_are_the_same_for_all_models_and_repeats_or_each_models_own(kind, device):
    """A decoder that gives all latents one image makes log p that of the version, but for sampling error."""
    each = models(*kind, count=1, dtype=torch.float32)
    with torch.no_grad():
        for layer in each[0].decoder.modules():
            if hasattr(layer, "weight"):
                layer.weight.zero_()
            if isinstance(layer, torch.nn.Linear):
                layer.bias.normal_(generator=generator(2))
    model, images = Ensemble.stack(each * 4, device), pictures(5, kind[-1]).to(device)

    def score(versions):
        streams = [generator(seed, device) for seed in (5, 6)]
        return score_images(model, images, FEW, streams, versions).log_px

    three = score([generator(seed, device) for seed in (7, 8, 9)])
    assert three.shape == (4, 3, 5)
    torch.testing.assert_close(three, three[:1].expand(4, -1, -1), rtol=0, atol=1)
    assert (three[:, 0] - three[:, 1]).abs().max() > 2
    torch.testing.assert_close(three[:, :2], score([generator(seed, device) for seed in (7, 8)]))
    own = score(2)
    assert own.shape == (4, 2, 5) and all((own[0] - other).abs().max() > 2 for other in own[1:])


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("proposal", ["fitted", "encoder"])
def test_stacked_repeats_are_each_by_itself(monkeypatch, proposal, together):
    """Whether models are scored one by one or in one product, as on a GPU, and in how many blocks."""
    if together:
        monkeypatch.setattr("memlib.scoring.members", lambda model, num_samples: [model])
    monkeypatch.setattr("memlib.scoring.BLOCK", 3)
    single = [vae.train(False) for vae in models(*SMALL, count=4)]
    images, done = pictures(5), []

    def score(models, *seeds):
        streams = [generator(seed) for seed in seeds]
        options = {"proposal": proposal, "tick": done.append}
        return score_images(Ensemble.stack(models), images, FEW, streams, [generator(7)], **options)

    scored = score(single, 5, 6)
    assert done == [12, 8] and (scored.khat <= khat_threshold(FEW)).any()
    for part, alone in ((slice(0, 2), score(single[:2], 5)), (slice(2, 4), score(single[2:], 6))):
        for ours, theirs in zip(scored, alone, strict=True):
            torch.testing.assert_close(ours[part], theirs, rtol=1e-7, atol=1e-7)


def test_a_model_that_is_no_number_has_a_score_that_is_none():
    vae = models(*SMALL, count=1)[0]
    with torch.no_grad():
        vae.decoder.trunk[0].bias[0] = math.nan
    assert score_images(Ensemble.stack([vae]), pictures(3), FEW, generator(0)).log_px.isnan().all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_scores_as_the_cpu_does(kind, compiled):
    """Equal models, other noise: means over many images agree within the noise of binarization."""
    images, options = pictures(200, kind[-1]), {"count": 2, "dtype": torch.float32}
    ours = score_images(stacked(*kind, **options), images, 20, generator(0)).log_px[:, 0]
    there, noise = stacked(*kind, **options, device="cuda"), generator(0, "cuda")
    theirs = score_images(there, images.cuda(), 20, noise, compiled=compiled).log_px[:, 0].cpu()
    spread = ours.std(1) / len(images) ** 0.5
    assert ((ours.mean(1) - theirs.mean(1)).abs() < 6 * spread).all()
