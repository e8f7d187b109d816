"""Training many models at once against models trained one by one with nothing but plain PyTorch."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from vaes import E, generator, models, pictures, stacked

from memlib.ensemble import Ensemble, draws, flipped, perturbed
from memlib.scoring import score_images
from memlib.training import _Replayed, adam, fit, mean_loss, train_step

B, RATE = 8, 1e-3
RECORDED = [
    pytest.param("cuda", architecture, precision, 8, marks=pytest.mark.gpu)
    for architecture in ("mlp", "conv")
    for precision in ("float32", "tf32", "bfloat16")
]


def loss_by_hand(vae, y, eps):
    """The negative ELBO of one model in pixel space, summed over a batch, by torch.distributions."""
    normal = torch.distributions.Normal
    mu, log_var = vae.encoder(y)
    q = normal(mu, torch.exp(log_var / 2))
    parameters = vae.decoder(mu + q.scale * eps)
    kl = torch.distributions.kl_divergence(q, normal(0.0, 1.0)).sum()
    if len(parameters) == 1:
        return F.binary_cross_entropy_with_logits(parameters[0], y, reduction="sum") + kl
    mean, log_variance = parameters
    log_py = normal(mean, torch.exp(log_variance.expand_as(mean) / 2)).log_prob(y).sum()
    share = torch.sigmoid(y)  # 0.05 + 0.9 * x / 256 of gray values x
    jacobian = torch.log(0.9 / 256 / (share * (1 - share))).sum()  # dy/dx of the logits y
    return kl - log_py - jacobian


@pytest.mark.parametrize("steps", [3, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("kind", "one_by_one"),
    [
        (("mlp", "bernoulli", 1), False),
        (("mlp", "gaussian-scalar", 1), False),
        (("conv", "gaussian", 3), True),
        (("conv", "gaussian-scalar", 3), False),
    ],
)
def test_ensemble_equals_models_trained_one_by_one(kind, one_by_one, steps):
    singles, together = models(*kind), stacked(*kind).train()
    together._one_by_one = one_by_one
    optimizer = adam(together, RATE)
    optimizers = [torch.optim.Adam(vae.parameters(), lr=RATE) for vae in singles]
    noise = generator(2)
    for _ in range(steps):
        images = torch.randint(0, 256, (E, B, kind[-1] * 1024), dtype=torch.uint8, generator=noise)
        y = perturbed(together.likelihood, images, noise, torch.float64)
        eps = torch.randn(E, B, 4, dtype=torch.float64, generator=noise)
        losses = train_step(together, optimizer, y, eps)
        for e, (vae, alone) in enumerate(zip(singles, optimizers, strict=True)):
            alone.zero_grad()
            loss = loss_by_hand(vae.train(), y[e], eps[e])
            loss.backward()
            alone.step()
            assert losses[e].item() == pytest.approx(loss.item(), rel=1e-8)
    state, each = together.state(), [vae.state_dict() for vae in singles]
    assert set(state) == set(each[0])
    for e, own in enumerate(each):
        for name, tensor in own.items():
            # Adam's step is at most RATE / 1e-8 times an error of the gradient, here about 1e-12
            torch.testing.assert_close(torch.as_tensor(state[name][e]), tensor, rtol=1e-6, atol=1e-7)


def test_mean_loss_is_that_of_evaluation_whatever_the_batches_and_changes_nothing():
    kind = ("conv", "gaussian", 3)
    model, images, again = stacked(*kind).train(), pictures(B, 3), generator(3)
    before, expected = model.state(), np.zeros(E)
    for x in images.split(5):
        y = perturbed(model.likelihood, x.flatten(1).expand(E, -1, -1), again, torch.float64)
        eps = torch.randn(E, len(x), 4, dtype=torch.float64, generator=again)
        with torch.no_grad():
            expected += [
                loss_by_hand(vae.train(False), *own) / B
                for vae, *own in zip(models(*kind), y, eps, strict=True)
            ]
    np.testing.assert_allclose(mean_loss(model, images, generator(3), batch_size=5), expected, rtol=1e-10)
    for name, array in model.state().items():
        np.testing.assert_array_equal(array, before[name])


def settings(device="cpu", seeds=(4,), **changes):
    """Of every repeat an order and noise of its own."""
    order = [np.random.default_rng(seed) for seed in seeds]
    noise = [generator(seed, device) for seed in seeds]
    return {"epochs": [1, 2], "batch_size": 16, "flip": False, "order": order, "noise": noise} | changes


def train(model, images, sets, **options):
    """Losses by epoch and model."""
    return np.stack([loss for _, loss in fit(model, adam(model, RATE), images, sets, **options)])


@pytest.mark.parametrize(
    ("device", "architecture", "precision", "epochs"), [("cpu", "mlp", "float32", 2), *RECORDED]
)
def test_an_epoch_is_its_steps_one_after_the_other(device, architecture, precision, epochs):
    """Two repeats with their own streams, an odd last batch, scores in between; a GPU replays its steps."""
    options = {"count": 4, "dtype": torch.float32, "device": device, "precision": precision}
    model, plain = (stacked(architecture, "bernoulli", 1, **options) for _ in range(2))
    images, n, losses, done = pictures(60).to(device), 51, [], []
    given, again = (settings(device, (1, 2), epochs=range(epochs), flip=True) for _ in range(2))
    for epoch, loss in fit(model, adam(model, RATE), images, [np.arange(n)] * 4, tick=done.append, **given):
        losses.append(loss)
        if epoch % 3 == 1:
            score_images(model, images, 4, [generator(0, device)])
    assert done == [4 * 16, 4 * 16, 4 * 16, 4 * 3] * epochs

    optimizer, expected = adam(plain, RATE), np.zeros((epochs, 4))
    order, noise = again["order"], again["noise"]
    for epoch in range(epochs):
        chosen = torch.tensor(np.stack([order[e // 2].permutation(n) for e in range(4)]), device=device)
        for batch in chosen.split(16, dim=1):
            y = perturbed(plain.likelihood, flipped(images[batch], noise).flatten(2), noise)
            eps = draws(torch.randn, (*batch.shape, 4), noise)
            expected[epoch] += train_step(plain.train(), optimizer, y, eps).cpu().numpy() / n
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    state = plain.state()
    for name, array in model.state().items():
        np.testing.assert_allclose(array, state[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_steps_that_cannot_be_recorded_run_as_they_are_and_that_is_said_once(monkeypatch, caplog):
    monkeypatch.setattr(torch, "cuda", cuda := mock.MagicMock())
    cuda.graph.side_effect = RuntimeError("no kernel\nof that kind")
    seen, batches = [], [torch.zeros(2, width) for width in [3] * 6 + [1] * 6]
    advance = _Replayed(seen.append, [], torch.device("cpu"))
    for batch in batches:
        advance(batch)
    assert all(ours is theirs for ours, theirs in zip(seen, batches, strict=True))
    [said] = caplog.messages
    assert "cannot be recorded as a CUDA graph (RuntimeError: no kernel); they take longer" in said


def test_models_are_trained_on_their_own_sets_only_and_in_equal_steps():
    images, seen = pictures(7), [[], []]

    class Spy(Ensemble):
        def encode(self, y):
            for e in range(2):
                seen[e].append(y[e].detach().clone())
            return super().encode(y)

    plain = stacked("mlp", "gaussian", 1, count=2, dtype=torch.float32)
    model = Spy(plain.template, plain.params, plain.buffers)
    sets = [np.array([0, 1, 2]), np.array([3, 4, 5, 6])]
    train(model, images, sets, **settings(epochs=range(20), batch_size=2))
    used = []
    for e in range(2):
        pixels = model.likelihood.pixels(torch.cat(seen[e]), None) * 256
        distance = (pixels[:, None] - images.flatten(1) - 0.5).abs().amax(-1)
        assert (distance.min(-1).values < 0.51).all()
        used.append(distance.argmin(-1).bincount(minlength=7).tolist())
    assert used[0] == [20, 20, 20, 0, 0, 0, 0]  # every image of the smaller set once an epoch
    assert used[1][:3] == [0, 0, 0] and sum(used[1]) == 60  # the larger set leaves one out ...
    assert all(10 < count < 20 for count in used[1][3:])  # ... another one each epoch


def test_a_model_that_diverges_says_so_and_leaves_the_others_as_they_would_be():
    losses = []
    for bias in (0.0, math.inf):
        model = stacked("mlp", "bernoulli", 1, dtype=torch.float32)
        with torch.no_grad():
            model.params["decoder.trunk.4.bias"][1] = bias
        losses.append(train(model, pictures(50), [np.arange(50)] * E, **settings()))
    sound, broken = losses  # (epoch, E) each
    assert not np.isfinite(broken[:, 1]).any()
    np.testing.assert_array_equal(broken[:, [0, 2]], sound[:, [0, 2]])


def test_bfloat16_training_stays_close_to_float32_and_keeps_float32_parameters():
    losses = []
    for precision in ("float32", "bfloat16"):
        model = stacked("mlp", "bernoulli", 1, dtype=torch.float32, precision=precision)
        losses.append(train(model, pictures(50), [np.arange(50)] * E, **settings(epochs=range(4)))[-1])
        assert all(p.dtype == torch.float32 for p in model.params.values())
    assert (losses[0] != losses[1]).any()
    np.testing.assert_allclose(losses[1], losses[0], rtol=5e-4)  # losses in bfloat16 would be 2e-3 off


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_recorded_steps_train_as_steps_on_the_cpu(architecture):
    """Same order and initial weights; the noise differs between devices, so only losses are compared."""
    losses = []
    for device in ("cpu", "cuda"):
        model = stacked(architecture, "bernoulli", 1, dtype=torch.float32, device=device)
        options = settings(device, epochs=range(20), flip=True)
        losses.append(train(model, pictures(500).to(device), [np.arange(500)] * E, **options)[-1])
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.01)
