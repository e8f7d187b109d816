"""Table 1 layer by layer, and the likelihoods against independent computations."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm
from torch import nn

from memlib.models import Bernoulli, LogitGaussian, build_vae, layer_table

CONV = "Conv2d({}, {}; kernel 4, stride 2, padding 1)"
UP = "ConvT2d({}, {}; kernel 4, stride 2, padding 1)"
FIRST_UP = "ConvT2d({}, {}; kernel 2, stride 1, padding 0)"
BN, FC, LRELU, RELU = "BN({})", "FC({}, {})", "LReLU(0.2)", "ReLU"


def layers(vae, part):
    return [layer for p, _, layer, _ in layer_table(vae) if p == part and "latten" not in layer]


def test_mnist_column_of_table_1():
    vae = build_vae("mlp", "bernoulli", channels=1, latent_dim=16)
    encoder = [FC.format(1024, 512), RELU, FC.format(512, 256), RELU, FC.format(256, 16), FC.format(256, 16)]
    decoder = [FC.format(16, 256), RELU, FC.format(256, 512), RELU, FC.format(512, 1024)]
    assert layers(vae, "encoder") == encoder
    assert layers(vae, "decoder") == decoder


@pytest.mark.parametrize(
    ("likelihood", "latent_dim", "last"),
    [("gaussian", 64, 6), ("gaussian-scalar", 32, 3)],
    ids=["cifar10", "celeba"],
)
def test_convolutional_columns_of_table_1(likelihood, latent_dim, last):
    vae = build_vae("conv", likelihood, channels=3, latent_dim=latent_dim, width=32)
    encoder = [
        *(CONV.format(3, 32), LRELU),
        *(CONV.format(32, 64), BN.format(64), LRELU),
        *(CONV.format(64, 128), BN.format(128), LRELU),
        *(CONV.format(128, 256), BN.format(256), LRELU),
        *(FC.format(1024, latent_dim), FC.format(1024, latent_dim)),
    ]
    decoder = [
        *(FIRST_UP.format(latent_dim, 256), BN.format(256), RELU),
        *(UP.format(256, 128), BN.format(128), RELU),
        *(UP.format(128, 64), BN.format(64), RELU),
        *(UP.format(64, 32), BN.format(32), RELU),
        UP.format(32, last),
    ]
    assert layers(vae, "encoder") == encoder
    scalar = ["one log-variance, starts at -2"] if likelihood == "gaussian-scalar" else []
    assert layers(vae, "decoder") == decoder + scalar
    scalars = [name for name, p in vae.named_parameters() if p.ndim == 0]
    assert scalars == (["decoder.log_var"] if likelihood == "gaussian-scalar" else [])


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "gaussian-scalar"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_combination_maps_observations_to_parameters_of_their_density(
    architecture, likelihood, channels
):
    generator = torch.Generator().manual_seed(0)
    vae = build_vae(architecture, likelihood, channels=channels, latent_dim=5, width=4, generator=generator)
    D = channels * 1024
    y = torch.rand(2, D, generator=generator)
    mu, log_var = vae.encoder(y)
    assert mu.shape == log_var.shape == (2, 5)
    parameters = vae.decoder(mu)
    assert vae.likelihood.log_prob(y, *parameters).shape == (2,)
    pixels = vae.likelihood.pixels(*parameters)
    assert pixels.shape == (2, D) and 0 <= pixels.min() and pixels.max() <= 1


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
def test_initial_parameters_are_pytorchs_own(architecture):
    vae = build_vae(
        architecture,
        "gaussian",
        channels=3,
        latent_dim=4,
        width=4,
        generator=torch.Generator().manual_seed(7),
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        for layer in vae.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                ours = {name: t.clone() for name, t in layer.state_dict().items()}
                layer.reset_parameters()
                for name, tensor in layer.state_dict().items():
                    # PyTorch rounds the bound by another route, hence not bit for bit
                    torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=0)


def test_building_a_model_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    build_vae("conv", "gaussian-scalar", channels=3, latent_dim=4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_learned_variance_starts_at_its_published_value():
    vae = build_vae(
        "conv", "gaussian-scalar", channels=3, latent_dim=4, generator=torch.Generator().manual_seed(0)
    )
    _, log_var = vae.decoder(torch.zeros(2, 4))
    assert log_var.tolist() == [[-2.0], [-2.0]]


def test_log_variance_has_its_floor():
    vae = build_vae("mlp", "gaussian", channels=1, latent_dim=2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        vae.decoder.trunk[-1].bias.fill_(-30.0)
    mean, log_var = vae.decoder(torch.zeros(1, 2))
    assert log_var.eq(-7.0).all() and mean.lt(-20).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "resnet"}, "architecture is 'resnet'; allowed: 'mlp', 'conv'"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; allowed: 'bernoulli'"),
        ({"channels": 2}, "channels is 2; allowed: 1, 3"),
        ({"latent_dim": 0}, "latent_dim is 0; allowed: 1 or more"),
        ({"width": -1}, "width is -1; allowed: 1 or more"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"architecture": "mlp", "likelihood": "bernoulli", "channels": 1, "latent_dim": 2} | change
    with pytest.raises(ValueError, match=message):
        build_vae(**arguments)


def test_bernoulli_log_prob_is_the_textbook_sum():
    logits = torch.tensor([0.3, -2.0, 5.0], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    p = torch.sigmoid(logits)
    expected = math.log(p[0]) + math.log(1 - p[1]) + math.log(1 - p[2])
    assert Bernoulli().log_prob(y, logits).item() == pytest.approx(expected, rel=1e-12)


def test_bernoulli_probabilities_of_all_images_sum_to_one():
    logits = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)  # (8, 3)
    assert Bernoulli().log_prob(images, logits).exp().sum().item() == pytest.approx(1)


def test_binarization_keeps_black_and_white_and_has_the_right_rate():
    generator = torch.Generator().manual_seed(0)
    gray = torch.tensor([0, 255, 51], dtype=torch.uint8)
    y = Bernoulli().perturb(gray, torch.rand(20_000, 3, generator=generator))
    rate = y.mean(0)
    assert rate[0] == 0 and rate[1] == 1
    assert abs(rate[2] - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 20_000)


def test_gaussian_log_prob_agrees_with_scipy():
    rng = np.random.default_rng(0)
    y, mean, log_var = rng.normal(size=(3, 4, 6))
    ours = LogitGaussian().log_prob(*map(torch.tensor, (y, mean, log_var)))
    np.testing.assert_allclose(ours, norm.logpdf(y, mean, np.exp(log_var / 2)).sum(-1), rtol=1e-12)


def test_dequantized_pixels_come_back_from_logit_space():
    density = LogitGaussian()
    gray = torch.arange(256, dtype=torch.uint8)
    y = density.perturb(gray, torch.full((256,), 0.5, dtype=torch.float64))
    np.testing.assert_allclose(density.pixels(y, y) * 256 - 0.5, gray, atol=1e-9)
    assert torch.isfinite(y).all()


@pytest.mark.parametrize(("mean", "deviation"), [(0.3, 0.2), (-0.8, 0.35), (2.2, 1.5)])
def test_pixel_space_density_integrates_to_the_mass_between_black_and_white(mean, deviation):
    """That is one where the Gaussian lies inside the logits of lambda and 1 - lambda."""
    density = LogitGaussian()
    parameters = torch.tensor([mean], dtype=torch.float64), torch.tensor([2 * math.log(deviation)])

    def pixel_density(x):  # x: a gray value in [0, 256)
        y = density.perturb(torch.tensor([0.0], dtype=torch.float64), torch.tensor([x], dtype=torch.float64))
        return math.exp(density.log_prob(y, *parameters) + density.log_jacobian(y))

    edge = math.log(0.95 / 0.05)
    inside = norm.cdf(edge, mean, deviation) - norm.cdf(-edge, mean, deviation)
    total, _ = quad(pixel_density, 0, 256, limit=200)
    assert total == pytest.approx(inside, abs=1e-6)
    if deviation < 0.5:
        assert total == pytest.approx(1, abs=1e-6)


def test_jacobian_is_the_derivative_of_the_transformation():
    density = LogitGaussian()
    x = torch.tensor([3.0, 100.0, 250.0], dtype=torch.float64, requires_grad=True)
    y = density.perturb(torch.zeros(3, dtype=torch.float64), x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert density.log_jacobian(y).item() == pytest.approx(slope.log().sum().item(), rel=1e-12)
