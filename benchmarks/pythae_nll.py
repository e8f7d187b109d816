"""The estimator of log p(x) of pythae on the reference's network.

Install it by `pip install -r benchmarks/requirements.txt`.

Source: Chadebec, Vincent & Allassonniere (2022), Pythae: unifying generative autoencoders in Python.
"""

import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from reference import Decoder, Encoder, Network
from torch import Tensor


class _Encoder(BaseEncoder):
    def __init__(self, encoder: Encoder):
        super().__init__()
        self.network = encoder

    def forward(self, x: Tensor) -> ModelOutput:
        mu, log_var = self.network(x)
        return ModelOutput(embedding=mu, log_covariance=log_var)


class _Decoder(BaseDecoder):
    def __init__(self, decoder: Decoder):
        super().__init__()
        self.network = decoder

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z))


def model(network: Network) -> VAE:
    """The network as a model of pythae."""
    config = VAEConfig(
        input_dim=(1024,), latent_dim=network.encoder.mean.out_features, reconstruction_loss="bce"
    )
    device = next(network.parameters()).device
    return VAE(config, _Encoder(network.encoder), _Decoder(network.decoder)).to(device)


@torch.no_grad()
def log_px(vae: VAE, y: Tensor, num_samples: int, batch_size: int) -> float:
    """Mean log p of observations (n, 1024).

    `get_nll` returns the mean of log p, in spite of its name. It takes `batch_size` samples of one image at a
    time, which must divide `num_samples`: otherwise it draws another number of samples than asked for.
    """
    return float(vae.get_nll(y, num_samples, batch_size))
