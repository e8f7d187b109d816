"""Decoders laid out to evaluate one trained model fast on a CPU, equal to `Decoder` up to rounding."""

import torch
from torch import Tensor, nn

from memlib.models import Decoder


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
        """Whether `decoder` gives one output per pixel, and of linear layers and ReLUs alone."""
        perceptron = all(isinstance(layer, nn.Linear | nn.ReLU) for layer in decoder.trunk)
        return perceptron and decoder.outputs == 1 and decoder.log_var is None

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
