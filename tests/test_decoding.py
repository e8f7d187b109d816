"""The decoder that leaves out hidden units against the plain one."""

import pytest
import torch
from vaes import models

from memlib.decoding import PerceptronDecoder
from memlib.models import build_vae


def decoder(dead, seed=0):
    """A decoder whose first hidden units are `dead` by bias, others alive for some samples."""
    generator = torch.Generator().manual_seed(seed)
    vae = build_vae("mlp", "bernoulli", channels=1, latent_dim=4, generator=generator).double()
    with torch.no_grad():
        for layer in (vae.decoder.trunk[0], vae.decoder.trunk[2]):
            layer.bias[: int(dead * len(layer.bias))] = -100
    return vae.decoder


@torch.no_grad()
@pytest.mark.parametrize("dead", [0, 0.5, 1])
@pytest.mark.parametrize("rows", [1, 7, 20, 64])
def test_leaving_out_units_that_are_off_changes_nothing(dead, rows):
    plain = decoder(dead)
    z = torch.randn(20, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fast = PerceptronDecoder(plain)
    for points in (z, z[:13], z):
        torch.testing.assert_close(fast(points, rows), plain(points)[0])


@torch.no_grad()
def test_units_that_are_on_in_a_single_sample_count():
    """The case that must fail if a unit were judged by another sample than those of its block."""
    plain = decoder(0)
    plain.trunk[0].weight.zero_()
    plain.trunk[0].weight[:, 0] = 1
    plain.trunk[0].bias.zero_()
    z = torch.full((6, 4), -1.0, dtype=torch.float64)
    z[4] = 3  # every hidden unit of the first layer is on here only
    result = PerceptronDecoder(plain)(z, 6)
    torch.testing.assert_close(result, plain(z)[0])
    assert (result[4] != result[3]).any()


@pytest.mark.parametrize(
    ("architecture", "likelihood", "taken"),
    [
        ("mlp", "bernoulli", True),
        ("mlp", "gaussian", False),
        ("mlp", "gaussian-scalar", False),
        ("conv", "bernoulli", False),
    ],
)
def test_only_perceptrons_with_one_output_are_taken(architecture, likelihood, taken):
    assert PerceptronDecoder.takes(models(architecture, likelihood, 1)[0].decoder) == taken
