"""The ensemble against models trained one by one with nothing but plain PyTorch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from memlib.ensemble import (
    Ensemble,
    fit,
    flipped,
    mean_loss,
    negative_elbo,
    perturbed,
    reconstruct,
    sample,
    train_step,
)
from memlib.models import build_vae

E, B, STEPS = 3, 8, 20


def models(architecture, likelihood, channels, latent_dim=4, count=E, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    options = {"channels": channels, "latent_dim": latent_dim, "width": 4, "generator": generator}
    return [build_vae(architecture, likelihood, **options).to(dtype) for _ in range(count)]


def loss_by_hand(vae, y, eps):
    """The negative ELBO of one model, written out with torch.distributions."""
    normal = torch.distributions.Normal
    mu, log_var = vae.encoder(y)
    q = normal(mu, torch.exp(log_var / 2))
    z = mu + q.scale * eps
    parameters = vae.decoder(z)
    if len(parameters) == 1:
        reconstruction = F.binary_cross_entropy_with_logits(parameters[0], y, reduction="sum")
    else:
        mean, log_variance = parameters
        reconstruction = -normal(mean, torch.exp(log_variance.expand_as(mean) / 2)).log_prob(y).sum()
    return reconstruction + torch.distributions.kl_divergence(q, normal(0.0, 1.0)).sum()


def jacobian_by_hand(y, likelihood):
    """Log of dy/dx for the logits y of gray values x, summed over pixels; zero for binary pixels."""
    if likelihood == "bernoulli":
        return 0.0
    share = torch.sigmoid(y)  # 0.05 + 0.9 * x / 256
    return torch.log(0.9 / 256 / (share * (1 - share))).sum()


CASES = [
    ("mlp", "bernoulli", 1),
    ("conv", "gaussian", 3),
    ("conv", "gaussian-scalar", 3),
    ("conv", "bernoulli", 1),
]


@pytest.mark.parametrize("side_by_side", [True, False], ids=["vmap", "one by one"])
@pytest.mark.parametrize(("architecture", "likelihood", "channels"), CASES)
def test_ensemble_equals_models_trained_one_by_one(
    architecture, likelihood, channels, side_by_side, monkeypatch
):
    monkeypatch.setattr(Ensemble, "one_by_one", not side_by_side)
    singles = models(architecture, likelihood, channels)
    together = Ensemble.stack(models(architecture, likelihood, channels)).train()
    optimizer = torch.optim.Adam(together.params.values(), lr=1e-3, fused=True)
    optimizers = [torch.optim.Adam(vae.parameters(), lr=1e-3) for vae in singles]
    generator = torch.Generator().manual_seed(2)
    for _ in range(STEPS):
        images = torch.randint(0, 256, (E, B, channels * 1024), dtype=torch.uint8, generator=generator)
        y = perturbed(together.likelihood, images, generator, torch.float64)
        eps = torch.randn(E, B, 4, dtype=torch.float64, generator=generator)
        train_step(together, optimizer, y, eps)
        for e, (vae, alone) in enumerate(zip(singles, optimizers, strict=True)):
            alone.zero_grad()
            loss_by_hand(vae.train(), y[e], eps[e]).backward()
            alone.step()
    state = together.state()
    compared = set()
    for e, vae in enumerate(singles):
        for name, tensor in vae.state_dict().items():
            torch.testing.assert_close(torch.as_tensor(state[name][e]), tensor, rtol=1e-6, atol=1e-9)
            compared.add(name)
    assert compared == set(state)
    if architecture == "conv":
        steps = state["encoder.trunk.4.num_batches_tracked"]
        assert steps.tolist() == [STEPS] * E
        mean = state["encoder.trunk.4.running_mean"]
        assert np.abs(mean).max() > 0 and not np.allclose(mean[0], mean[1])


@pytest.mark.parametrize(("architecture", "likelihood", "channels"), CASES)
def test_losses_are_reported_in_pixel_space(architecture, likelihood, channels):
    vae = models(architecture, likelihood, channels, count=1)[0]
    together = Ensemble.stack(models(architecture, likelihood, channels, count=1))
    images = digits(B).expand(-1, channels, -1, -1)
    noise, again = (torch.Generator().manual_seed(3) for _ in range(2))
    y = perturbed(together.likelihood, images.flatten(1)[None], again, torch.float64)
    eps = torch.randn(1, B, 4, dtype=torch.float64, generator=again)
    with torch.no_grad():
        jacobian = jacobian_by_hand(y, likelihood)
        held_out = loss_by_hand(vae.train(False), y[0], eps[0]) - jacobian
        training = loss_by_hand(vae.train(), y[0], eps[0]) - jacobian
    np.testing.assert_allclose(mean_loss(together, images, noise), held_out / B, rtol=1e-10)
    optimizer = torch.optim.Adam(together.params.values(), fused=True)
    np.testing.assert_allclose(train_step(together.train(), optimizer, y, eps), [training], rtol=1e-10)


def test_models_of_an_ensemble_do_not_see_each_other():
    first, second = (Ensemble.stack(models("conv", "gaussian", 3)).train() for _ in range(2))
    y = torch.randn(E, B, 3072, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    other = y.clone()
    other[1:] += 1
    eps = torch.zeros(E, B, 4, dtype=torch.float64)
    for ensemble, batch in ((first, y), (second, other)):
        train_step(ensemble, torch.optim.Adam(ensemble.params.values(), fused=True), batch, eps)
    for name, array in first.state().items():
        np.testing.assert_array_equal(array[0], second.state()[name][0])
    assert any((array[1] != second.state()[name][1]).any() for name, array in first.state().items())


def settings(**changes):
    options = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 16, "flip": False}
    streams = {"order": np.random.default_rng(3), "noise": torch.Generator().manual_seed(4)}
    return options | streams | changes


def digits(n=50):
    return torch.randint(
        0, 256, (n, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )


def test_training_is_reproducible_and_lowers_the_loss():
    runs = []
    for _ in range(2):
        model = Ensemble.stack(models("mlp", "bernoulli", 1, dtype=torch.float32))
        sets = [np.arange(40), np.arange(10, 50), np.arange(50)[::-1][:40]]
        runs.append([loss for _, loss in fit(model, digits(), sets, **settings(epochs=3))])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][-1] < runs[0][0]).all()


def test_models_are_trained_on_their_own_sets_only_and_in_equal_steps():
    images, seen = digits(7), [[], []]

    class Spy(Ensemble):
        def encode(self, y):
            for e in range(2):
                seen[e].append(y[e].detach().clone())
            return super().encode(y)

    stacked = Ensemble.stack(models("mlp", "gaussian", 1, count=2))
    model = Spy(stacked.template, stacked.params, stacked.buffers)
    sets = [np.array([0, 1, 2]), np.array([3, 4, 5, 6])]
    for _ in fit(model, images, sets, **settings(epochs=40, batch_size=2, learning_rate=1e-5)):
        pass
    used = []
    for e in range(2):
        pixels = model.likelihood.pixels(torch.cat(seen[e]), None) * 256
        distance = (pixels[:, None] - images.flatten(1) - 0.5).abs().amax(-1)
        assert (distance.min(-1).values < 0.51).all()
        used.append(distance.argmin(-1).bincount(minlength=7).tolist())
    assert used[0] == [40, 40, 40, 0, 0, 0, 0]  # every image of the smaller set once an epoch
    assert used[1][:3] == [0, 0, 0] and sum(used[1]) == 120  # the larger set leaves one out ...
    assert all(20 < count < 40 for count in used[1][3:])  # ... another one each epoch


def test_divergence_stops_with_epoch_and_learning_rate():
    model = Ensemble.stack(models("mlp", "bernoulli", 1, dtype=torch.float32))
    with torch.no_grad():
        model.params["decoder.trunk.4.bias"][1] = math.inf
    with pytest.raises(FloatingPointError, match=r"1 of 3 models .* epoch 1 at learning_rate 0.001"):
        list(fit(model, digits(), [np.arange(50)] * E, **settings()))


def test_flips_mirror_about_half_of_the_images_and_only_those():
    images = digits(400).expand(-1, 3, -1, -1)
    mirrored = flipped(images, torch.Generator().manual_seed(0))
    same = (mirrored == images).flatten(1).all(1)
    flips = (mirrored == images.flip(-1)).flatten(1).all(1)
    assert (same ^ flips).all() and 150 < flips.sum() < 250


def test_negative_elbo_bounds_the_evidence_of_a_constant_decoder():
    """With a decoder that ignores z and q equal to the prior the bound is the evidence itself."""
    vae = models("mlp", "bernoulli", 1, count=1)[0]
    with torch.no_grad():
        for head in (vae.encoder.mean, vae.encoder.log_var, vae.decoder.trunk[-1]):
            head.weight.zero_()
            head.bias.zero_()
    y = torch.ones(1, 5, 1024, dtype=torch.float64)
    loss = negative_elbo(Ensemble.stack([vae]), y, torch.randn(1, 5, 4, dtype=torch.float64))
    np.testing.assert_allclose(loss.detach(), 1024 * math.log(2), rtol=1e-12)


def test_mean_loss_does_not_depend_on_the_batch_size_much_nor_change_the_model():
    model = Ensemble.stack(models("conv", "gaussian", 3, dtype=torch.float32))
    images = digits(60).expand(-1, 3, -1, -1)
    before = model.state()
    small, large = (mean_loss(model, images, torch.Generator().manual_seed(0), batch_size=b) for b in (7, 60))
    np.testing.assert_allclose(small, large, rtol=0.01)
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])


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
