"""Small models and images for the tests."""

import torch

from memlib.models import build_vae

E = 3


def models(architecture, likelihood, channels, latent_dim=4, count=E, dtype=torch.float64, generator=None):
    generator = generator or torch.Generator().manual_seed(1)
    options = {"channels": channels, "latent_dim": latent_dim, "width": 4, "generator": generator}
    return [build_vae(architecture, likelihood, **options).to(dtype) for _ in range(count)]


def digits(n=50):
    return torch.randint(
        0, 256, (n, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(5)
    )
