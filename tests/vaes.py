"""Small models and images for the tests."""

import numpy as np
import torch
from PIL import Image

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


def write_pictures(folder, seed, count=10):
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
