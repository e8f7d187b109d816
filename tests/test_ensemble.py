"""Stacked models, and what they see and show."""

import numpy as np
import pytest
import torch
from vaes import E, generator, models, pictures, stacked

from memlib.ensemble import Ensemble, draws, flipped, sample
from memlib.models import build_vae


def test_flips_mirror_about_half_of_the_images_and_only_those():
    images = pictures(400, 3)
    mirrored = flipped(images, generator(0))
    same = (mirrored == images).flatten(1).all(1)
    flips = (mirrored == images.flip(-1)).flatten(1).all(1)
    assert (same ^ flips).all() and 150 < flips.sum() < 250


@pytest.mark.parametrize("kind", [("mlp", "gaussian", 1), ("conv", "gaussian-scalar", 3)])
def test_models_show_together_what_each_shows_by_itself(kind):
    """In several batches, in the order of the models."""
    model, images = stacked(*kind).train(), pictures(5, kind[-1])
    prior = generator(0)
    z = torch.cat([torch.randn(E, n, 4, generator=prior, dtype=torch.float64) for n in (4, 4, 2)], dim=1)

    drawn = sample(model, 10, kind[-1], generator(0), batch_size=4)
    assert drawn.dtype == np.uint8
    for e, vae in enumerate(models(*kind)):
        with torch.no_grad():
            pixels = vae.train(False).likelihood.pixels(*vae.decoder(z[e])) * 255
        np.testing.assert_allclose(drawn[e], pixels.reshape(-1, *images.shape[1:]), atol=0.501)


def test_state_round_trip_and_what_is_stacked_stays_as_it_is():
    each = models("conv", "gaussian", 3)
    model = Ensemble.stack(each).train(False)
    assert each[0].training and each[0].encoder.mean.weight.requires_grad
    template = build_vae("conv", "gaussian", channels=3, latent_dim=4, width=4)
    copy = Ensemble.from_state(template, model.state()).train(False)
    z = torch.randn(E, 5, 4, generator=generator(0), dtype=torch.float64)
    for ours, theirs in zip(model.decode(z), copy.decode(z), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_some_of_the_models_and_each_perceptron_share_the_memory_of_the_ensemble():
    model = stacked("mlp", "bernoulli", 1, precision="bfloat16")
    part = model.part(slice(1, 2))
    alone = stacked("mlp", "bernoulli", 1)
    [_, vae, _] = alone.unstack()
    with torch.no_grad():
        for ensemble in (model, alone):
            for p in ensemble.params.values():
                p[1] = 7
    assert len(part) == 1 and part.precision == "bfloat16"
    assert all((p == 7).all() for p in [*part.params.values(), *vae.parameters()])
    assert not any(p.requires_grad for p in part.params.values())


def test_every_repeat_draws_from_its_own_stream():
    together = draws(torch.randn, (6, 4, 2), [generator(1), generator(2)], torch.float64)
    for own, seed in ((together[:3], 1), (together[3:], 2)):
        alone = torch.randn(3, 4, 2, generator=generator(seed), dtype=torch.float64)
        torch.testing.assert_close(own, alone, rtol=0, atol=0)
