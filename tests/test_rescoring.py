"""Noise that the models of a repeat share, and more samples where k-hat asks for them."""

import math

import pytest
import torch
from test_scoring import KINDS, pictures, vaes

from memlib.ensemble import Ensemble, draws, perturbed
from memlib.pareto import pareto_k
from memlib.scoring import LogProb, score_images

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
