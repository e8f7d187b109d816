r"""Bounds of log p(y) that no proposal can fool: bidirectional Monte Carlo.

Annealed importance sampling moves latents from a base distribution through tempered ones to the posterior, by
Hamiltonian Monte Carlo. Its weights are unbiased for p(y) whatever the base is, so that the log of their mean
is, in expectation, a lower bound of log p(y). For an observation that a model itself has made, the latent
behind it is an exact sample of its posterior: annealed in reverse from there, the inverse weights are
unbiased for 1 / p(y), which gives an upper bound. Where the two meet, log p(y) is known.

Source: Neal (2001), Annealed importance sampling; Grosse, Ghahramani & Adams (2015), arXiv 1511.02543; Wu et
al. (2017), arXiv 1611.04273.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from memlib.proposals import LogJoint

STEEP = 4.0  # the ladder is sigmoid(-4..4): its steps are smallest at both ends


class Annealed(NamedTuple):
    """Log weights (..., C), float64 nats, and the share of moves accepted, (...)."""

    log_w: Tensor
    accepted: Tensor

    def lower(self) -> Tensor:
        """Lower bounds of log p(y) from weights of latents annealed forward, (...)."""
        return torch.logsumexp(self.log_w, -1) - math.log(self.log_w.shape[-1])

    def upper(self) -> Tensor:
        """Upper bounds of log p(y) from weights of latents annealed in reverse, (...)."""
        return math.log(self.log_w.shape[-1]) - torch.logsumexp(-self.log_w, -1)


def ladder(temperatures: int) -> list[float]:
    """Inverse temperatures from 0 to 1, `temperatures` + 1 of them."""
    values = torch.sigmoid(torch.linspace(-STEEP, STEEP, temperatures + 1, dtype=torch.float64))
    return ((values - values[0]) / (values[-1] - values[0])).tolist()


@torch.no_grad()
def annealed(
    log_joint: LogJoint,
    mean: Tensor,
    scale: Tensor,
    generator: torch.Generator,
    *,
    exact: Tensor | None = None,
    chains: int = 16,
    temperatures: int = 100,
    leapfrog: int = 3,
    step: float = 0.35,
) -> Annealed:
    r"""Anneal latents between a Gaussian and the posterior, forward or in reverse.

    At inverse temperature b, latents have the density $q(z)^{1 - b} \, p(y, z)^b$ up to a constant, with q
    the Gaussian. The weight of a path multiplies $(p(y, z) / q(z))^{\Delta b}$ over its states z. Moves
    are Hamiltonian, in coordinates in which q is standard normal; their settings are fixed beforehand, since
    what is adapted to a path would bias it. Gradients of all chains are taken at once.

    Args:
        log_joint: from latents (..., C, Z) to log p(y, z), (..., C).
        mean, scale: (..., Z) and (..., Z, Z), a Gaussian for every observation, its covariance being
            scale times its transpose; any is valid, and one near the posterior gives tight bounds.
        generator: on their device.
        exact: posterior samples (..., Z), each the start of C chains in reverse; None goes forward.
        chains: C >= 1.
        temperatures: steps of the ladder, at least 1; with 1 this is importance sampling from q.
        leapfrog: steps of a move, at least 1.
        step: their size, in standard deviations of q.

    Source: Neal (2001) for the weights, Neal (2011), MCMC using Hamiltonian dynamics, for the moves.
    """
    *leading, Z = mean.shape
    like = {"generator": generator, "device": mean.device, "dtype": mean.dtype}
    constant = torch.linalg.slogdet(scale)[1][..., None] + 0.5 * Z * math.log(2 * math.pi)

    def joint(u: Tensor) -> tuple[Tensor, Tensor]:
        """log p(y, z), (..., C), and its gradient with respect to u, (..., C, Z)."""
        z = mean[..., None, :] + u @ scale.mT
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = log_joint(z)
            (slope,) = torch.autograd.grad(value.sum(), z)
        return value.detach(), slope @ scale

    def log_q(u: Tensor) -> Tensor:
        return -0.5 * u.square().sum(-1) - constant

    if exact is None:
        u = torch.randn(*leading, chains, Z, **like)
    else:
        u = torch.linalg.solve(scale, exact - mean)[..., None, :].expand(*leading, chains, Z)
    rungs = ladder(temperatures)
    if exact is not None:
        rungs.reverse()
    log_p, slope = joint(u)
    log_w = torch.zeros(*leading, chains, dtype=torch.float64, device=mean.device)
    accepted = torch.zeros(*leading, chains, device=mean.device)
    for before, b in itertools.pairwise(rungs):
        log_w += abs(b - before) * (log_p - log_q(u)).double()
        if b == rungs[-1]:
            break
        momentum = torch.randn(u.shape, **like)
        energy = (1 - b) * log_q(u) + b * log_p - 0.5 * momentum.square().sum(-1)
        at, log_p_at, slope_at = u, log_p, slope
        for _ in range(leapfrog):
            momentum = momentum + 0.5 * step * (b * slope_at - (1 - b) * at)
            at = at + step * momentum
            log_p_at, slope_at = joint(at)
            momentum = momentum + 0.5 * step * (b * slope_at - (1 - b) * at)
        gained = (1 - b) * log_q(at) + b * log_p_at - 0.5 * momentum.square().sum(-1) - energy
        moves = torch.rand(gained.shape, **like).log() < gained
        u, slope = (torch.where(moves[..., None], new, old) for new, old in ((at, u), (slope_at, slope)))
        log_p = torch.where(moves, log_p_at, log_p)
        accepted += moves
    return Annealed(log_w, accepted.mean(-1) / max(1, temperatures - 1))
