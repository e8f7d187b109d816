"""Importance-sampled log p(x) with its diagnostics, streamed so that memory stays bounded."""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from memlib.ensemble import Ensemble, perturbed
from memlib.models import Likelihood

# Decoder outputs (E * B * S * D) held at once: in float32 2 MiB, about one core's second-level cache.
TILE = 2**19
DEVICE_TILE = 2**27  # the same on a GPU: 512 MiB


class LatentVariableModel(Protocol):
    """What can be scored: E models with Gaussian proposals; `memlib.ensemble.Ensemble` is one."""

    likelihood: Likelihood

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]: ...
    def decode(self, z: Tensor) -> tuple[Tensor, ...]: ...


class LogProb(NamedTuple):
    r"""An importance-sampling estimate and its health, each (E, B).

    `ess` is Kong's effective sample size $(\sum_s w_s)^2 / \sum_s w_s^2$, between 1 and S. Where all weights
    are zero (`log_px` is minus infinity) the quotient is 0 / 0, and `ess` is 1.
    """

    log_px: Tensor
    ess: Tensor


def standard_error(ess: Tensor, num_samples: int) -> Tensor:
    r"""Standard error of log p(x) in nats by the delta method, $\sqrt{1 / \mathrm{ESS} - 1 / S}$.

    Args:
        ess: effective sample size, any shape (tensor or array).
        num_samples: S, the number of samples behind it.

    Source: Kong (1992); first order, too small where ESS is a few samples only.
    """
    return (1 / ess - 1 / num_samples).clip(min=0) ** 0.5


@torch.no_grad()
def log_px(
    model: LatentVariableModel,
    y: Tensor,
    num_samples: int,
    generator: torch.Generator,
    tile: int | None = None,
) -> LogProb:
    r"""Log marginal probability of perturbed observations by importance sampling from the encoder.

    $$\log p(y) \approx \log \frac{1}{S} \sum_{s=1}^S \frac{p(y \mid z_s)\, p(z_s)}{q(z_s \mid y)}, \qquad
    z_s \sim q(z \mid y)$$

    in log space, with a running maximum: no more than `tile` decoder outputs exist at any time.

    Args:
        model: E models.
        y: observations, (E, B, D).
        num_samples: S >= 1.
        generator: draws the samples; on the model's device.
        tile: decoder outputs per step; by default what the device's memory likes.

    Returns:
        `log_px` in nats (of the density in logit space, where the likelihood lives there) and `ess`.

    Raises:
        ValueError: S < 1.

    Source: supplement, eq. (9).
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; allowed: 1 or more")
    E, B, D = y.shape
    tile = tile or (TILE if y.device.type == "cpu" else DEVICE_TILE)
    step = max(1, min(num_samples, tile // (E * B * D)))
    mu, log_var = model.encode(y)  # (E, B, Z)
    sigma = torch.exp(0.5 * log_var)

    # finite, so that weights of zero stay zero instead of NaN
    top = torch.full((E, B), torch.finfo(y.dtype).min, device=y.device, dtype=y.dtype)
    total, squares = torch.zeros_like(top), torch.zeros_like(top)  # sums of w and w^2, over exp(top)
    for start in range(0, num_samples, step):
        S = min(step, num_samples - start)
        eps = torch.randn((E, B, S, mu.shape[-1]), generator=generator, device=y.device, dtype=y.dtype)
        z = mu[:, :, None] + sigma[:, :, None] * eps
        parameters = model.decode(z.flatten(1, 2))  # (E, B * S, D)
        parameters = tuple(p.unflatten(1, (B, S)) for p in parameters)  # (E, B, S, D)
        log_pxz = model.likelihood.log_prob(y[:, :, None], *parameters)  # (E, B, S)
        # the constants of the prior and of q cancel
        log_w = log_pxz + 0.5 * (eps.square() - z.square() + log_var[:, :, None]).sum(-1)

        new_top = torch.maximum(top, log_w.amax(-1))
        w = torch.exp(log_w - new_top[..., None])
        shrink = torch.exp(top - new_top)
        total = total * shrink + w.sum(-1)
        squares = squares * shrink.square() + w.square().sum(-1)
        top = new_top
    ess = torch.where(total == 0, torch.ones_like(total), total.square() / squares)
    return LogProb(top + total.log() - math.log(num_samples), ess)


@torch.no_grad()
def score_images(model: Ensemble, images: Tensor, num_samples: int, generator: torch.Generator) -> LogProb:
    """Score every image under every model, in pixel space; binarized or dequantized anew for every model.

    Args:
        model: E models; put into evaluation mode.
        images: uint8 (n, C, H, W) on the model's device.
        num_samples: S >= 1.
        generator: draws noise and samples; on the model's device.

    Returns:
        `log_px` in nats and `ess`, each (E, n).
    """
    model.train(False)
    E, D = len(model), images[0].numel()
    tile = TILE if images.device.type == "cpu" else DEVICE_TILE
    batch = max(1, tile // (E * D * min(num_samples, 64)))
    parts = []
    for x in images.split(batch):
        y = perturbed(model.likelihood, x.flatten(1).expand(E, -1, -1), generator, model.dtype)
        scored = log_px(model, y, num_samples, generator, tile)
        parts.append(LogProb(scored.log_px + model.likelihood.log_jacobian(y), scored.ess))
    return LogProb(*(torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)))
