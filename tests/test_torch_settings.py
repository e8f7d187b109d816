"""PyTorch's global settings are the caller's: they change no number of memlib's, and memlib none of them."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

import memlib
from memlib.device import own_settings
from memlib.metrics import features
from memlib.models import build_vae

DIGITS = memlib.load_images("digits", "test").subset(range(24))
EXPERIMENT = memlib.variant(
    "digits-lr3", num_images=24, folds=2, repeats=1, epochs=1, score_every=1, num_samples=22
)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def default_device(name):
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)


SETTINGS = {
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "with meta": lambda: torch.device("meta"),
    "no_grad": torch.no_grad,
    "set_grad_enabled": lambda: torch.set_grad_enabled(False),
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


def state():
    return (
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
    )


def run(folder):
    result = memlib.run(EXPERIMENT, root=folder, progress=False)
    bounds = memlib.certify(
        result, EXPERIMENT.load_images(), count=1, chains=2, temperatures=2, progress=False, device="cpu"
    )
    [vae] = memlib.full_model(result, "cpu").unstack()
    return (
        result.log_px.values,
        bounds.log_px.values,
        bounds.lower.values,
        vae.decoder.trunk[0].weight.detach(),
    )


def latent(proposal):
    def encoder(x):
        return Normal(torch.zeros(len(x), 2), torch.ones(2))

    def decoder(z):
        return Bernoulli(logits=z.sum(-1).reshape(-1, 1, 1, 1) * torch.ones(1, 32, 32))

    def prepare(levels):
        return (levels / 255 > torch.rand(levels.shape)).float()

    model = memlib.LatentModel(encoder, decoder, 22, prepare=prepare, proposal=proposal)
    one = memlib.score_models([[model, model]], [[0, 1] * 12], DIGITS, progress=False)
    return model.log_prob(DIGITS), one.log_px.values


def of_features(folder):
    network = features.train_classifier(DIGITS, 4, steps=2)
    return features.extract(network[:-1], DIGITS.images), features.pixels(DIGITS.images)


def of_models(folder):
    vae = build_vae("conv", "gaussian", channels=1, latent_dim=2, width=2, generator=torch.Generator())
    return [p.detach() for p in vae.parameters()]


CALLS = {
    "run": run,
    "fitted": lambda folder: latent("fitted"),
    "encoder": lambda folder: latent("encoder"),
    "features": of_features,
    "models": of_models,
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return {name: call(tmp_path_factory.mktemp(name)) for name, call in CALLS.items()}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", CALLS)
def test_settings_of_the_caller_change_no_number_and_stay(name, setting, usual, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMLIB_DEVICE", "cpu")
    with SETTINGS[setting]():
        before = state()
        found = CALLS[name](tmp_path)
        assert state() == before
    for one, other in zip(found, usual[name], strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
        assert one.dtype == other.dtype


def test_settings_are_back_after_an_error():
    with default_dtype(torch.float64), default_device("meta"), torch.no_grad():
        before = state()
        with pytest.raises(ValueError), own_settings():
            assert state() == (torch.float32, torch.device("cpu"), True, False, False)
            raise ValueError
        assert state() == before


def test_what_trains_has_the_settings_of_its_caller():
    """Whoever trains in float64 may go on to do so."""
    seen = []

    class Model:
        def log_prob(self, images):
            seen.append(torch.get_default_dtype())
            return torch.zeros(len(images))

    def train(images, seed):
        seen.append(nn.Linear(1, 1).weight.dtype)
        return Model()

    with default_dtype(torch.float64):
        memlib.cross_fit(train, DIGITS, 2, 1, progress=False)
    assert seen == [torch.float64] * 4
