"""Noise that the models of a repeat share, and more samples where k-hat asks for them."""

import math

import pytest
import torch
from vaes import KINDS, generator, models, pictures, stacked

from memlib.ensemble import Ensemble, draws, perturbed
from memlib.psis import pareto_k
from memlib.scoring import LogProb, PerceptronDecoder, score_images

S = 32  # enough for a k-hat
SMALL = ("mlp", "bernoulli", 1)


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
        return score_images(model, images, S, streams, paired=paired, rescoring=3)

    scored = score(True)
    assert (scored.num_samples == 3 * S).all()
    for a, b in ((0, 1), (2, 3)):
        tolerance = 0 if device == "cpu" else 1e-5  # one product of all models on a GPU
        torch.testing.assert_close(scored.log_px[a], scored.log_px[b], rtol=tolerance, atol=0)
    assert (scored.log_px[0] != scored.log_px[2]).all(), "repeats have streams of their own"
    scored = score(False)
    assert all(len(scored.log_px[:, i].unique()) == 4 for i in range(5))


def as_on_a_gpu(monkeypatch):
    """All models of a repeat in one product."""
    monkeypatch.setattr(Ensemble, "unstack", lambda self: [])


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
        return score_images(Ensemble.stack(models), images, S, list(map(generator, seeds)), **options)

    limit(monkeypatch, math.inf)
    first = score(single, 5, 6)
    assert done == [12, 8] and (first.num_samples == S).all()
    limit(monkeypatch, first.khat.unflatten(0, (2, 2)).amax(1).flatten().sort().values[4:6].mean().item())
    scored = score(single, 5, 6)
    equal(of(scored, slice(0, 2)), score(single[:2], 5), 1e-7)
    equal(of(scored, slice(2, 4)), score(single[2:], 6), 1e-7)
    assert set(scored.num_samples[1].tolist()) == set(scored.num_samples[2].tolist()) == {S, 3 * S}
    assert (scored.num_samples[0] != scored.num_samples[2]).any(), "each repeat has its own images"


def scored_by_hand(model, images, noise, paired, failing, extra):
    """Estimates and sizes of samples in float64 from the noise as it is drawn: of all images, then more of
    those that fail, from a stream of their own; k-hat by `pareto_k`."""
    E, Z, shared = len(model), model.latent_dim, {"dtype": torch.float64, "shared": paired}
    y = perturbed(model.likelihood, images.flatten(1).expand(E, -1, -1), noise, **shared)
    eps = draws(torch.randn, (E, len(images), S, Z), noise, **shared)
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
    monkeypatch.setattr("memlib.scoring.FEWEST_SAMPLES", S if without else S + 1)
    monkeypatch.setattr(PerceptronDecoder, "__call__", lambda *args: calls.append(1) or decode(*args))
    monkeypatch.setattr("memlib.scoring.BATCH", 4)
    model, images = stacked(*kind), pictures(7, kind[-1])
    first = score_images(model, images, S, generator(1), paired=paired)
    worst = first.khat.amax(0)
    limit(monkeypatch, worst.median().item())
    failing = worst > worst.median()
    scored = score_images(model, images, S, generator(1), paired=paired, rescoring=3)
    assert failing.sum() == 3 and (scored.num_samples == torch.where(failing, 3 * S, S)).all()
    equal(of(scored, images=~failing), of(first, images=~failing))
    batches, noise = zip(images.split(4), failing.split(4), strict=True), generator(1)
    expected = [scored_by_hand(model.train(False), x, noise, paired, some, 2 * S) for x, some in batches]
    equal(scored, [torch.cat(columns, dim=1) for columns in zip(*expected, strict=True)], 1e-7)
    assert bool(calls) == without


def test_more_samples_are_drawn_in_pieces_that_change_nothing(monkeypatch):
    """As many images at once as fit: the noise of each piece follows that of the one before."""
    limit(monkeypatch, -math.inf)
    model, images, sizes = stacked(*SMALL), pictures(7), []
    whole = score_images(model, images, S, generator(1), paired=True, rescoring=3)

    def counted(draw, shape, *args):
        sizes.append(shape[1:3])
        return draws(draw, shape, *args)

    monkeypatch.setattr("memlib.scoring.draws", counted)
    monkeypatch.setattr("memlib.scoring.NOISE", 7 * len(model) * S * model.latent_dim)
    pieces = score_images(model, images, S, generator(1), paired=True, rescoring=3)
    assert sizes == [(7, S), (3, 2 * S), (3, 2 * S), (1, 2 * S)]
    equal(pieces, whole, 1e-9)


def test_images_of_too_few_samples_for_a_k_hat_always_get_more():
    scored = score_images(stacked(*SMALL), pictures(6), 5, generator(0), rescoring=5)
    assert (scored.num_samples == 25).all() and scored.khat.isfinite().all()
