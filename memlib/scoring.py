"""Importance-sampled log p(x) with its diagnostics, in tiles so that memory stays bounded."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from memlib.checks import check_range
from memlib.device import products
from memlib.ensemble import Ensemble, Streams, Tick, draws, perturbed
from memlib.models import VAE, Decoder, Likelihood
from memlib.psis import khat_threshold, pareto_k

# Decoder outputs (E * B * S * D) held at once: in float32 1 MiB, half of one core's second-level cache.
TILE = 2**18
DEVICE_TILE = 2**27  # the same on a GPU: 512 MiB
FEWEST_SAMPLES = 64  # of an image on a CPU, from which on it pays to leave out hidden units that are off
BATCH = 512  # images of which noise is drawn at once, at most
NOISE = 2**22  # latent noise (K * B * S * Z) of a repeat drawn at once; another value gives other scores


class LatentVariableModel(Protocol):
    """What can be scored: E models with Gaussian proposals; `memlib.ensemble.Ensemble` is one."""

    likelihood: Likelihood

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]: ...
    def decode(self, z: Tensor) -> tuple[Tensor, ...]: ...


class LogProb(NamedTuple):
    r"""An importance-sampling estimate and its health, each (E, B).

    `ess` is Kong's effective sample size $(\sum_s w_s)^2 / \sum_s w_s^2$, between 1 and S. Where all weights
    are zero (`log_px` is minus infinity) the quotient is 0 / 0, and `ess` is 1. `khat` is the Pareto k-hat of
    the weights, see `memlib.psis`. `num_samples`, int64, is the number behind the three.
    """

    log_px: Tensor
    ess: Tensor
    khat: Tensor
    num_samples: Tensor


def standard_error(ess: Tensor, num_samples: int) -> Tensor:
    r"""Standard error of log p(x) in nats by the delta method, $\sqrt{1 / \mathrm{ESS} - 1 / S}$.

    Args:
        ess: effective sample size, any shape (tensor or array).
        num_samples: S, the number of samples behind it; for a single one the result is NaN.

    Source: Kong (1992); first order, too small where ESS is a few samples only.
    """
    error = (1 / ess - 1 / num_samples).clip(min=0) ** 0.5
    return error if num_samples > 1 else error * math.nan


@functools.cache
def compiled_log_prob(likelihood: Likelihood) -> Callable[..., Tensor]:
    """`likelihood.log_prob` as one kernel that reads each decoder output once."""
    return torch.compile(likelihood.log_prob)


def _log_weights(
    model: LatentVariableModel, y: Tensor, eps: Tensor, log_prob: Callable[..., Tensor]
) -> Tensor:
    """log p(y | z) + log p(z) - log q(z | y), (E, B, S), at z = mu + sigma * eps, with eps (E, B, S, Z)."""
    mu, log_var = (t[:, :, None] for t in model.encode(y))
    z = mu + torch.exp(0.5 * log_var) * eps
    # the constants of the prior and of q cancel
    log_w = 0.5 * (eps.square() - z.square() + log_var).sum(-1)
    E, B, S = log_w.shape
    tile = TILE if y.device.type == "cpu" else DEVICE_TILE
    rows = max(1, tile // (E * y.shape[-1]))
    images, samples = max(1, rows // S), min(rows, S)
    for b in range(0, B, images):
        for s in range(0, S, samples):
            part = z[:, b : b + images, s : s + samples]
            shape = part.shape[1:3]
            parameters = model.decode(part.flatten(1, 2))  # (E, B * S, D)
            log_pxz = log_prob(y[:, b : b + images, None], *(p.unflatten(1, shape) for p in parameters))
            log_w[:, b : b + images, s : s + samples] += log_pxz
    return log_w


def summary(log_w: Tensor) -> LogProb:
    """The estimate and its health, each (...), from logarithms of importance weights, (..., S)."""
    # finite, so that weights of zero stay zero instead of NaN
    top = log_w.amax(-1).clamp(min=torch.finfo(log_w.dtype).min)
    w = torch.exp(log_w - top[..., None])
    total, squares = w.sum(-1), w.square().sum(-1)
    ess = torch.where(total == 0, torch.ones_like(total), total.square() / squares)
    S = log_w.shape[-1]
    num_samples = torch.full(total.shape, S, device=total.device)
    return LogProb(top + total.log() - math.log(S), ess, pareto_k(log_w).to(total.dtype), num_samples)


@torch.no_grad()
def log_px(model: LatentVariableModel, y: Tensor, num_samples: int, generator: torch.Generator) -> LogProb:
    r"""Log marginal probability of perturbed observations by importance sampling from the encoder.

    $$\log p(y) \approx \log \frac{1}{S} \sum_{s=1}^S \frac{p(y \mid z_s)\, p(z_s)}{q(z_s \mid y)}, \qquad
    z_s \sim q(z \mid y)$$

    Args:
        model: E models.
        y: observations, (E, B, D).
        num_samples: S >= 1.
        generator: draws the samples; on the model's device.

    Returns:
        `log_px` in nats (of the density in logit space, where the likelihood lives there) and its health.

    Raises:
        ValueError: S < 1.

    Source: supplement, eq. (9).
    """
    check_range(1, num_samples=num_samples)
    with products("float32", y.device):
        Z = model.encode(y[:, :1])[0].shape[-1]
        eps = draws(torch.randn, (*y.shape[:2], num_samples, Z), generator, y.dtype)
        return summary(_log_weights(model, y, eps, model.likelihood.log_prob))


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


class _One:
    """A plain model on a CPU as an ensemble of one."""

    def __init__(self, vae: VAE, num_samples: int):
        self._encoder, self._decoder, self.likelihood = vae.encoder, vae.decoder, vae.likelihood
        if num_samples >= FEWEST_SAMPLES and PerceptronDecoder.takes(vae.decoder):
            self._decoder = PerceptronDecoder(vae.decoder, num_samples)

    def encode(self, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[None].to(y.dtype) for t in self._encoder(y[0]))

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[None] for t in self._decoder(z[0]))


def _members(model: Ensemble, num_samples: int) -> Sequence[LatentVariableModel]:
    """Models ready to weigh samples: on a CPU one after the other, so that a tile stays in the cache."""
    on_cpu = model.device.type == "cpu"
    return [_One(vae, num_samples) for vae in model.unstack()] if on_cpu else [model]


@torch.no_grad()
def score_images(
    model: Ensemble,
    images: Tensor,
    num_samples: int,
    noise: Streams,
    compiled: bool = False,
    tick: Tick | None = None,
    paired: bool = False,
    rescoring: int = 1,
) -> LogProb:
    """Score every image under every model, in pixel space; binarized or dequantized anew.

    Args:
        model: E models, of one or several repeats, sorted by repeat; put into evaluation mode.
        images: uint8 (n, C, H, W) on the model's device.
        num_samples: S >= 1.
        noise: of every repeat, draws noise and samples; on the model's device.
        compiled: fuse what follows the decoder into one kernel; same result up to rounding.
        tick: called after every batch of images.
        paired: show the same version of an image to all models of a repeat, with the same latent noise;
            otherwise each has noise of its own.
        rescoring: at least 1; where k-hat of any model of a repeat is above `khat_threshold`, all models of
            that repeat get samples for the image until each has this many times S.

    Returns:
        `log_px` in nats and its health, each (E, n).

    Raises:
        ValueError: S < 1 or `rescoring` < 1.
    """
    check_range(1, num_samples=num_samples, rescoring=rescoring)
    model.train(False)
    streams = [noise] if isinstance(noise, torch.Generator) else noise
    likelihood, Z, K = model.likelihood, model.latent_dim, len(model) // len(streams)
    log_prob = compiled_log_prob(likelihood) if compiled else likelihood.log_prob
    extra = (rescoring - 1) * num_samples

    def log_weights(members: Sequence[LatentVariableModel], y: Tensor, eps: Tensor) -> Tensor:  # (K, B, S)
        own = zip(members, y.chunk(len(members)), eps.chunk(len(members)), strict=True)
        with products(model.precision, y.device):
            return torch.cat([_log_weights(*one, log_prob) for one in own])

    def scored(members: Sequence[LatentVariableModel], x: Tensor, stream: torch.Generator) -> LogProb:
        y = perturbed(likelihood, x.flatten(1).expand(K, -1, -1), stream, model.dtype, paired)  # (K, B, D)
        eps = draws(torch.randn, (K, len(x), num_samples, Z), stream, model.dtype, paired)
        log_w = log_weights(members, y, eps)
        result = summary(log_w)
        if extra:
            failing = (result.khat > khat_threshold(num_samples)).any(0).nonzero().squeeze(1)
            fork = _fork(stream)
            for chosen in failing.split(_images_at_once(K * extra * Z)):
                eps = draws(torch.randn, (K, len(chosen), extra, Z), fork, y.dtype, paired)
                more = log_weights(members, y[:, chosen], eps)
                together = summary(torch.cat([log_w[:, chosen], more], dim=-1))
                for column, values in zip(result, together, strict=True):
                    column[:, chosen] = values
        return result._replace(log_px=result.log_px + likelihood.log_jacobian(y))

    repeats = [_members(model.part(slice(e, e + K)), num_samples) for e in range(0, len(model), K)]
    batches = []
    for x in images.split(_images_at_once(K * num_samples * Z)):
        each = [scored(members, x, stream) for members, stream in zip(repeats, streams, strict=True)]
        batches.append([torch.cat(columns) for columns in zip(*each, strict=True)])
        if tick:
            tick(len(model) * len(x))
    return LogProb(*(torch.cat(columns, dim=1) for columns in zip(*batches, strict=True)))


def _images_at_once(noise_per_image: int) -> int:
    return max(1, min(BATCH, NOISE // noise_per_image))


def _fork(stream: torch.Generator) -> torch.Generator:
    """A stream of its own, so that later batches do not depend on which images get more samples."""
    fork = stream.clone_state()
    return fork.manual_seed(int(torch.randint(2**62, (), generator=fork, device=fork.device)))
