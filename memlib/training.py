"""Training many models side by side, and all that changes while they train."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memlib.device import own_settings, products
from memlib.ensemble import Ensemble, Tick, draws, flipped, perturbed

LOG = logging.getLogger("memlib")
_RESULT = "result."  # prefix of what has been recorded
_MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, by the names PyTorch gives them


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
    nothing; it is followed by a replay. Thousands of small kernels then start without Python. Where recording
    fails, that is said once, and all calls run as they are.
    """

    WARM_UP = 3

    def __init__(
        self, function: Callable[[Tensor], None], generators: Sequence[torch.Generator], device: torch.device
    ):
        self._function, self._calls, self._generators = function, {}, generators
        self._side, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] | None = {}

    def __call__(self, batch: Tensor) -> None:
        width = batch.shape[1]
        self._calls[width] = self._calls.get(width, 0) + 1
        if self._graphs is not None and self._calls[width] > self.WARM_UP and width not in self._graphs:
            self._record(batch)
        if self._graphs is None:
            return self._function(batch)
        if width in self._graphs:
            graph, argument = self._graphs[width]
            argument.copy_(batch)
            return graph.replay()
        self._side.wait_stream(torch.cuda.current_stream(batch.device))
        with torch.cuda.stream(self._side):
            self._function(batch)
        torch.cuda.current_stream(batch.device).wait_stream(self._side)

    def _record(self, batch: Tensor) -> None:
        graph, argument = torch.cuda.CUDAGraph(), batch.clone()
        try:
            for generator in self._generators:
                graph.register_generator_state(generator)
            recording = torch.cuda.graph(graph, pool=self._pool, stream=self._side)
            with torch.cuda.device(batch.device), recording:
                self._function(argument)
        except Exception as error:  # whatever the driver, PyTorch or a kernel that cannot be recorded raises
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            LOG.warning("training steps cannot be recorded as a CUDA graph (%s); they take longer", reason)
            self._graphs = None
        else:
            self._graphs[batch.shape[1]] = graph, argument


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


@own_settings()
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


class Snapshot(NamedTuple):
    """All that a member needs to go on after an epoch: its arrays, and facts of the computation so far."""

    epoch: int
    arrays: dict[str, NDArray]
    facts: dict[str, Any]


@dataclass
class TrainState:
    """Everything that changes while the models of some members train side by side.

    A member is a repeat, or what else has random streams of its own.

    Attributes:
        model: E models, as many of each member, sorted by member.
        optimizer: Adam over the model's parameters.
        order: of every member, draws the order of its training images.
        noise: by purpose, one generator per member.
        epoch: passes over the data that are done.
        recorded: by name, in the order of time, entries (E, ...).
        seconds: of training so far, added up over all sittings.
        resumed: the epochs after which training went on from a snapshot.
        torch_version: PyTorch's, or its versions if that changed on the way.
    """

    model: Ensemble
    optimizer: torch.optim.Optimizer
    order: list[np.random.Generator]
    noise: dict[str, list[torch.Generator]]
    epoch: int = 0
    recorded: dict[str, list[NDArray]] = field(default_factory=dict)
    seconds: float = 0.0
    resumed: list[int] = field(default_factory=list)
    torch_version: str = str(torch.__version__)

    def record(self, **entries: NDArray) -> None:
        """Add an entry (E, ...) to each of these."""
        for name, entry in entries.items():
            self.recorded.setdefault(name, []).append(entry)

    def models(self, i: int) -> slice:
        """The models of member i."""
        count = len(self.model) // len(self.order)
        return slice(i * count, (i + 1) * count)

    def results(self, i: int) -> dict[str, NDArray]:
        """What has been recorded of member i, (times, models of the member, ...)."""
        return {name: np.stack([e[self.models(i)] for e in each]) for name, each in self.recorded.items()}

    def parameters(self, i: int) -> dict[str, NDArray]:
        """Parameters and batch-norm statistics of member i, as `Ensemble.state` gives them."""
        return self.model.part(self.models(i)).state()

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, batch-norm statistics and Adam's moments by name, each (E, ...)."""
        tensors = {f"model.{name}": t for name, t in (self.model.params | self.model.buffers).items()}
        for name, p in self.model.params.items():
            tensors |= {f"{moment}.{name}": self.optimizer.state[p][moment] for moment in _MOMENTS}
        return tensors

    def _generators(self, i: int) -> dict[str, torch.Generator]:
        return {f"stream.{purpose}": each[i] for purpose, each in self.noise.items()}

    def snapshot(self, i: int) -> Snapshot:
        """All that member i needs to go on, whoever trains beside it then."""
        steps = self.optimizer.state[next(iter(self.model.params.values()))]["step"]
        arrays = {
            **{name: t.detach()[self.models(i)].cpu().numpy() for name, t in self._tensors().items()},
            **{name: generator.get_state().numpy() for name, generator in self._generators(i).items()},
            **{f"{_RESULT}{name}": array for name, array in self.results(i).items()},
            "order": np.array(json.dumps(self.order[i].bit_generator.state)),
            "steps": steps.cpu().numpy(),
        }
        facts = {name: getattr(self, name) for name in ("seconds", "resumed", "torch_version")}
        return Snapshot(self.epoch, arrays, facts)

    @torch.no_grad()
    def restore(self, saved: Sequence[Snapshot]) -> None:
        """Go on from the snapshots of all members, taken after the same epoch."""
        parts = [one.arrays for one in saved]
        for p in self.model.params.values():
            steps = torch.tensor(parts[0]["steps"], device=self.model.device)
            moments = {moment: torch.zeros_like(p) for moment in _MOMENTS}
            self.optimizer.state[p] = {"step": steps, **moments}
        for name, tensor in self._tensors().items():
            tensor.copy_(torch.from_numpy(np.concatenate([part[name] for part in parts])))
        for i, part in enumerate(parts):
            for name, generator in self._generators(i).items():
                generator.set_state(torch.from_numpy(part[name]))
            self.order[i].bit_generator.state = json.loads(str(part["order"]))
        names = [name for name in parts[0] if name.startswith(_RESULT)]
        together = {name: np.concatenate([part[name] for part in parts], axis=1) for name in names}
        self.recorded = {name.removeprefix(_RESULT): list(array) for name, array in together.items()}
        facts = [one.facts for one in saved]
        self.epoch = saved[0].epoch
        self.seconds = max(each["seconds"] for each in facts)
        self.resumed = [*max((each["resumed"] for each in facts), key=len), self.epoch]
        before, now = max((each["torch_version"] for each in facts), key=len), self.torch_version
        if before.split(", then ")[-1] != now:
            LOG.warning(
                "going on with torch %s after torch %s: last digits may differ from either", now, before
            )
            before += f", then {now}"
        self.torch_version = before
