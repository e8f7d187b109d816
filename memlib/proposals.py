r"""Importance proposals fitted to the posterior of every image, from gradients of log p(y, z) alone.

An encoder proposes a diagonal Gaussian that was trained for all images at once. The posterior of one image is
narrower, tilted, and, where the model has not seen the image, elsewhere: few samples meet it, and log p(x)
comes out too low. A Gaussian with full covariance, fitted to each image and model, meets it.

Everything here works on any leading axes, such as (E, B) for images under models, and knows of a model only

    log_joint(z), from latents (..., P, Z) to log p(y, z) in nats, (..., P),

which has to be differentiable, or a `WithGradient`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

LogJoint = Callable[[Tensor], Tensor]


class WithGradient(NamedTuple):
    """log p(y, z) as above, and its gradient with respect to z, (..., P, Z), where that is known by itself:
    the value, which takes as long as a small decoder, is not computed on the way."""

    value: LogJoint
    gradient: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor) -> Tensor:
        return self.value(z)


AGAIN = 0.5  # pace of a step where the first ones did not suffice
RATE = 0.1  # of Adam
LOG_VAR = (-12.0, 6.0)  # of an encoder, within which a fit starts
POINTS = 32  # gradients of one image taken at once, so that memory stays bounded


class Proposal(NamedTuple):
    r"""Gaussians, or t distributions: mean (..., Z), scale (..., Z, Z) and its log-determinant (...).

    With the scale C, a sample is $\mu + C \epsilon / \sqrt{\chi^2_\nu / \nu}$, with normal $\epsilon$.
    """

    mean: Tensor
    scale: Tensor
    log_det: Tensor

    @classmethod
    def diagonal(cls, mean: Tensor, log_var: Tensor) -> Self:
        """Of independent latents, such as an encoder's, from mean and log-variance, each (..., Z)."""
        return cls(mean, torch.diag_embed(torch.exp(0.5 * log_var)), 0.5 * log_var.sum(-1))

    def sample(
        self, num_samples: int, generator: torch.Generator, degrees: float = math.inf
    ) -> tuple[Tensor, Tensor]:
        """Latents (..., S, Z) and their log-densities (..., S), nats.

        Args:
            num_samples: S.
            generator: draws them.
            degrees: of freedom of a t distribution, a whole number; infinite for a Gaussian.
        """
        *leading, Z = self.mean.shape
        like = {"generator": generator, "device": self.mean.device, "dtype": self.mean.dtype}
        eps = torch.randn(*leading, num_samples, Z, **like)
        squares = eps.square().sum(-1)
        if math.isinf(degrees):
            log_q = -0.5 * (squares + Z * math.log(2 * math.pi))
        else:
            chi = torch.randn(*leading, num_samples, int(degrees), **like).square().sum(-1)
            eps = eps * (degrees / chi).sqrt()[..., None]
            log_q = -(degrees + Z) / 2 * torch.log1p(squares / chi) - Z / 2 * math.log(degrees * math.pi)
            log_q += math.lgamma((degrees + Z) / 2) - math.lgamma(degrees / 2)
        return self.mean[..., None, :] + eps @ self.scale.mT, log_q - self.log_det[..., None]

    def wider(self, factor: float) -> Self:
        """The same with its scale times a factor."""
        log_det = self.log_det + self.mean.shape[-1] * math.log(factor)
        return self._replace(scale=factor * self.scale, log_det=log_det)


@dataclass(frozen=True)
class Rule:
    """How a proposal is fitted.

    Attributes:
        climb: steps of Adam towards the mode, of size `RATE`, before the covariance is fitted.
        late_climb: the same where a fit has failed, as one may that starts far away and narrow.
        paces: of the steps of mean and covariance, 1 being all of a quasi-Newton step. Of full steps alone,
            fits to a posterior that is far from Gaussian go back and forth.
        reach: of the sigma points, in units of sqrt(Z) standard deviations.
        low, high: the least and largest curvature, relative to the proposal's own, that a step believes.
        longest: of a step of the mean, in the proposal's standard deviations; without it steps may be wild.
        widening: of the scale that is fitted.
        degrees: of freedom of the t distribution that is drawn from.
    """

    climb: int
    late_climb: int
    paces: tuple[float, ...]
    reach: float
    low: float
    high: float
    longest: float
    widening: float
    degrees: float


FEW = Rule(0, 40, (1, 0.6, 0.5), reach=1.2, low=0.2, high=5, longest=3, widening=1.2, degrees=8)
MANY = Rule(
    100, 0, (1, 1, 0.7, 0.6, 0.5), reach=1, low=0.1, high=10, longest=4, widening=1.05, degrees=math.inf
)
FEW_DIMENSIONS = 32  # up to which the first of the two rules serves


def rule_of(latent_dim: int) -> Rule:
    """The rule for a latent space of Z dimensions."""
    return FEW if latent_dim <= FEW_DIMENSIONS else MANY


