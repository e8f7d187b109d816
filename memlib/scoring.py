"""Importance-sampled log p(x) with its diagnostics, in tiles so that memory stays bounded."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, get_args

import torch
from torch import Tensor

from memlib.checks import check_one_of, check_range
from memlib.decoding import FEWEST_SAMPLES, PerceptronDecoder
from memlib.device import own_settings, products
from memlib.ensemble import Ensemble, Streams, Tick, draws
from memlib.experiment import Precision, ProposalName
from memlib.models import VAE, Likelihood
from memlib.proposals import POINTS, LogJoint, Proposal, WithGradient, fit, fit_again, refined, weigh
from memlib.psis import FEWEST, khat_threshold, pareto_k, tail_length

# Decoder outputs (E * B * S * D) held at once: in float32 1 MiB, half of one core's second-level cache.
TILE = 2**18
DEVICE_TILE = 2**27  # the same on a GPU: 512 MiB
# Other values of these and of `proposals.POINTS` give other noise, and so other scores.
BLOCK = 512  # images whose pixels are binarized or dequantized at once
NOISE = 2**22  # latent noise (E * B * S * Z) held at once, at most
FEWEST_FITTED = 16  # images whose proposals are fitted at once
LOOKS = 3  # times that an image whose k-hat is too high gets a better proposal and twice the samples


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


def log_joint(
    model: LatentVariableModel,
    y: Tensor,
    precision: Precision = "float32",
    log_prob: Callable[..., Tensor] | None = None,
) -> LogJoint:
    """log p(y, z) of observations (E, B, D) as a function of latents, (E, B, P, Z) to (E, B, P), nats.

    Where no gradients are needed it is computed tile by tile.

    Args:
        precision: of the decoder's products.
        log_prob: what computes log p(y | z) where no gradient is needed; by default the likelihood.
    """

    def evaluated(z: Tensor, y: Tensor, log_prob: Callable[..., Tensor]) -> Tensor:
        with products(precision, y.device):
            parameters = model.decode(z.flatten(1, 2))  # (E, B, P, Z) -> (E, B * P, D)
        return log_prob(y[:, :, None], *(p.unflatten(1, z.shape[1:3]) for p in parameters))

    def joint(z: Tensor) -> Tensor:
        log_p = -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        if z.requires_grad:
            return log_p + evaluated(z, y, model.likelihood.log_prob)
        E, B, P = log_p.shape
        rows = max(1, (TILE if z.device.type == "cpu" else DEVICE_TILE) // (E * y.shape[-1]))
        images, points = max(1, rows // P), min(rows, P)
        for b in range(0, B, images):
            for s in range(0, P, points):
                tile = slice(None), slice(b, b + images), slice(s, s + points)
                log_p[tile] += evaluated(z[tile], y[tile[:2]], log_prob or model.likelihood.log_prob)
        return log_p

    @torch.enable_grad()
    def gradient(z: Tensor) -> Tensor:
        z = z.detach().requires_grad_()
        with products(precision, y.device):
            parameters = [p.unflatten(1, z.shape[1:3]) for p in model.decode(z.flatten(1, 2))]
            slopes = model.likelihood.gradient(y[:, :, None], *(p.detach() for p in parameters))
            pairs = zip(parameters, slopes, strict=True)
            ends = [(p.expand_as(s), s.to(p.dtype)) for p, s in pairs if p.requires_grad]
            outputs, slopes = zip(*ends, strict=True)
            return torch.autograd.grad(outputs, z, slopes)[0] - z.detach()

    return WithGradient(joint, gradient)


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


def fitted_log_px(
    joint: Callable[[slice | Tensor], LogJoint],
    mean: Tensor,
    log_var: Tensor,
    num_samples: int,
    generator: torch.Generator,
) -> LogProb:
    r"""Log marginal probability by importance sampling from proposals that are fitted to every image.

    $$\log p(y) \approx \log \frac{1}{S} \sum_{s=1}^S \frac{p(y, z_s)}{q(z_s)}, \qquad z_s \sim q$$

    Where Pareto k-hat says that S samples do not suffice, the proposal is fitted again, then refined, and the
    estimate is that of twice as many fresh samples each time, up to 8 S of them. To look first makes p(x) too
    low by a few percent at most; samples that served a fit would make it far too low, and are not used. With
    20 samples or fewer nothing is known of k-hat, and the first look is the last.

    Args:
        joint: log p(y, z) of some of the images.
        mean, log_var: of the encoder, (..., B, Z), where fits start.
        num_samples: S, of the first look.
        generator: draws what is random; on the device of the latents.

    Returns:
        The estimate and its health, each (..., B).
    """
    every = slice(None)
    proposal = fit(joint(every), mean, log_var, generator)
    result = summary(weigh(joint(every), proposal, num_samples, generator))
    failing = result.khat > khat_threshold(num_samples)
    for look in range(LOOKS if tail_length(num_samples) >= FEWEST else 0):
        # images, whichever model fails
        chosen = failing.reshape(-1, failing.shape[-1]).any(0).nonzero().squeeze(1)
        if not len(chosen):
            break
        num_samples, own, still = 2 * num_samples, joint(chosen), failing[..., chosen]
        part = Proposal(*(t[..., chosen, *[every] * (t.ndim - failing.ndim)] for t in proposal))
        part = (refined if look else fit_again)(own, part, generator)
        again = summary(weigh(own, part, num_samples, generator))
        for column, new in zip((*proposal, *result), (*part, *again), strict=True):
            place = ..., chosen, *[every] * (column.ndim - failing.ndim)
            where = still.reshape(still.shape + (1,) * (column.ndim - failing.ndim))
            column[place] = torch.where(where, new, column[place])
        failing[..., chosen] &= again.khat > khat_threshold(num_samples)
    # of what is no number there is no fit
    return result._replace(log_px=result.log_px.masked_fill(mean.isnan().any(-1), math.nan))


@own_settings()
@torch.no_grad()
def log_px(
    model: LatentVariableModel,
    y: Tensor,
    num_samples: int,
    generator: torch.Generator,
    proposal: ProposalName = "fitted",
    precision: Precision = "float32",
    log_prob: Callable[..., Tensor] | None = None,
) -> LogProb:
    """Log marginal probability of perturbed observations by importance sampling.

    Args:
        model: E models.
        y: observations, (E, B, D).
        num_samples: S >= 1; of fitted proposals the first number that is tried, see `fitted_log_px`.
        generator: draws the samples; on the model's device.
        proposal: "fitted" to every image and model, or "encoder", what the encoder gives: the paper's.
        precision, log_prob: see `log_joint`.

    Returns:
        `log_px` in nats (of the density in logit space, where the likelihood lives there) and its health.

    Raises:
        ValueError: S < 1, or another proposal.

    Source: supplement, eq. (9), for the encoder's.
    """
    check_range(1, num_samples=num_samples)
    check_one_of(get_args(ProposalName), proposal=proposal)
    if isinstance(model, Ensemble) and len(each := members(model, num_samples)) > 1:
        pairs, options = zip(each, y.chunk(len(each)), strict=True), (proposal, precision, log_prob)
        return _joined([log_px(*pair, num_samples, generator, *options) for pair in pairs])

    def joint(images: slice | Tensor) -> LogJoint:
        return log_joint(model, y[:, images], precision, log_prob)

    with products(precision, y.device):
        mean, log_var = (t.to(y.dtype) for t in model.encode(y))
    with products("float32", y.device):  # whatever the caller allows: samples belong to their densities
        if proposal == "fitted":
            return fitted_log_px(joint, mean, log_var, num_samples, generator)
        z, log_q = Proposal.diagonal(mean, log_var).sample(num_samples, generator)
        return summary(joint(slice(None))(z) - log_q)


class _One:
    """A plain model on a CPU as an ensemble of one."""

    def __init__(self, vae: VAE, num_samples: int):
        self._vae, self.likelihood = vae.requires_grad_(False), vae.likelihood
        few = num_samples < FEWEST_SAMPLES or not PerceptronDecoder.takes(vae.decoder)
        self._decoder = vae.decoder if few else PerceptronDecoder(vae.decoder, num_samples)

    def encode(self, y: Tensor) -> tuple[Tensor, ...]:
        return tuple(t[None] for t in self._vae.encoder(y[0]))

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        decoder = self._vae.decoder if z.requires_grad else self._decoder
        return tuple(t[None] for t in decoder(z[0]))


def members(model: Ensemble, num_samples: int) -> Sequence[LatentVariableModel]:
    """Models ready to weigh samples: on a CPU one after the other, so that a tile stays in the cache."""
    on_cpu = model.device.type == "cpu"
    return [_One(vae, num_samples) for vae in model.unstack()] if on_cpu else [model]


@own_settings()
@torch.no_grad()
def score_images(
    model: Ensemble,
    images: Tensor,
    num_samples: int,
    noise: Streams,
    versions: Sequence[torch.Generator] | int = 1,
    proposal: ProposalName = "fitted",
    compiled: bool = False,
    tick: Tick | None = None,
) -> LogProb:
    """Score every image under every model, in pixel space, in one or several versions of it.

    Args:
        model: E models, of one or several repeats, sorted by repeat; put into evaluation mode.
        images: uint8 (n, C, H, W) on the model's device.
        num_samples: S >= 1; see `log_px`.
        noise: of every repeat, draws what is random; on the model's device.
        versions: what binarizes or dequantizes the images for all models, a generator for each of R versions,
            on the CPU, so that versions are the same on all devices; or R, and each model has its own.
        proposal: see `log_px`.
        compiled: fuse what follows the decoder into one kernel; same result up to rounding.
        tick: called after every block of images with how many it scored, once for each model and version.

    Returns:
        `log_px` in nats and its health, each (E, R, n).

    Raises:
        ValueError: S < 1, R < 1 or another proposal.
    """
    sources = [None] * versions if isinstance(versions, int) else versions
    check_range(1, num_samples=num_samples, versions=len(sources))
    model.train(False)
    streams = [noise] if isinstance(noise, torch.Generator) else noise
    likelihood, K = model.likelihood, len(model) // len(streams)
    log_prob = compiled_log_prob(likelihood) if compiled else None
    repeats = [members(model.part(slice(e, e + K)), num_samples) for e in range(0, len(model), K)]
    D, Z, E = images[0].numel(), model.latent_dim, len(model) // len(streams) // len(repeats[0])
    at_once = max(1, min(BLOCK, NOISE // (E * num_samples * Z)))
    if proposal == "fitted":
        tile = TILE if model.device.type == "cpu" else DEVICE_TILE
        at_once = min(at_once, max(FEWEST_FITTED, tile // (E * D * POINTS)))

    def scored(member: LatentVariableModel, y: Tensor, stream: torch.Generator) -> LogProb:  # each (E, B)
        return _joined(
            [
                log_px(member, part, num_samples, forked(stream), proposal, model.precision, log_prob)
                for part in y.split(at_once, dim=1)
            ],
            dim=1,
        )

    def block(x: Tensor, shown: Tensor | None) -> LogProb:  # (B, D), each (L * K, B)
        parts = []
        for members, stream in zip(repeats, streams, strict=True):
            uniform = draws(torch.rand, (K, *x.shape), stream, model.dtype) if shown is None else shown
            y = likelihood.perturb(x, uniform).expand(K, -1, -1)
            pairs = zip(members, y.chunk(len(members)), strict=True)
            result = _joined([scored(member, part, stream) for member, part in pairs])
            parts.append(result._replace(log_px=result.log_px + likelihood.log_jacobian(y)))
        if tick:
            tick(len(model) * len(x))
        return _joined(parts)

    def version(source: torch.Generator | None) -> LogProb:  # each (L * K, n)
        blocks = []
        for x in images.flatten(1).split(BLOCK):
            uniform = torch.rand(x.shape, generator=source, dtype=model.dtype) if source else None
            blocks.append(block(x, uniform.to(x.device) if source else None))
        return _joined(blocks, dim=1)

    each = [version(source) for source in sources]
    return LogProb(*(torch.stack(columns, dim=1) for columns in zip(*each, strict=True)))


def _joined(parts: Sequence[LogProb], dim: int = 0) -> LogProb:
    return LogProb(*(torch.cat(columns, dim) for columns in zip(*parts, strict=True)))


def forked(stream: torch.Generator) -> torch.Generator:
    """A stream of its own for every batch, so that it does not matter how much each draws."""
    seed = int(torch.randint(2**62, (), generator=stream, device=stream.device))
    return torch.Generator(stream.device).manual_seed(seed)
