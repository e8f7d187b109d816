"""The variational autoencoders of Table 1 as plain modules, and their likelihoods.

Observations are flat: an image of C x 32 x 32 pixels is a vector of D = C * 1024 numbers, channel first.
Every network maps (B, ...) to (B, ...); a leading model axis E is the business of `memlib.ensemble`.

Source: van den Burg & Williams (2021), supplement B.2 and Table 1.
"""

import math
from dataclasses import dataclass
from typing import Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from memlib.checks import check_one_of, check_range
from memlib.device import own_settings
from memlib.experiment import Architecture, LikelihoodName

SIDE = 32  # Table 1 is made for 32 x 32 images
LOGIT_LAMBDA = 0.05  # keeps the logit finite at black and white
MIN_LOG_VAR = -7.0  # floor of the decoder's log-variance
INITIAL_LOG_VAR = -2.0  # where the single learned log-variance starts


class Likelihood(Protocol):
    """What a model needs to know of its observations: their noise, their density, their Jacobian."""

    outputs: int  # decoder outputs per observed dimension

    def perturb(self, images: Tensor, uniform: Tensor) -> Tensor: ...
    def log_prob(self, y: Tensor, *parameters: Tensor) -> Tensor: ...
    def gradient(self, y: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]: ...
    def log_jacobian(self, y: Tensor) -> Tensor: ...
    def sample(self, generator: torch.Generator, *parameters: Tensor) -> Tensor: ...
    def pixels(self, *parameters: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Bernoulli:
    r"""Binarized pixels, $\log p(y \mid z) = \sum_j y_j \ell_j - \log(1 + e^{\ell_j})$ with logits $\ell$."""

    outputs: int = 1

    def perturb(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Binarize gray values anew: a pixel is 1 with probability gray / 255.

        Args:
            images: gray values 0..255, (..., D).
            uniform: numbers in [0, 1) of the same shape, or broadcastable to it; their dtype is the result's.

        Returns:
            0 or 1, (..., D).
        """
        return (uniform < images / 255.0).to(uniform.dtype)

    def log_prob(self, y: Tensor, logits: Tensor) -> Tensor:
        """Log-probability in nats, (...,), of `y` (..., D) in {0, 1} given `logits` broadcastable to it."""
        logits = logits.to(y.dtype)
        if logits.requires_grad:
            return (y * logits - F.softplus(logits)).sum(-1)
        # log p = min(l, 0) - log(1 + e^-|l|) with l the logit of the pixel's own value;
        # 16 terms, each between 1 and 2, share one logarithm
        logits = (2 * y - 1) * logits
        terms = logits.abs().neg_().exp_().add_(1)
        for _ in range(4):
            if terms.shape[-1] % 2 == 0:
                first, second = terms.chunk(2, dim=-1)
                terms = first * second
        return logits.clamp_(max=0).sum(-1) - terms.log().sum(-1)

    def gradient(self, y: Tensor, logits: Tensor) -> tuple[Tensor]:
        """Derivatives of the terms of `log_prob` with respect to the logits, of their common shape."""
        mean = torch.sigmoid(logits.to(y.dtype))
        return (torch.sub(y, mean, out=mean),)

    def log_jacobian(self, y: Tensor) -> Tensor:
        """Zero, (...,): binary pixels are not transformed."""
        return y.new_zeros(y.shape[:-1])

    def sample(self, generator: torch.Generator, logits: Tensor) -> Tensor:
        """Draw observations, 0 or 1, same shape as `logits`."""
        return torch.bernoulli(torch.sigmoid(logits), generator=generator)

    def pixels(self, logits: Tensor) -> Tensor:
        """The expected image in [0, 1], same shape as `logits`."""
        return torch.sigmoid(logits)


@dataclass(frozen=True)
class LogitGaussian:
    r"""Dequantized pixels, modeled by a diagonal Gaussian in logit space.

    $y = \mathrm{logit}(\lambda + (1 - 2\lambda) v)$ with $v = (u + g) / 256$ for a gray value $g$ in 0..255,
    uniform $u$ and $\lambda = 0.05$.

    Attributes:
        scalar: one learned log-variance for all pixels (CelebA) instead of one per pixel (CIFAR-10).
    """

    scalar: bool = False

    @property
    def outputs(self) -> int:
        return 1 if self.scalar else 2

    def perturb(self, images: Tensor, uniform: Tensor) -> Tensor:
        """Dequantize gray values 0..255, (..., D), with `uniform` in [0, 1) and map them to logit space."""
        v = (uniform + images) / 256.0
        return torch.logit(LOGIT_LAMBDA + (1 - 2 * LOGIT_LAMBDA) * v)

    def log_prob(self, y: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
        """Log-density in logit space, (...,) nats, of `y` (..., D); `mean`, `log_var` broadcastable to it."""
        mean, log_var = mean.to(y.dtype), log_var.to(y.dtype)
        squares = (y - mean).square() * torch.exp(-log_var)
        return -0.5 * (squares + log_var + math.log(2 * math.pi)).sum(-1)

    def gradient(self, y: Tensor, mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of the terms of `log_prob` with respect to mean and log-variance."""
        distance = y - mean.to(y.dtype)
        slope = distance * torch.exp(-log_var.to(y.dtype))
        return slope, distance.mul_(slope).sub_(1).mul_(0.5)

    def log_jacobian(self, y: Tensor) -> Tensor:
        r"""What takes a log-density in logit space to pixel space, in nats.

        $$\log p(x) = \log p(y) + D \log(1 - 2\lambda) - D \log 256 - \sum_j (y_j -
        2\,\mathrm{softplus}(y_j))$$

        Args:
            y: logits of pixels, (..., D).

        Returns:
            (...,). The density is with respect to gray values in [0, 256).

        Source: Papamakarios et al. (2017), eq. (27), with the paper's lambda.
        """
        constant = y.shape[-1] * (math.log(1 - 2 * LOGIT_LAMBDA) - math.log(256))
        return constant - (y - 2 * F.softplus(y)).sum(-1)

    def sample(self, generator: torch.Generator, mean: Tensor, log_var: Tensor) -> Tensor:
        """Draw logits of pixels, same shape as `mean`."""
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + torch.exp(0.5 * log_var) * noise

    def pixels(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """The image at the mean in logit space, in [0, 1], same shape as `mean`."""
        return ((torch.sigmoid(mean) - LOGIT_LAMBDA) / (1 - 2 * LOGIT_LAMBDA)).clamp(0, 1)


class Linear(nn.Linear):
    """A linear layer of one model, or of E models: weight (E, O, I), bias (E, O), inputs (E, B, I)."""

    def forward(self, h: Tensor) -> Tensor:
        if self.weight.dim() == 3:
            return torch.baddbmm(self.bias.unsqueeze(1), h, self.weight.mT)
        return super().forward(h)


class Encoder(nn.Module):
    """A trunk and two linear heads: observations (B, D) to mean and log-variance of q(z | x), each (B, Z).

    Raises:
        ValueError: when called with observations of another size than D = C * 32 * 32.
    """

    def __init__(self, trunk: nn.Module, features: int, latent_dim: int, channels: int):
        super().__init__()
        self.trunk = trunk
        self.channels = channels
        self.mean = Linear(features, latent_dim)
        self.log_var = Linear(features, latent_dim)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        if y.shape[-1] != (D := self.channels * SIDE * SIDE):
            shape = f"{self.channels} x {SIDE} x {SIDE}"
            raise ValueError(f"images have {y.shape[-1]} values; allowed: {D}, as the models are of {shape}")
        h = self.trunk(y)
        return self.mean(h), self.log_var(h)


class Decoder(nn.Module):
    """A trunk and the likelihood's parameters: latent (B, Z) to tensors that broadcast to (B, D).

    Of `Linear` layers alone it takes stacked parameters as well: latent (E, B, Z) to (E, B, D).
    """

    def __init__(self, trunk: nn.Module, likelihood: Likelihood):
        super().__init__()
        self.trunk = trunk
        self.outputs = likelihood.outputs
        scalar = isinstance(likelihood, LogitGaussian) and likelihood.scalar
        self.log_var = nn.Parameter(torch.tensor(INITIAL_LOG_VAR)) if scalar else None

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        h = self.trunk(z)  # (B, outputs * D)
        if self.log_var is not None:
            return h, self.log_var[..., None, None].expand(*h.shape[:-1], 1)
        if self.outputs == 1:
            return (h,)
        mean, log_var = h.chunk(2, dim=-1)
        return mean, log_var.clamp(min=MIN_LOG_VAR)


class VAE(nn.Module):
    """Encoder, decoder and likelihood of one variational autoencoder with prior N(0, I_Z)."""

    def __init__(self, encoder: Encoder, decoder: Decoder, likelihood: Likelihood):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood


def _mlp(channels: int, latent_dim: int, outputs: int) -> tuple[nn.Module, int, nn.Module]:
    dim = channels * SIDE * SIDE
    encoder = nn.Sequential(Linear(dim, 512), nn.ReLU(), Linear(512, 256), nn.ReLU())
    decoder = nn.Sequential(
        *(Linear(latent_dim, 256), nn.ReLU()),
        *(Linear(256, 512), nn.ReLU()),
        Linear(512, outputs * dim),
    )
    return encoder, 256, decoder


def _conv(channels: int, latent_dim: int, outputs: int, F_: int) -> tuple[nn.Module, int, nn.Module]:
    half = {"kernel_size": 4, "stride": 2, "padding": 1, "bias": False}

    def enc_block(c1: int, c2: int) -> list[nn.Module]:
        return [nn.Conv2d(c1, c2, **half), nn.BatchNorm2d(c2), nn.LeakyReLU(0.2)]

    def dec_block(c1: int, c2: int, **shape: int) -> list[nn.Module]:
        return [nn.ConvTranspose2d(c1, c2, **(half | shape)), nn.BatchNorm2d(c2), nn.ReLU()]

    encoder = nn.Sequential(
        nn.Unflatten(-1, (channels, SIDE, SIDE)),
        *(nn.Conv2d(channels, F_, **half), nn.LeakyReLU(0.2)),  # (B, F, 16, 16)
        *enc_block(F_, 2 * F_),  # (B, 2F, 8, 8)
        *enc_block(2 * F_, 4 * F_),  # (B, 4F, 4, 4)
        *enc_block(4 * F_, 8 * F_),  # (B, 8F, 2, 2)
        nn.Flatten(),  # (B, 32F)
    )
    decoder = nn.Sequential(
        nn.Unflatten(-1, (latent_dim, 1, 1)),
        *dec_block(latent_dim, 8 * F_, kernel_size=2, stride=1, padding=0),  # (B, 8F, 2, 2)
        *dec_block(8 * F_, 4 * F_),  # (B, 4F, 4, 4)
        *dec_block(4 * F_, 2 * F_),  # (B, 2F, 8, 8)
        *dec_block(2 * F_, F_),  # (B, F, 16, 16)
        nn.ConvTranspose2d(F_, outputs * channels, **half),  # (B, outputs * C, 32, 32)
        nn.Flatten(),
    )
    return encoder, 32 * F_, decoder


@own_settings()
def build_vae(
    architecture: Architecture,
    likelihood: LikelihoodName,
    *,
    channels: int,
    latent_dim: int,
    width: int = 32,
    generator: torch.Generator | None = None,
) -> VAE:
    """One VAE of Table 1.

    Args:
        architecture: "mlp" (the paper's MNIST) or "conv" (its CIFAR-10 and CelebA).
        likelihood: "bernoulli" (MNIST), "gaussian" (CIFAR-10) or "gaussian-scalar" (CelebA).
        channels: C, 1 or 3.
        latent_dim: Z >= 1.
        width: F >= 1, the feature multiplier of "conv".
        generator: draws the initial parameters as PyTorch's own layers do; without one the model stays on the
            meta device, as a template without values.

    Raises:
        ValueError: an argument outside its allowed values.
    """
    check_one_of(get_args(Architecture), architecture=architecture)
    check_one_of(get_args(LikelihoodName), likelihood=likelihood)
    check_one_of((1, 3), channels=channels)
    check_range(1, latent_dim=latent_dim, width=width)

    bernoulli = likelihood == "bernoulli"
    density = Bernoulli() if bernoulli else LogitGaussian(scalar=likelihood == "gaussian-scalar")
    sizes = channels, latent_dim, density.outputs
    with torch.device("meta"):  # layers draw from the global generator when they are made with values
        encoder, features, decoder = _mlp(*sizes) if architecture == "mlp" else _conv(*sizes, width)
        vae = VAE(Encoder(encoder, features, latent_dim, channels), Decoder(decoder, density), density)
    if generator is not None:
        vae.to_empty(device="cpu")
        initialize_(vae, generator)
    return vae


@torch.no_grad()
def initialize_(vae: VAE, generator: torch.Generator) -> None:
    """Give every parameter PyTorch's default initial value, drawn from `generator` in order of the layers."""
    for layer in vae.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # uniform within 1 / sqrt(fan_in), what Kaiming's rule with a = sqrt(5) amounts to
            bound = 1 / math.sqrt(layer.weight[0].numel())
            layer.weight.uniform_(-bound, bound, generator=generator)
            if layer.bias is not None:
                layer.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
        elif isinstance(layer, Decoder) and layer.log_var is not None:
            layer.log_var.fill_(INITIAL_LOG_VAR)
