"""Training many models side by side."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memlib.device import products
from memlib.ensemble import Ensemble, Tick, draws, flipped, perturbed


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
    with products(model.precision, model.device):
        loss = negative_elbo(model, y, eps)  # (E, B)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
    optimizer.step()
    return (loss.detach() - model.likelihood.log_jacobian(y)).sum(-1)


class _Replayed:
    """A function of a tensor of indices, recorded as a CUDA graph for every width of its argument.

    A width's first calls run as they are, on a stream of their own as recording demands. Recording computes
    nothing; it is followed by a replay. Thousands of small kernels then start without Python.
    """

    WARM_UP = 3

    def __init__(
        self, function: Callable[[Tensor], None], generators: Sequence[torch.Generator], device: torch.device
    ):
        self._function, self._calls = function, {}
        self._side, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._generators = generators
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def __call__(self, batch: Tensor) -> None:
        width = batch.shape[1]
        self._calls[width] = self._calls.get(width, 0) + 1
        if self._calls[width] <= self.WARM_UP:
            self._side.wait_stream(torch.cuda.current_stream(batch.device))
            with torch.cuda.stream(self._side):
                self._function(batch)
            torch.cuda.current_stream(batch.device).wait_stream(self._side)
            return
        if width not in self._graphs:
            graph, argument = torch.cuda.CUDAGraph(), batch.clone()
            for generator in self._generators:
                graph.register_generator_state(generator)
            recording = torch.cuda.graph(graph, pool=self._pool, stream=self._side)
            with torch.cuda.device(batch.device), recording:
                self._function(argument)
            self._graphs[width] = graph, argument
        graph, argument = self._graphs[width]
        argument.copy_(batch)
        graph.replay()


def adam(model: Ensemble, learning_rate: float) -> torch.optim.Adam:
    """The optimizer of all models, with PyTorch's defaults but for the learning rate."""
    cuda = model.device.type == "cuda"
    return torch.optim.Adam(model.params.values(), lr=learning_rate, fused=True, capturable=cuda)


def fit(
    model: Ensemble,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    training_sets: Sequence[NDArray[np.int64]],
    *,
    epochs: Iterable[int],
    batch_size: int,
    flip: bool,
    order: Sequence[np.random.Generator],
    noise: Sequence[torch.Generator],
    tick: Tick | None = None,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Train E models side by side; yields after every epoch.

    All models take the same steps: where the training sets differ in size by one image, the larger leave one
    out per epoch, drawn anew. The models may be those of several repeats, sorted by repeat; what a repeat's
    models see does not depend on the others.

    Args:
        model: E models, trained in place.
        optimizer: of the model's parameters, see `adam`.
        images: uint8 (n, C, H, W) on the model's device.
        training_sets: for every model the indices of its training images.
        epochs: numbers of the passes over the data, yielded as they are.
        batch_size: images per step and model; the last batch of an epoch may be smaller.
        flip: mirror each training image with probability one half.
        order: of every repeat, draws the order of the images.
        noise: of every repeat, draws flips, binarization or dequantization, and latent noise; on the model's
            device.
        tick: called after every step.

    Yields:
        Epoch and the mean negative ELBO per image over the epoch in pixel space, (E,), nats; where a model's
        training diverged, it is not finite.

    Source: supplement B.3.
    """
    E, size, device = len(model), min(map(len, training_sets)), images.device
    total = torch.zeros(E, dtype=torch.float64, device=device)

    def step(batch: Tensor) -> None:  # (E, B)
        x = images[batch]  # (E, B, C, H, W)
        x = flipped(x, noise) if flip else x
        y = perturbed(model.likelihood, x.flatten(2), noise, model.dtype)
        eps = draws(torch.randn, (*batch.shape, model.latent_dim), noise, model.dtype)
        total.add_(train_step(model, optimizer, y, eps))

    advance = _Replayed(step, noise, device) if device.type == "cuda" else step
    for epoch in epochs:
        model.train()
        K = E // len(order)
        orders = [order[e // K].permutation(training_sets[e])[:size] for e in range(E)]
        total.zero_()
        for batch in torch.from_numpy(np.stack(orders)).to(device).split(batch_size, dim=1):
            advance(batch)
            if tick:
                tick(batch.numel())
        yield epoch, total.cpu().numpy() / size


@torch.no_grad()
def mean_loss(
    model: Ensemble, images: Tensor, noise: torch.Generator, batch_size: int = 512
) -> NDArray[np.float64]:
    """Mean negative ELBO per image of `images` (n, C, H, W) in pixel space, evaluation mode, (E,), nats."""
    model.train(False)
    total = torch.zeros(len(model), dtype=torch.float64)
    for x in images.split(batch_size):
        y = perturbed(model.likelihood, x.flatten(1).expand(len(model), -1, -1), noise, model.dtype)
        eps = draws(torch.randn, (*y.shape[:2], model.latent_dim), noise, model.dtype)
        with products(model.precision, model.device):
            loss = negative_elbo(model, y, eps) - model.likelihood.log_jacobian(y)
        total += loss.sum(-1).double().cpu()
    return total.numpy() / len(images)
