"""Many models as one: parameters stacked along a leading model axis E, and their training.

The readable reference: `torch.func.vmap` over the stacked parameters of one template. Every model has its own
observations, its own noise and its own batch-norm statistics; one optimizer steps over all.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from memlib.models import VAE, Likelihood


@dataclass
class Ensemble:
    """E models of one architecture.

    Attributes:
        template: the architecture; its own parameters are not used.
        params: parameters by name, each (E, ...), leaves that require gradients.
        buffers: batch-norm statistics by name, each (E, ...).
    """

    template: VAE
    params: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @property
    def one_by_one(self) -> bool:
        """Whether the networks run one model after the other: vmap turns convolutions into grouped ones,
        which take two to three times as long on a CPU."""
        return self.device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in self.template.modules())

    @classmethod
    def stack(cls, models: Sequence[VAE], device: torch.device | str = "cpu") -> "Ensemble":
        """Stack models of one architecture; they are copied to `device`."""
        params, buffers = stack_module_state(list(models))
        params = {name: p.detach().to(device).requires_grad_() for name, p in params.items()}
        return cls(models[0], params, {name: b.to(device) for name, b in buffers.items()})

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    @property
    def likelihood(self) -> Likelihood:
        return self.template.likelihood

    @property
    def latent_dim(self) -> int:
        return self.template.encoder.mean.out_features

    @property
    def device(self) -> torch.device:
        return next(iter(self.params.values())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.params.values())).dtype

    def train(self, mode: bool = True) -> "Ensemble":
        """Let batch norm use and track the batch's statistics; with False it uses the tracked ones."""
        self.template.train(mode)
        return self

    def encode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x), each (E, B, Z), from observations (E, B, D)."""
        return self._call("encoder", y)

    def decode(self, z: Tensor) -> tuple[Tensor, ...]:
        """Parameters of p(x | z), tensors that broadcast to (E, B, D), from latent variables (E, B, Z)."""
        return self._call("decoder", z)

    def _call(self, part: str, inputs: Tensor) -> tuple[Tensor, ...]:
        module, prefix = getattr(self.template, part), f"{part}."
        params, buffers = (
            {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            for tensors in (self.params, self.buffers)
        )

        def call(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> tuple[Tensor, ...]:
            return functional_call(module, (p, b), (x,))

        if not self.one_by_one:
            return vmap(call)(params, buffers, inputs)
        # unbind gives views: batch norm updates the stacked statistics through them
        each = zip(*(_unbound(tensors, len(self)) for tensors in (params, buffers)), inputs, strict=True)
        return tuple(map(torch.stack, zip(*itertools.starmap(call, each), strict=True)))

    def state(self) -> dict[str, NDArray]:
        """All parameters and buffers by name as NumPy arrays (E, ...)."""
        return {name: t.detach().cpu().numpy() for name, t in (self.params | self.buffers).items()}

    @classmethod
    def from_state(
        cls, template: VAE, state: dict[str, NDArray], device: torch.device | str = "cpu"
    ) -> "Ensemble":
        """The ensemble whose `state()` was stored; `template` may live on the meta device."""
        tensors = {name: torch.as_tensor(array, device=device) for name, array in state.items()}
        params = {name: tensors[name].requires_grad_() for name, _ in template.named_parameters()}
        return cls(template, params, {name: tensors[name] for name, _ in template.named_buffers()})


def _unbound(tensors: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    columns = {name: t.unbind() for name, t in tensors.items()}
    return [{name: column[e] for name, column in columns.items()} for e in range(count)]


def negative_elbo(model: Ensemble, y: Tensor, eps: Tensor) -> Tensor:
    r"""$-\log p(y \mid z) + \mathrm{KL}(q(z \mid y) \,\|\, p(z))$ at $z = \mu + \sigma \varepsilon$, in nats.

    Args:
        model: E models.
        y: perturbed observations, (E, B, D).
        eps: standard normal noise, (E, B, Z).

    Returns:
        (E, B); for a likelihood in logit space, of the density in logit space.

    Source: Kingma & Welling (2014), eq. (10).
    """
    mu, log_var = model.encode(y)
    z = mu + torch.exp(0.5 * log_var) * eps
    log_pxz = model.likelihood.log_prob(y, *model.decode(z))
    kl = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(-1)
    return kl - log_pxz


def train_step(model: Ensemble, optimizer: torch.optim.Optimizer, y: Tensor, eps: Tensor) -> Tensor:
    """One step of all E models on their own batches.

    The gradient is that of the sum over the batch, as in the public code.

    Returns:
        The negative ELBO in pixel space summed over the batch, (E,), nats.
    """
    loss = negative_elbo(model, y, eps)  # (E, B)
    optimizer.zero_grad(set_to_none=True)
    loss.sum().backward()
    optimizer.step()
    return (loss.detach() - model.likelihood.log_jacobian(y)).sum(-1)


def perturbed(
    likelihood: Likelihood, images: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Binarize or dequantize gray values (..., D) anew, each entry with noise of its own."""
    uniform = torch.rand(images.shape, generator=generator, device=images.device, dtype=dtype)
    return likelihood.perturb(images, uniform)


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image (..., C, H, W) left to right with probability one half."""
    coin = torch.rand(images.shape[:-3], generator=generator, device=images.device) < 0.5
    return torch.where(coin[..., None, None, None], images.flip(-1), images)


def fit(
    model: Ensemble,
    images: Tensor,
    training_sets: Sequence[NDArray[np.int64]],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    flip: bool,
    order: np.random.Generator,
    noise: torch.Generator,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Train E models side by side with Adam; yields after every epoch.

    All models take the same steps: where the training sets differ in size by one image, the larger leave one
    out per epoch, drawn anew.

    Args:
        model: E models, trained in place.
        images: uint8 (n, C, H, W) on the model's device.
        training_sets: for every model the indices of its training images.
        epochs: passes over the data, >= 1.
        learning_rate: Adam's; its other settings are PyTorch's defaults.
        batch_size: images per step and model; the last batch of an epoch may be smaller.
        flip: mirror each training image with probability one half.
        order: draws the order of the images.
        noise: draws flips, binarization or dequantization, and latent noise; on the model's device.

    Yields:
        Epoch (1-based) and the mean negative ELBO per image over the epoch in pixel space, (E,), nats.

    Raises:
        FloatingPointError: the loss of a model is not finite.

    Source: supplement B.3.
    """
    optimizer = torch.optim.Adam(model.params.values(), lr=learning_rate, fused=True)
    size = min(map(len, training_sets))
    for epoch in range(1, epochs + 1):
        model.train()
        orders = torch.from_numpy(np.stack([order.permutation(members)[:size] for members in training_sets]))
        total = torch.zeros(len(model), dtype=torch.float64)
        for batch in orders.to(images.device).split(batch_size, dim=1):  # (E, B)
            x = images[batch]  # (E, B, C, H, W)
            x = flipped(x, noise) if flip else x
            y = perturbed(model.likelihood, x.flatten(2), noise, model.dtype)
            eps = torch.randn(
                (*batch.shape, model.latent_dim), generator=noise, device=images.device, dtype=model.dtype
            )
            total += train_step(model, optimizer, y, eps).double().cpu()
        loss = total.numpy() / size
        if not np.isfinite(loss).all():
            count = int((~np.isfinite(loss)).sum())
            raise FloatingPointError(
                f"training diverged: the loss of {count} of {len(loss)} models is not finite "
                f"in epoch {epoch} at learning_rate {learning_rate}; a smaller learning_rate may help"
            )
        yield epoch, loss


