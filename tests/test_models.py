"""Table 1 layer by layer, and the likelihoods against independent computations."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from memlib.models import Bernoulli, LogitGaussian, build_vae

HALF = "kernel_size=(4, 4), stride=(2, 2), padding=(1, 1), bias=False"
CONV, UP = f"Conv2d({{}}, {{}}, {HALF})", f"ConvTranspose2d({{}}, {{}}, {HALF})"
FIRST_UP = "ConvTranspose2d({}, {}, kernel_size=(2, 2), stride=(1, 1), bias=False)"
BN, FC = "BatchNorm2d({}, eps", "Linear(in_features={}, out_features={}, bias=True)"
LRELU, RELU = "LeakyReLU(negative_slope=0.2)", "ReLU()"


def check_layers(part, *expected):
    """Layers in order of use, but for those that only change shapes, begin as expected."""
    leaves = [str(layer) for layer in part.modules() if not [*layer.children()]]
    used = [layer for layer in leaves if "latten" not in layer]
    assert all(layer.startswith(start) for layer, start in zip(used, expected, strict=True)), used


def test_mnist_column_of_table_1():
    vae = build_vae("mlp", "bernoulli", channels=1, latent_dim=16)
    head = FC.format(256, 16)
    check_layers(vae.encoder, FC.format(1024, 512), RELU, FC.format(512, 256), RELU, head, head)
    check_layers(vae.decoder, FC.format(16, 256), RELU, FC.format(256, 512), RELU, FC.format(512, 1024))


@pytest.mark.parametrize(
    ("likelihood", "latent_dim", "last"),
    [("gaussian", 64, 6), ("gaussian-scalar", 32, 3)],
    ids=["cifar10", "celeba"],
)
def test_convolutional_columns_of_table_1(likelihood, latent_dim, last):
    vae = build_vae("conv", likelihood, channels=3, latent_dim=latent_dim, width=32)
    check_layers(
        vae.encoder,
        *(CONV.format(3, 32), LRELU),
        *(CONV.format(32, 64), BN.format(64), LRELU),
        *(CONV.format(64, 128), BN.format(128), LRELU),
        *(CONV.format(128, 256), BN.format(256), LRELU),
        *(FC.format(1024, latent_dim), FC.format(1024, latent_dim)),
    )
    check_layers(
        vae.decoder,
        *(FIRST_UP.format(latent_dim, 256), BN.format(256), RELU),
        *(UP.format(256, 128), BN.format(128), RELU),
        *(UP.format(128, 64), BN.format(64), RELU),
        *(UP.format(64, 32), BN.format(32), RELU),
        UP.format(32, last),
    )
    scalars = [name for name, p in vae.named_parameters() if p.ndim == 0]
    assert scalars == (["decoder.log_var"] if likelihood == "gaussian-scalar" else [])


def test_initial_parameters_are_pytorchs_own_and_leave_the_global_generator_alone():
    before, seven = torch.get_rng_state(), torch.Generator().manual_seed(7)
    vae = build_vae("conv", "gaussian-scalar", channels=3, latent_dim=4, width=4, generator=seven)
    assert torch.equal(before, torch.get_rng_state())
    assert vae.decoder.log_var == -2, "as published"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for layer in vae.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                ours = {name: t.clone() for name, t in layer.state_dict().items()}
                layer.reset_parameters()
                for name, tensor in layer.state_dict().items():
                    # PyTorch rounds the bounds, which are below 1, by another route
                    torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-7)


def test_log_variance_has_its_floor():
    vae = build_vae("mlp", "gaussian", channels=1, latent_dim=2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vae.decoder.trunk[-1].bias.fill_(-30.0)
    mean, log_var = vae.decoder(torch.zeros(1, 2))
    assert log_var.eq(-7.0).all() and mean.lt(-20).all()


@pytest.mark.parametrize("D", [3, 48])
@pytest.mark.parametrize("differentiable", [False, True])
def test_bernoulli_log_prob_is_the_textbook_sum(D, differentiable):
    """In either form, also where probabilities are all but 0 and 1, and terms do not pair up."""
    y = np.arange(D) % 2
    for logits in (np.linspace(-800, 900, D), np.linspace(-8, 9, D)):
        expected = -(y * np.logaddexp(0, -logits) + (1 - y) * np.logaddexp(0, logits)).sum()
        given = torch.tensor(logits, requires_grad=differentiable)
        found = Bernoulli().log_prob(torch.tensor(y, dtype=torch.float64), given)
        assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("density", [Bernoulli(), LogitGaussian()])
def test_gradients_are_those_of_log_prob(density):
    draw = torch.Generator().manual_seed(0)
    parameters = [8 * torch.randn(5, 12, generator=draw, dtype=torch.float64) for _ in range(density.outputs)]
    y = (torch.rand(5, 12, generator=draw) < 0.5).double()
    traced = [p.clone().requires_grad_() for p in parameters]
    expected = torch.autograd.grad(density.log_prob(y, *traced).sum(), traced)
    torch.testing.assert_close(density.gradient(y, *parameters), expected)


def test_binarization_keeps_black_and_white_and_has_the_right_rate():
    generator = torch.Generator().manual_seed(0)
    gray = torch.tensor([0, 255, 51], dtype=torch.uint8)
    y = Bernoulli().perturb(gray, torch.rand(20_000, 3, generator=generator))
    rate = y.mean(0)
    assert rate[0] == 0 and rate[1] == 1
    assert abs(rate[2] - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)


def test_dequantized_pixels_come_back_from_logit_space_and_stay_between_black_and_white():
    density = LogitGaussian()
    gray = torch.arange(256, dtype=torch.uint8)
    y = density.perturb(gray, torch.full((256,), 0.5, dtype=torch.float64))
    np.testing.assert_allclose(density.pixels(y, y) * 256 - 0.5, gray, atol=1e-9)
    far = torch.tensor([-9.0, 9.0])
    assert density.pixels(far, far).tolist() == [0, 1]


def test_pixel_space_density_integrates_to_the_mass_between_black_and_white():
    """Of a Gaussian that reaches beyond the logits of lambda and 1 - lambda."""
    density, mean, deviation = LogitGaussian(), 2.2, 1.5
    parameters = torch.tensor([[mean], [2 * math.log(deviation)]], dtype=torch.float64)

    def pixel_density(x):  # x: a gray value in [0, 256)
        y = density.perturb(torch.tensor([0.0], dtype=torch.float64), torch.tensor([x], dtype=torch.float64))
        return math.exp(density.log_prob(y, *parameters) + density.log_jacobian(y))

    edge = math.log(0.95 / 0.05)
    inside = norm.cdf(edge, mean, deviation) - norm.cdf(-edge, mean, deviation)
    total, _ = quad(pixel_density, 0, 256, limit=200)
    assert total == pytest.approx(inside, abs=1e-6)
