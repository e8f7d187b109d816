"""Decoders for evaluation beside the plain ones."""

import pytest
import torch
from vaes import generator, models

from memlib.decoding import PerceptronDecoder


@torch.no_grad()
@pytest.mark.parametrize(("dead", "rows"), [(0.5, 7), (1, 64)])
def test_leaving_out_units_that_are_off_changes_nothing(dead, rows):
    plain = models("mlp", "bernoulli", 1)[0].decoder
    for layer in (plain.trunk[0], plain.trunk[2]):
        layer.bias[: int(dead * len(layer.bias))] = -100  # of the others some are on for some samples
    z = torch.randn(20, 4, generator=generator(1), dtype=torch.float64)
    assert PerceptronDecoder.takes(plain)
    fast = PerceptronDecoder(plain, rows)
    for points in (z, z[:13], z):
        torch.testing.assert_close(fast(points), plain(points))


@pytest.mark.parametrize("kind", [("mlp", "gaussian"), ("mlp", "gaussian-scalar"), ("conv", "bernoulli")])
def test_decoders_of_more_than_one_output_or_other_layers_are_not_taken(kind):
    assert not PerceptronDecoder.takes(models(*kind, 1)[0].decoder)


@torch.no_grad()
def test_units_that_are_on_in_a_single_sample_count():
    """The case that must fail if a unit were judged by another sample than those of its block."""
    plain = models("mlp", "bernoulli", 1)[0].decoder
    plain.trunk[0].weight.zero_()
    plain.trunk[0].weight[:, 0] = 1
    plain.trunk[0].bias.zero_()
    z = torch.full((6, 4), -1.0, dtype=torch.float64)
    z[4] = 3  # every hidden unit of the first layer is on here only
    [result] = PerceptronDecoder(plain, 6)(z)
    torch.testing.assert_close(result, plain(z)[0])
    assert (result[4] != result[3]).any()
