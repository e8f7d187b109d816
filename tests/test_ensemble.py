"""Stacked models, and what they see and show."""

import numpy as np
import pytest
import torch
from vaes import E, digits, models

from memlib.ensemble import Ensemble, draws, flipped, reconstruct, sample
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


def test_every_repeat_draws_from_its_own_stream():
    def streams(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    together = draws(torch.randn, (6, 4), streams(1, 2))
    torch.testing.assert_close(together[:3], draws(torch.randn, (3, 4), streams(1)), rtol=0, atol=0)
    torch.testing.assert_close(together[3:], draws(torch.randn, (3, 4), streams(2)), rtol=0, atol=0)
    alone = draws(torch.randn, (3, 4), streams(2)[0])
    torch.testing.assert_close(together[3:], alone, rtol=0, atol=0)
