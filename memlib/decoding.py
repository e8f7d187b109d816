"""Decoders laid out to evaluate one trained model fast, equal to `Decoder` up to rounding."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from memlib.models import Decoder

DENSE = 2  # side of an image, up to which a transposed convolution takes longer than a dense layer
FEWEST_SAMPLES = 256  # of an image, from which on it pays to leave out hidden units that are off


@torch.no_grad()
def folded(trunk: nn.Module) -> nn.Module:
    """A decoder's trunk for evaluation: without batch norms, and dense where its images are small.

    Batch norm goes into the weights of the convolution before it. Transposed convolutions of images of 1 x 1
    and 2 x 2, for which CPUs have no fast kernels, become dense layers, the second of 2048 F^2 weights.
    A trunk without convolutions is returned as it is.

    Args:
        trunk: of a decoder of `build_vae`, in evaluation mode.

    Returns:
        The same function up to rounding, differentiable as before.
    """
    if not any(isinstance(layer, nn.ConvTranspose2d) for layer in trunk):
        return trunk
    layers, side = [], 1
    for layer, following in itertools.pairwise([*trunk, None]):
        if isinstance(layer, nn.ConvTranspose2d):
            if isinstance(following, nn.BatchNorm2d):
                layer = fuse_conv_bn_eval(layer, following, transpose=True)
            if side == 2 * DENSE:
                layers.append(nn.Unflatten(-1, (layer.in_channels, side, side)))
            layers.append(_dense(layer, side) if side <= DENSE else layer)
            side *= 2
        elif not isinstance(layer, nn.Unflatten | nn.BatchNorm2d):
            layers.append(layer)
    return nn.Sequential(*layers)


def _dense(layer: nn.ConvTranspose2d, side: int) -> nn.Linear:
    """The transposed convolution of flat images of that side."""
    unit = torch.eye(layer.in_channels * side**2, dtype=layer.weight.dtype, device=layer.weight.device)
    images = unit.unflatten(1, (layer.in_channels, side, side))
    out = F.conv_transpose2d(images, layer.weight, stride=layer.stride, padding=layer.padding)
    linear = nn.Linear(*out.flatten(1).shape, device="meta")
    linear.weight = nn.Parameter(out.flatten(1).t().contiguous())
    linear.bias = nn.Parameter(layer.bias.repeat_interleave(out[0, 0].numel()))
    return linear


class PerceptronDecoder:
    """A decoder of linear layers and ReLUs.

    The samples of one image lie close together in latent space. Hidden units that a ReLU leaves off in all of
    them, a few early in training and about half late, contribute nothing to the next layer and are left out
    of its product: exact, up to the order of summation.

    Hidden layers are held transposed, (units, rows), with a last unit that is always 1, whose weight is the
    bias: so selecting units copies whole rows.

    Args:
        decoder: one that it `takes`.
        rows: samples that belong together, those of an image.
    """

    def __init__(self, decoder: Decoder, rows: int):
        self._rows = rows
        layers = [layer for layer in decoder.trunk if isinstance(layer, nn.Linear)]
        self._weights = [torch.cat([m.weight.t(), m.bias[None]]).contiguous() for m in layers]  # (I + 1, O)
        self._buffers: dict[str, Tensor] = {}

    @staticmethod
    def takes(decoder: Decoder) -> bool:
        """Whether `decoder` gives one output per pixel, and of linear layers and ReLUs alone.

        Not at bfloat16, whose products take less time than to look for the units.
        """
        perceptron = all(isinstance(layer, nn.Linear | nn.ReLU) for layer in decoder.trunk)
        if not perceptron or decoder.outputs > 1 or decoder.log_var is not None:
            return False
        return decoder.trunk[0].weight.dtype != torch.bfloat16

    def __call__(self, z: Tensor) -> tuple[Tensor]:
        """Decode z (R, Z) to (R, D), in memory that the next call overwrites."""
        out = self._memory("out", len(z), self._weights[-1].shape[1])
        for block, result in zip(z.to(out.dtype).split(self._rows), out.split(self._rows), strict=True):
            h = torch.cat([block.t(), block.new_ones(1, len(block))])  # (Z + 1, rows)
            weight = self._weights[0]
            for depth, following in enumerate(self._weights[1:]):
                units = self._memory(f"units {depth}", weight.shape[1] + 1, len(block))
                torch.mm(weight.t(), h, out=units[:-1])
                units[-1] = 1
                on = (units.amax(1) > 0).nonzero().squeeze(1)
                h = self._selected(f"on {depth}", units, on).relu_()
                weight = self._selected(f"weight {depth}", following, on)
            torch.mm(h.t(), weight, out=result)
        return (out,)

    def _selected(self, name: str, matrix: Tensor, rows: Tensor) -> Tensor:
        selected = self._memory(name, len(matrix), matrix.shape[1])[: len(rows)]
        return torch.index_select(matrix, 0, rows, out=selected)

    def _memory(self, name: str, *shape: int) -> Tensor:
        """The matrix of that name: made once, since fresh memory costs as much as the work in it."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != shape:
            buffer = self._buffers[name] = self._weights[0].new_empty(shape)
        return buffer
