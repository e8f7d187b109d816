"""Decoders for evaluation beside the plain ones."""

import pytest
import torch
from torch import nn
from vaes import KINDS, generator, models, stacked

from memlib.decoding import PerceptronDecoder, folded

CONVOLUTIONAL = [("conv", "gaussian", 3), ("conv", "gaussian-scalar", 3), ("conv", "bernoulli", 1)]


def evaluated(decoder, z):
    """Parameters of p(x | z), and the gradient of the sum of their squares."""
    z = z.clone().requires_grad_()
    parameters = decoder(z)
    [gradient] = torch.autograd.grad(sum(p.square().sum() for p in parameters), z)
    return [*parameters, gradient]


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_a_folded_decoder_and_its_gradient_are_those_of_the_decoder(kind):
    decoder = models(*kind, 1)[0].train(False).decoder
    z = torch.randn(7, 4, generator=generator(1), dtype=torch.float64)
    expected = evaluated(decoder, z)
    decoder.trunk = folded(decoder.trunk)
    counts = [sum(isinstance(m, kind) for m in decoder.trunk) for kind in (nn.BatchNorm2d, nn.Linear)]
    assert counts == [0, 2]
    torch.testing.assert_close(evaluated(decoder, z), expected)


@torch.no_grad()
@pytest.mark.parametrize("kind", [*KINDS, CONVOLUTIONAL[1]])
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("bfloat16", 0.05)])
def test_models_by_themselves_decode_as_they_do_together(kind, precision, tolerance):
    together = stacked(*kind, dtype=torch.float32).train(False)
    alone = stacked(*kind, dtype=torch.float32, precision=precision).unstack()
    z = torch.randn(3, 7, 4, generator=generator(1))
    with torch.autocast("cpu", enabled=precision == "bfloat16"):
        each = [vae.decoder(z[e]) for e, vae in enumerate(alone)]
    for expected, *found in zip(together.decode(z), *each, strict=True):
        torch.testing.assert_close(torch.stack(found).float(), expected, rtol=0, atol=tolerance)


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
