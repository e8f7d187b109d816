"""Training many models at once against models trained one by one with nothing but plain PyTorch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from vaes import E, digits, models

from memlib.ensemble import Ensemble, perturbed
from memlib.scoring import score_images
from memlib.training import adam, fit, mean_loss, negative_elbo, train_step

B, STEPS = 8, 20


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


@pytest.mark.parametrize("side_by_side", [True, False], ids=["side by side", "one by one"])
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
    options = {"epochs": [1, 2], "batch_size": 16, "flip": False}
    streams = {"order": [np.random.default_rng(3)], "noise": [torch.Generator().manual_seed(4)]}
    return options | streams | changes


def test_training_is_reproducible_and_lowers_the_loss():
    runs = []
    for _ in range(2):
        model = Ensemble.stack(models("mlp", "bernoulli", 1, dtype=torch.float32))
        sets = [np.arange(40), np.arange(10, 50), np.arange(50)[::-1][:40]]
        runs.append(
            [
                loss
                for _, loss in fit(model, adam(model, 1e-3), digits(), sets, **settings(epochs=range(1, 4)))
            ]
        )
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
    for _ in fit(model, adam(model, 1e-5), images, sets, **settings(epochs=range(1, 41), batch_size=2)):
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


def test_a_model_that_diverges_says_so_and_leaves_the_others_as_they_would_be():
    losses = []
    for broken in (False, True):
        model = Ensemble.stack(models("mlp", "bernoulli", 1, dtype=torch.float32))
        if broken:
            with torch.no_grad():
                model.params["decoder.trunk.4.bias"][1] = math.inf
        options = settings(epochs=range(1, 4))
        losses.append(
            [loss for _, loss in fit(model, adam(model, 1e-3), digits(), [np.arange(50)] * E, **options)]
        )
    sound, broken = np.stack(losses)  # (epoch, E) each
    assert not np.isfinite(broken[:, 1]).any()
    np.testing.assert_array_equal(broken[:, [0, 2]], sound[:, [0, 2]])


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


def test_a_repeat_does_not_depend_on_the_repeats_stacked_with_it():
    def train(seeds):
        generator = torch.Generator()
        stacked = [
            vae
            for seed in seeds
            for vae in models(
                "mlp", "bernoulli", 1, dtype=torch.float64, generator=generator.manual_seed(seed)
            )
        ]
        streams = {
            "order": [np.random.default_rng(seed) for seed in seeds],
            "noise": [torch.Generator().manual_seed(seed) for seed in seeds],
        }
        sets = [np.arange(40), np.arange(10, 50), np.arange(50)[::-1][:40]] * len(seeds)
        model = Ensemble.stack(stacked)
        losses = [
            loss
            for _, loss in fit(model, adam(model, 1e-3), digits(), sets, **settings(flip=True, **streams))
        ]
        return np.stack(losses), model.state()

    (losses, state), (alone, own) = train([1, 2]), train([2])
    np.testing.assert_allclose(losses[:, E:], alone, rtol=1e-12)
    for name, array in own.items():
        np.testing.assert_allclose(state[name][E:], array, rtol=1e-9, atol=1e-12, err_msg=name)


def test_the_work_done_is_reported_after_every_step():
    counts = []
    model = Ensemble.stack(models("mlp", "bernoulli", 1, dtype=torch.float32))
    list(fit(model, adam(model, 1e-3), digits(), [np.arange(50)] * E, **settings(), tick=counts.append))
    assert counts == [16 * E, 16 * E, 16 * E, 2 * E] * 2


def test_bfloat16_training_stays_close_to_float32_and_keeps_float32_parameters():
    losses = []
    for precision in ("float32", "bfloat16"):
        model = Ensemble.stack(models("mlp", "bernoulli", 1, dtype=torch.float32), precision=precision)
        *_, (_, loss) = fit(
            model, adam(model, 1e-3), digits(), [np.arange(50)] * E, **settings(epochs=range(1, 11))
        )
        losses.append(loss)
        assert all(p.dtype == torch.float32 for p in model.params.values())
    assert (losses[0] != losses[1]).any()
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_a_recorded_step_is_the_step(architecture, precision, monkeypatch):
    """Two repeats with their own streams, an odd last batch, scores in between: replayed and as they are."""
    states = []
    for recorded in (True, False):
        if not recorded:
            monkeypatch.setattr("memlib.training._Replayed", lambda step, streams, device: step)
        single = models(architecture, "bernoulli", 1, dtype=torch.float32, count=4)
        model = Ensemble.stack(single, "cuda", precision)
        images = digits(200).cuda()
        noise = [torch.Generator("cuda").manual_seed(seed) for seed in (1, 2)]
        order = [np.random.default_rng(seed) for seed in (1, 2)]
        options = settings(epochs=range(1, 9), batch_size=24, order=order, noise=noise, flip=True)
        for epoch, _ in fit(model, adam(model, 1e-3), images, [np.arange(190)] * 4, **options):
            if epoch % 3 == 0:
                score_images(model, images, 4, [torch.Generator("cuda") for _ in range(2)])
        states.append(model.state())
    for name, array in states[0].items():
        np.testing.assert_allclose(array, states[1][name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_recorded_steps_train_as_steps_on_the_cpu(architecture):
    """Same order and initial weights; the noise differs between devices, so only losses are compared."""
    losses = []
    for device in ("cpu", "cuda"):
        model = Ensemble.stack(models(architecture, "bernoulli", 1, dtype=torch.float32), device)
        noise = [torch.Generator(device).manual_seed(4)]
        images = digits(500).to(device)
        options = settings(epochs=range(1, 21), noise=noise, flip=True)
        *_, (_, loss) = fit(model, adam(model, 1e-3), images, [np.arange(500)] * E, **options)
        losses.append(loss)
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.01)
