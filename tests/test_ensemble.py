"""Stacked models, and what they see and show."""

import numpy as np
import pytest
import torch
from vaes import E, digits, models

from memlib.ensemble import Ensemble, draws, flipped, latent_means, perturbed, reconstruct, sample
from memlib.models import build_vae


def test_flips_mirror_about_half_of_the_images_and_only_those():
    images = digits(400).expand(-1, 3, -1, -1)
    mirrored = flipped(images, torch.Generator().manual_seed(0))
    same = (mirrored == images).flatten(1).all(1)
    flips = (mirrored == images.flip(-1)).flatten(1).all(1)
    assert (same ^ flips).all() and 150 < flips.sum() < 250


def test_samples_and_reconstructions_are_images():
    model = Ensemble.stack(models("conv", "gaussian-scalar", 3, dtype=torch.float32))
    drawn = sample(model, 10, 3, torch.Generator().manual_seed(0), batch_size=4)
    assert drawn.shape == (E, 10, 3, 32, 32) and drawn.dtype == np.uint8
    assert len(np.unique(drawn[0].reshape(10, -1), axis=0)) == 10
    images = digits(6).expand(-1, 3, -1, -1).numpy()
    assert reconstruct(model, images, torch.Generator().manual_seed(0)).shape == (E, 6, 3, 32, 32)


def test_latent_means_are_the_encoders_whatever_the_batch():
    model = Ensemble.stack(models("mlp", "gaussian", 1, dtype=torch.float32)).train(False)
    images = digits(5).numpy()
    means = latent_means(model, images, torch.Generator().manual_seed(0))
    assert means.shape == (E, 5, 4) and means.dtype == np.float64
    x = torch.tensor(images).flatten(1).expand(E, -1, -1)
    noise = torch.Generator().manual_seed(0)
    expected, _ = model.encode(perturbed(model.likelihood, x, noise, torch.float32))
    np.testing.assert_allclose(means, expected.detach().double().numpy())
    parts = latent_means(model, images, torch.Generator().manual_seed(0), batch_size=2)
    assert parts.shape == means.shape and np.corrcoef(parts.ravel(), means.ravel())[0, 1] > 0.9  # other noise


def test_state_round_trip():
    model = Ensemble.stack(models("conv", "gaussian", 3, dtype=torch.float32)).train(False)
    template = build_vae("conv", "gaussian", channels=3, latent_dim=4, width=4)
    copy = Ensemble.from_state(template, model.state()).train(False)
    z = torch.randn(E, 5, 4, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(model.decode(z), copy.decode(z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_stacked_models_compute_what_each_computes(architecture):
    single = [vae.train(False) for vae in models(architecture, "gaussian", 3)]
    stacked = Ensemble.stack(models(architecture, "gaussian", 3)).train(False)
    y = torch.randn(E, 5, 3072, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for e, (vae, alone) in enumerate(zip(single, stacked.unstack(), strict=True)):
        for ours, theirs in zip(stacked.encode(y), vae.encoder(y[e]), strict=True):
            torch.testing.assert_close(ours[e], theirs)
        z = stacked.encode(y)[0]
        for together, plain, own in zip(
            stacked.decode(z), vae.decoder(z[e]), alone.decoder(z[e]), strict=True
        ):
            torch.testing.assert_close(together[e], plain)
            torch.testing.assert_close(own, plain)


def test_unstacked_perceptrons_share_the_memory_of_the_ensemble():
    stacked = Ensemble.stack(models("mlp", "bernoulli", 1))
    alone = stacked.unstack()[1]
    with torch.no_grad():
        stacked.params["decoder.trunk.4.weight"][1] = 7
    assert (alone.decoder.trunk[4].weight == 7).all()


def test_weights_of_linear_layers_are_kept_as_products_and_adam_read_them():
    stacked = Ensemble.stack(models("mlp", "bernoulli", 1))
    assert stacked.params["encoder.trunk.0.weight"].shape == (E, 1024, 512)
    assert all(p.is_contiguous() and p.is_leaf for p in stacked.params.values())
    assert stacked.state()["encoder.trunk.0.weight"].shape == (E, 512, 1024)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_a_part_is_some_of_the_models(architecture, precision):
    stacked = Ensemble.stack(models(architecture, "gaussian", 3), precision=precision).train(False)
    y = torch.randn(E, 5, 3072, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = stacked.encode(y)[0].detach()
    for chosen in (slice(1, 3), slice(0, 1), slice(None)):
        part = stacked.part(chosen)
        assert len(part) == len(y[chosen]) and part.precision == precision
        for ours, theirs in zip(part.encode(y[chosen]), stacked.encode(y), strict=True):
            torch.testing.assert_close(ours, theirs[chosen])
        for ours, theirs in zip(part.decode(z[chosen]), stacked.decode(z), strict=True):
            torch.testing.assert_close(ours, theirs[chosen] if len(theirs) == E else theirs)
    part = stacked.part(slice(1, 2))
    assert not any(p.requires_grad for p in part.params.values())
    with torch.no_grad():
        for p in stacked.params.values():
            p[1] = 7
    assert all((p == 7).all() for p in part.params.values()), "a part is a view"


def streams(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_models_of_a_repeat_may_share_their_noise():
    together = draws(torch.randn, (6, 4, 2), streams(1, 2), shared=True)
    assert together.shape == (6, 4, 2)
    for repeat, seed in ((0, 1), (1, 2)):
        own = torch.randn((1, 4, 2), generator=streams(seed)[0])
        for e in range(3):
            torch.testing.assert_close(together[3 * repeat + e], own[0], rtol=0, atol=0)
    assert (together[0] != together[3]).all()
    single = draws(torch.rand, (3, 4), streams(1)[0], torch.float64, shared=True)
    assert single.dtype == torch.float64 and (single == single[0]).all() and single.unique().numel() == 4


def test_models_of_a_repeat_may_see_the_same_version_of_an_image():
    model = models("mlp", "bernoulli", 1)[0]
    images = digits(6).flatten(1).expand(4, -1, -1)
    shared = perturbed(model.likelihood, images, streams(1, 2), shared=True)
    assert torch.equal(shared[0], shared[1]) and torch.equal(shared[2], shared[3])
    assert (shared[0] != shared[2]).any() and set(shared.unique().tolist()) == {0, 1}
    own = perturbed(model.likelihood, images, streams(1, 2))
    assert (own[0] != own[1]).any() and (own[2] != own[3]).any()


def test_every_repeat_draws_from_its_own_stream():
    together = draws(torch.randn, (6, 4), streams(1, 2))
    torch.testing.assert_close(together[:3], draws(torch.randn, (3, 4), streams(1)), rtol=0, atol=0)
    torch.testing.assert_close(together[3:], draws(torch.randn, (3, 4), streams(2)), rtol=0, atol=0)
    alone = draws(torch.randn, (3, 4), streams(2)[0])
    torch.testing.assert_close(together[3:], alone, rtol=0, atol=0)