def gradient(log_joint: LogJoint, z: Tensor) -> Tensor:
    """Gradients of log p(y, z), (..., P, Z), at latents of that shape; zero where there is none."""

    def traced(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.requires_grad_()
            return torch.autograd.grad(log_joint(z).sum(), z)[0]

    own = log_joint.gradient if isinstance(log_joint, WithGradient) else traced
    parts = [own(part) for part in z.detach().split(POINTS, dim=-2)]
    return torch.cat(parts, dim=-2).nan_to_num(0, 0, 0)


def climbed(log_joint: LogJoint, mean: Tensor, steps: int) -> Tensor:
    """Latents (..., Z) so many steps nearer to the mode of log p(y, z)."""
    z = mean[..., None, :].clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=RATE)
    for _ in range(steps):
        z.grad = -gradient(log_joint, z)
        adam.step()
    return z.detach().squeeze(-2)


def refined(
    log_joint: LogJoint, proposal: Proposal, generator: torch.Generator, pace: float = AGAIN
) -> Proposal:
    r"""One quasi-Newton step of mean and scale, from gradients at 2 Z sigma points.

    With M the scale times a random rotation and r about $\sqrt Z$, the points are $\mu \pm r M e_k$.
    Differences of the gradients along each axis give the curvature, their mean the slope, both as they are on
    average over the width of the proposal, and in its units.
    """
    mean, scale, log_det = proposal
    Z, rule = mean.shape[-1], rule_of(mean.shape[-1])
    normal = torch.randn(scale.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    M = scale @ torch.linalg.qr(normal)[0]
    r = rule.reach * math.sqrt(Z)
    away = r * M.mT  # (..., Z, Z), an axis in each row
    points = mean[..., None, :] + torch.cat([away, -away], dim=-2)  # (..., 2 * Z, Z)
    ahead, behind = (gradient(log_joint, points) @ M).chunk(2, dim=-2)  # (..., Z, Z) each
    curvature = ((behind - ahead) / (2 * r)).nan_to_num(0, 0, 0)
    value, axes = torch.linalg.eigh((curvature + curvature.mT) / 2)
    slope = ((ahead + behind).mean(-2, keepdim=True) / 2 @ axes).squeeze(-2).nan_to_num(0, 0, 0)
    move = slope / value.clamp(min=rule.low)  # (..., Z), along the axes
    move = pace * move * (rule.longest / move.norm(dim=-1, keepdim=True)).clamp(max=1)
    value = value.clamp(rule.low, rule.high) ** pace
    mean = mean + (M @ (axes @ move[..., None])).squeeze(-1)
    # the symmetric root: of another, signs and order of axes, which libraries choose, would change samples
    root = axes * value.rsqrt()[..., None, :] @ axes.mT
    return Proposal(mean, M @ root, log_det - 0.5 * value.log().sum(-1))


def fit(log_joint: LogJoint, mean: Tensor, log_var: Tensor, generator: torch.Generator) -> Proposal:
    """Gaussians fitted to p(z | y), from an encoder's mean and log-variance, each (..., Z)."""
    rule = rule_of(mean.shape[-1])
    mean, log_var = mean.nan_to_num(0, 0, 0), log_var.nan_to_num(0, 0, 0).clamp(*LOG_VAR)
    if rule.climb:
        mean = climbed(log_joint, mean, rule.climb)
    return _stepped(log_joint, Proposal.diagonal(mean, log_var), generator, rule)


def fit_again(log_joint: LogJoint, proposal: Proposal, generator: torch.Generator) -> Proposal:
    """Fits that failed, begun anew from where they ended, or from nearer to the mode."""
    rule = rule_of(proposal.mean.shape[-1])
    if rule.late_climb:
        proposal = proposal._replace(mean=climbed(log_joint, proposal.mean, rule.late_climb))
    return _stepped(log_joint, proposal, generator, rule)


def _stepped(log_joint: LogJoint, proposal: Proposal, generator: torch.Generator, rule: Rule) -> Proposal:
    for pace in rule.paces:
        proposal = refined(log_joint, proposal, generator, pace)
    return proposal


def weigh(log_joint: LogJoint, proposal: Proposal, num_samples: int, generator: torch.Generator) -> Tensor:
    """Logarithms of importance weights, (..., S), of samples from a fitted proposal with wider tails."""
    rule = rule_of(proposal.mean.shape[-1])
    z, log_q = proposal.wider(rule.widening).sample(num_samples, generator, rule.degrees)
    return log_joint(z) - log_q


def evaluations(latent_dim: int, num_samples: int) -> int:
    """Evaluations of a decoder that a fit and S samples take, a gradient being two."""
    rule = rule_of(latent_dim)
    return 2 * (rule.climb + len(rule.paces) * 2 * latent_dim) + num_samples
