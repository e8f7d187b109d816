"""Small models and images for the tests."""

import numpy as np
import torch
from PIL import Image
from torch import nn

from memlib.ensemble import Ensemble
from memlib.models import VAE, build_vae

E = 3
KINDS = [("mlp", "bernoulli", 1), ("mlp", "gaussian", 1), ("conv", "gaussian", 3), ("conv", "bernoulli", 1)]


def models(architecture, likelihood, channels, count=E, dtype=torch.float64, seed=1) -> list[VAE]:
    """Untrained models, but for statistics of batch norm that each has of its own."""
    options = {"channels": channels, "latent_dim": 4, "width": 4, "generator": generator(seed)}
    each = [build_vae(architecture, likelihood, **options) for _ in range(count)]
    for layer in (layer for vae in each for layer in vae.modules() if isinstance(layer, nn.BatchNorm2d)):
        layer.running_mean.normal_(generator=options["generator"])
        layer.running_var.uniform_(0.5, 2, generator=options["generator"])
    return [vae.to(dtype) for vae in each]


def stacked(*kind, device="cpu", precision="float32", **options) -> Ensemble:
    """The same models in one."""
    return Ensemble.stack(models(*kind, **options), device, precision)


def generator(seed, device="cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def pictures(count, channels=1) -> torch.Tensor:
    """Images of noise, uint8 (count, channels, 32, 32)."""
    return torch.randint(0, 256, (count, channels, 32, 32), dtype=torch.uint8, generator=generator(5))


def write_pictures(folder, seed, count=10) -> None:
    rng = np.random.default_rng(seed)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
