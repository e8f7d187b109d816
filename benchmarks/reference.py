"""The paper's way: one model after the other in plain PyTorch, as in the public code.

Nothing of memlib computes here; `Network` takes the values of one of its models, so that both start equal.

Source: van den Burg & Williams (2021), supplement B and the code released with it.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.distributions import Normal
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from memlib.models import VAE


def _mlp(*sizes: int) -> list[nn.Module]:
    layers = ((nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes))
    return [module for layer in layers for module in layer]


class Encoder(nn.Module):
    """Observations (B, 1024) to mean and log-variance of q(z | x), each (B, Z)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.trunk = nn.Sequential(*_mlp(1024, 512, 256))
        self.mean, self.log_var = nn.Linear(256, latent_dim), nn.Linear(256, latent_dim)

    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        h = self.trunk(y)
        return self.mean(h), self.log_var(h)


class Decoder(nn.Module):
    """Latent variables (..., Z) to probabilities of white pixels, (..., 1024)."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.trunk = nn.Sequential(*_mlp(latent_dim, 256, 512), nn.Linear(512, 1024))

    def forward(self, z: Tensor) -> Tensor:
        return torch.sigmoid(self.trunk(z))


class Network(nn.Module):
    """The MNIST network of Table 1."""

    def __init__(self, latent_dim: int):
        super().__init__()
        self.encoder, self.decoder = Encoder(latent_dim), Decoder(latent_dim)

    @classmethod
    def like(cls, vae: VAE, device: torch.device | str = "cpu") -> "Network":
        """A copy of memlib's "mlp" with likelihood "bernoulli"."""
        network = cls(vae.encoder.mean.out_features)
        network.load_state_dict(vae.state_dict())
        return network.to(device)


class Pictures(Dataset):
    """Pictures of 28 x 28 pixels, padded and binarized anew at each access, as vectors (1024,)."""

    def __init__(self, images: NDArray[np.uint8]):
        self.pictures = [Image.fromarray(image[0, 2:-2, 2:-2]) for image in images]  # memlib's are padded
        self.transform = transforms.Compose(
            [transforms.Pad(2), transforms.ToTensor(), torch.bernoulli, torch.flatten]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(self.pictures[index])


def loader(
    images: NDArray[np.uint8], batch_size: int, shuffle: bool, device: torch.device | str = "cpu"
) -> DataLoader:
    """Batches of `images` (n, 1, 32, 32), with the public code's four workers where a GPU waits for them."""
    workers = 4 if torch.device(device).type == "cuda" else 0
    return DataLoader(
        Pictures(images), batch_size, shuffle, num_workers=workers, persistent_workers=workers > 0
    )


def loss(network: Network, y: Tensor, eps: Tensor) -> Tensor:
    """Negative ELBO of observations (B, 1024) with noise (B, Z), summed over the batch, nats."""
    mu, log_var = network.encoder(y)
    z = mu + torch.exp(0.5 * log_var) * eps
    reconstruction = F.binary_cross_entropy(network.decoder(z), y, reduction="sum")
    kl = -0.5 * torch.sum(1 + log_var - mu.pow(2) - log_var.exp())
    return reconstruction + kl


def adam(network: Network, learning_rate: float) -> torch.optim.Adam:
    """Adam as the paper's PyTorch had it: one parameter tensor after the other."""
    return torch.optim.Adam(network.parameters(), lr=learning_rate, foreach=False, fused=False)


def train_epoch(network: Network, optimizer: torch.optim.Optimizer, batches: DataLoader) -> float:
    """One pass over the images; the mean negative ELBO per image, nats."""
    device, total, count = next(network.parameters()).device, 0.0, 0
    for batch in batches:
        y = batch.to(device)
        eps = torch.randn(len(y), network.encoder.mean.out_features, device=device)
        optimizer.zero_grad()
        step_loss = loss(network, y, eps)
        step_loss.backward()
        optimizer.step()
        total += step_loss.item()
        count += len(y)
    return total / count


@torch.no_grad()
def log_px(network: Network, y: Tensor, eps: Tensor) -> Tensor:
    """Importance-sampled log p of observations (B, 1024) with noise (S, B, Z), all samples at once: (B,)."""
    mu, log_var = network.encoder(y)
    sigma = torch.exp(0.5 * log_var)
    z = mu + sigma * eps  # (S, B, Z)
    p = network.decoder(z)  # (S, B, 1024)
    log_pxz = -F.binary_cross_entropy(p, y.expand_as(p), reduction="none").sum(-1)
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu), validate_args=False)
    proposal = Normal(mu, sigma, validate_args=False)
    log_w = log_pxz + prior.log_prob(z).sum(-1) - proposal.log_prob(z).sum(-1)
    return torch.logsumexp(log_w, 0) - math.log(len(eps))


def score(network: Network, batches: DataLoader, num_samples: int) -> Tensor:
    """log p of every image, (n,), binarized anew."""
    device, parts = next(network.parameters()).device, []
    for batch in batches:
        y = batch.to(device)
        eps = torch.randn(num_samples, len(y), network.encoder.mean.out_features, device=device)
        parts.append(log_px(network, y, eps))
    return torch.cat(parts).cpu()
