"""Many models as one: parameters stacked along a leading model axis E, and what they see and show.

Linear layers of all models are one batched product. Convolutions run through `torch.func.vmap`, or on a CPU
one model after the other. Every model has its own observations, noise and batch-norm statistics.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from memlib.decoding import folded
from memlib.device import check_precision, own_settings, products
from memlib.experiment import Precision
from memlib.models import SIDE, VAE, Likelihood

Tick = Callable[[int], object]  # is told how many image-model pairs have been done since the last call


@dataclass
class Ensemble:
    """E models of one architecture.

    Attributes:
        template: the architecture, on the meta device: without values. Its mode is that of all models.
        params: parameters by name, each (E, ...), leaves that require gradients. Weights of linear layers are
            transposed, (E, in, out): so products, their gradients and Adam need no copies.
        buffers: batch-norm statistics by name, each (E, ...).
        precision: of products and convolutions in training, and in `memlib.scoring.score_images`.
    """

    template: VAE
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        check_precision(self.precision, self.device)
        self._transposed = _linear_weights(self.template)
        self._convolutional = any(isinstance(m, nn.Conv2d) for m in self.template.modules())
        # vmap turns convolutions into grouped ones, which take two to three times as long on a CPU
        self._one_by_one = self.device.type == "cpu"

    @classmethod
    def stack(
        cls, models: Sequence[VAE], device: torch.device | str = "cpu", precision: Precision = "float32"
    ) -> "Ensemble":
        """Stack models of one architecture; they are copied to `device`, and stay as they are."""
        params, buffers = stack_module_state(list(models))
        state = {name: tensor.detach().cpu().numpy() for name, tensor in (params | buffers).items()}
        return cls.from_state(models[0], state, device, precision)

    @classmethod
    def from_state(
        cls,
        template: VAE,
        state: dict[str, NDArray],
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
    ) -> "Ensemble":
        """The ensemble whose `state()` was stored; of `template` only the architecture counts."""
        template = copy.deepcopy(template).to("meta")
        transposed, params = _linear_weights(template), {}
        tensors = {name: torch.tensor(array, device=device) for name, array in state.items()}
        for name, _ in template.named_parameters():
            p = tensors[name].mT if name in transposed else tensors[name]
            params[name] = p.contiguous().requires_grad_()
        buffers = {name: tensors[name] for name, _ in template.named_buffers()}
        return cls(template, params, buffers, precision)

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    @property
    def likelihood(self) -> Likelihood:
        return self.template.likelihood

    @property
    def latent_dim(self) -> int:
        return self.template.encoder.mean.out_features

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.params.values())).dtype

    def part(self, models: slice) -> "Ensemble":
        """Some of the models, as views; to be evaluated, not trained."""
        params = {name: p.detach()[models] for name, p in self.params.items()}
        buffers = {name: b[models] for name, b in self.buffers.items()}
        return Ensemble(self.template, params, buffers, self.precision)

    def train(self, mode: bool = True) -> "Ensemble":
        """Let batch norm use and track the batch's statistics; with False it uses the tracked ones."""
        self.template.train(mode)
        return self

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (E, B, Z), from observations (E, B, D)."""
        mean, log_var = self._call("encoder", y)
        return mean.to(y.dtype), log_var.to(y.dtype)

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Parameters of p(x | z), tensors that broadcast to (E, B, D), from latent variables (E, B, Z)."""
        return self._call("decoder", z)

    def _named(self) -> dict[str, Tensor]:
        """Parameters and buffers by name in PyTorch's layout, as views."""
        params = {name: p.mT if name in self._transposed else p for name, p in self.params.items()}
        return params | self.buffers

    def _call(self, part: str, inputs: Tensor) -> tuple[Tensor, ...]:
        module, prefix = getattr(self.template, part), f"{part}."
        tensors = {
            name.removeprefix(prefix): t for name, t in self._named().items() if name.startswith(prefix)
        }

        def call(p: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
            return functional_call(module, p, (x,))

        if not self._convolutional:
            return call(tensors, inputs)
        if not self._one_by_one:
            return vmap(call)(tensors, inputs)
        # unbind gives views: batch norm updates the stacked statistics through them
        columns = {name: t.unbind() for name, t in tensors.items()}
        each = [call({name: t[e] for name, t in columns.items()}, x) for e, x in enumerate(inputs)]
        return tuple(map(torch.stack, zip(*each, strict=True)))

    @torch.no_grad()
    def unstack(self) -> list[VAE]:
        """Every model by itself in evaluation mode, laid out for fast decoding at the ensemble's precision.

        Without convolutions and at float32 they share the ensemble's memory.
        """
        models = []
        for e in range(len(self)):
            vae = copy.deepcopy(self.template).train(False)
            vae.load_state_dict({name: t[e].detach() for name, t in self._named().items()}, assign=True)
            vae.decoder.trunk = folded(vae.decoder.trunk)
            for layer in vae.modules():
                convolution = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
                if convolution:
                    layer.to(memory_format=torch.channels_last)
                if self.precision == "bfloat16" and (convolution or isinstance(layer, nn.Linear)):
                    layer.bfloat16()
            models.append(vae)
        return models

    def state(self) -> dict[str, NDArray]:
        """All parameters and buffers by name as NumPy arrays (E, ...), in PyTorch's layout."""
        return {name: t.detach().cpu().contiguous().numpy() for name, t in self._named().items()}


def _linear_weights(template: VAE) -> set[str]:
    """Names of the parameters that an ensemble keeps transposed."""
    return {f"{name}.weight" for name, m in template.named_modules() if isinstance(m, nn.Linear)}


Streams = torch.Generator | Sequence[torch.Generator]


def draws(
    draw: Callable[..., Tensor],
    shape: Sequence[int],
    streams: Streams,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Random numbers (E, ...) for the models of several repeats, each repeat's from a stream of its own.

    Args:
        draw: torch.rand or torch.randn.
        shape: (E, ...); E is a multiple of the number of streams, and the models are sorted by repeat.
        streams: one generator per repeat, on the device of the result; or a single one.
        dtype: of the result.
    """
    generators = [streams] if isinstance(streams, torch.Generator) else streams
    count = shape[0] // len(generators)
    parts = [draw((count, *shape[1:]), generator=g, device=g.device, dtype=dtype) for g in generators]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def perturbed(
    likelihood: Likelihood,
    images: Tensor,
    streams: Streams,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Binarize or dequantize gray values (E, ..., D) anew; arguments as those of `draws`."""
    return likelihood.perturb(images, draws(torch.rand, images.shape, streams, dtype))


def flipped(images: Tensor, streams: Streams) -> Tensor:
    """Mirror each image (E, ..., C, H, W) left to right with probability one half; see `draws`."""
    coin = draws(torch.rand, images.shape[:-3], streams) < 0.5
    return torch.where(coin[..., None, None, None], images.flip(-1), images)


@own_settings()
@torch.no_grad()
def sample(
    model: Ensemble, count: int, channels: int, generator: torch.Generator, batch_size: int = 512
) -> NDArray[np.uint8]:
    """Images at the decoder's mean for latent variables drawn from the prior, as in the paper's code.

    Returns:
        uint8 (E, count, C, 32, 32).
    """
    model.train(False)
    blocks = []
    for start in range(0, count, batch_size):
        shape = len(model), min(batch_size, count - start), model.latent_dim
        z = draws(torch.randn, shape, generator, model.dtype)
        with products("float32", model.device):
            pixels = model.likelihood.pixels(*model.decode(z))
        blocks.append((pixels * 255).round().to(torch.uint8))
    images = torch.cat(blocks, dim=1).unflatten(-1, (channels, SIDE, SIDE))  # (E, count, D) -> (..., C, H, W)
    return images.cpu().numpy()