@torch.no_grad()
def mean_loss(
    model: Ensemble, images: Tensor, noise: torch.Generator, batch_size: int = 512
) -> NDArray[np.float64]:
    """Mean negative ELBO per image of `images` (n, C, H, W) in pixel space, evaluation mode, (E,), nats."""
    model.train(False)
    total = torch.zeros(len(model), dtype=torch.float64)
    for x in images.split(batch_size):
        y = perturbed(model.likelihood, x.flatten(1).expand(len(model), -1, -1), noise, model.dtype)
        eps = torch.randn((*y.shape[:2], model.latent_dim), generator=noise, device=y.device, dtype=y.dtype)
        loss = negative_elbo(model, y, eps) - model.likelihood.log_jacobian(y)
        total += loss.sum(-1).double().cpu()
    return total.numpy() / len(images)


def _to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    return (pixels * 255).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def sample(
    model: Ensemble, count: int, channels: int, generator: torch.Generator, batch_size: int = 512
) -> NDArray[np.uint8]:
    """Images at the decoder's mean for latent variables drawn from the prior, as in the paper's code.

    Returns:
        uint8 (E, count, C, 32, 32).
    """
    model.train(False)
    blocks = []
    for size in [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0):
        z = torch.randn(
            (len(model), size, model.latent_dim), generator=generator, device=model.device, dtype=model.dtype
        )
        blocks.append(_to_uint8(model.likelihood.pixels(*model.decode(z))))
    return np.concatenate(blocks, axis=1).reshape(len(model), count, channels, 32, 32)


@torch.no_grad()
def reconstruct(model: Ensemble, images: NDArray[np.uint8], generator: torch.Generator) -> NDArray[np.uint8]:
    """Images at the decoder's mean for the encoder's mean of perturbed `images` (n, C, H, W).

    Returns:
        uint8 (E, n, C, H, W).
    """
    model.train(False)
    x = torch.tensor(images, device=model.device).flatten(1).expand(len(model), -1, -1)
    mu, _ = model.encode(perturbed(model.likelihood, x, generator, model.dtype))
    return _to_uint8(model.likelihood.pixels(*model.decode(mu))).reshape(len(model), *images.shape)
