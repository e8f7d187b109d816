"""How fast memlib scores, beside the paper's way, pythae and the decoder's products alone, and how exactly.

    MEMLIB_DATA=/path/to/data python benchmarks/score.py [--device cuda] [--precision bfloat16]

Methods take turns, call by call. `--help` lists the options.
"""

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import reference
import torch
from measure import Asked, Measured, Method, benchmark, compare, fastest, side_by_side, spread
from numpy.typing import NDArray
from torch import Tensor
from workload import FOLDS, GROUPS, described, observed, setting, training

from memlib.data import ImageSet
from memlib.device import products
from memlib.ensemble import Ensemble, perturbed
from memlib.experiment import Experiment, Stream
from memlib.proposals import evaluations
from memlib.runs.cost import flops_per_image
from memlib.scoring import DEVICE_TILE, TILE, forked, score_images

SAMPLES = 256  # S, of the encoder's proposal
FITTED_SAMPLES = 128  # S, of fitted ones
TRAINING_STEPS, TRAINING_IMAGES = 4220, 54_000  # the paper's first evaluation, after 5 epochs
COMPARED = 32  # images of the accuracy table
PRODUCTS = "the decoder's products"
VARIANTS = {
    "eager": {"num_samples": SAMPLES, "proposal": "encoder"},
    "compiled": {"num_samples": SAMPLES, "proposal": "encoder", "compiled": True},
    "fitted": {"num_samples": FITTED_SAMPLES, "proposal": "fitted"},
}


@dataclass(frozen=True)
class Trained:
    """One trained model, taken K times, the images that it scores, and where."""

    experiment: Experiment
    state: dict[str, NDArray]
    images: ImageSet
    device: torch.device

    @property
    def x(self) -> Tensor:
        return torch.tensor(self.images.images, device=self.device)

    def network(self, k: int) -> reference.Network:
        """Model k for the reference."""
        network = reference.Network(self.experiment.latent_dim)
        network.load_state_dict({name: torch.tensor(array[k]) for name, array in self.state.items()})
        return network.to(self.device)

    def ensemble(self, precision: str, repeats: int = 1) -> Ensemble:
        """All models for memlib, as often as there are repeats."""
        state = {name: np.concatenate([array] * repeats) for name, array in self.state.items()}
        return Ensemble.from_state(self.experiment.build(1), state, self.device, precision)

    def noise(self, repeats: int = 1) -> list[torch.Generator]:
        return [self.experiment.torch_stream(Stream.SCORING_NOISE, r, self.device) for r in range(repeats)]


def trained(images: ImageSet, device: torch.device) -> Trained:
    """Train a model on the first images, for about `TRAINING_STEPS`."""
    several = observed(TRAINING_IMAGES)
    steps = math.ceil(len(several) / setting(several, epochs=1).batch_size)
    experiment = setting(several, epochs=math.ceil(TRAINING_STEPS / steps))
    model, epochs = training(experiment, several, device, [np.arange(len(several))])
    for _ in epochs:
        pass
    return Trained(experiment, {k: np.repeat(v, FOLDS, 0) for k, v in model.state().items()}, images, device)


def plain(work: Trained, batch_size: int) -> Callable[[], Tensor]:
    """The reference; one model."""
    batches = reference.loader(work.images.images, batch_size, shuffle=False, device=work.device)
    return functools.partial(reference.score, work.network(0), batches, SAMPLES)


def by_pythae(work: Trained, batch_size: int) -> Callable[[], float]:
    """pythae on the reference's network; one model."""
    import pythae_nll

    model, x = pythae_nll.model(work.network(0)), work.x.flatten(1)
    return lambda: pythae_nll.log_px(model, torch.bernoulli(x / 255), SAMPLES, batch_size)


def by_memlib(
    work: Trained, precision: str, options: dict[str, Any], tasks: int, repeats: int
) -> Callable[[], list[Tensor]]:
    """Tasks side by side, each with the models of so many stacked repeats; a variant's options."""

    def task() -> Callable[[], Tensor]:
        model, x, noise = work.ensemble(precision, repeats), work.x, work.noise(repeats)
        return lambda: score_images(model, x, noise=noise, **options).log_px.cpu()

    return side_by_side([task] * tasks)


def products_alone(work: Trained, precision: str, tasks: int, repeats: int) -> Callable[[], object]:
    """The decoder's dense products for as many samples, in blocks of as many rows as memlib takes.

    On a CPU the models come one after the other, on a GPU in one batched product.
    """
    cuda, n = work.device.type == "cuda", len(work.images) * SAMPLES
    params = work.ensemble(precision, repeats).params
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    stacked = [params[f"decoder.trunk.{i}.weight"].detach().to(dtype) for i in (0, 2, 4)]  # (E, in, out)
    models = [stacked] if cuda else list(zip(*stacked, strict=True))
    most = DEVICE_TILE // FOLDS // repeats if cuda else TILE
    blocks = math.ceil(n * stacked[-1].shape[-1] / most)
    rows = math.ceil(n / blocks)

    def task() -> Callable[[], None]:
        widths = [models[0][0].shape[-2], *(w.shape[-1] for w in models[0])]
        z, *outputs = (
            torch.rand(*models[0][0].shape[:-2], rows, width, device=work.device).to(dtype)
            for width in widths
        )

        @torch.no_grad()
        def multiply() -> None:
            with products(precision, work.device):
                for weights in models:
                    for _ in range(blocks):
                        h = z
                        for w, out in zip(weights, outputs, strict=True):
                            h = torch.matmul(h, w, out=out)
            if cuda:
                torch.cuda.synchronize(work.device)

        return multiply

    return side_by_side([task] * tasks)


def methods(work: Trained, precisions: Sequence[str]) -> list[Method]:
    """The reference, pythae, and memlib with the products it cannot do without."""
    cuda, n = work.device.type == "cuda", len(work.images)
    cores, flops = 1 if cuda else torch.get_num_threads(), flops_per_image(work.experiment, 1)
    flop, rows = flops.encode + SAMPLES * flops.decode, []
    decodings = evaluations(work.experiment.latent_dim, FITTED_SAMPLES)
    fitted_flop = flops.encode + decodings * flops.decode
    others = {"reference": (plain, [64, 512] if cuda else [1, 8, 64])}
    if importlib.util.find_spec("pythae"):
        others["pythae get_nll"] = by_pythae, [64, SAMPLES]
    for name, (way, sizes) in others.items():
        best = fastest(sizes, lambda size, way=way: way(work, size)())
        make = functools.partial(way, work, best)
        rows.append(Method(f"{name}, batches of {best}", "float32", cores, make, n, flop))
    for precision in precisions:
        for repeats in GROUPS if cuda else (1,):
            ways: dict[str, Callable[[], Callable[[], object]]] = {
                f"memlib, {name}": functools.partial(by_memlib, work, precision, options, cores, repeats)
                for name, options in VARIANTS.items()
            }
            ways[PRODUCTS] = functools.partial(products_alone, work, precision, cores, repeats)
            for name, make in ways.items():
                title = f"{name}, {cores * repeats} x {FOLDS} models"
                own = fitted_flop if name.endswith("fitted") else flop
                rows.append(Method(title, precision, cores, make, cores * repeats * FOLDS * n, own))
    return rows


def beside_products(measured: Sequence[Measured]) -> str:
    """memlib's time over that of the products alone in the same round."""
    lines = []
    for i, m in enumerate(measured):
        if m.method.name.startswith("memlib") and "fitted" not in m.method.name:
            alone = next(other for other in measured[i:] if other.method.name.startswith(PRODUCTS))
            times = spread(a / b for a, b in zip(alone.rates, m.rates, strict=True))
            lines.append(f"{m.method.name}, {m.method.precision} {times}")
    return f"memlib's time over that of the products alone: {'; '.join(lines)}"


def accuracy(work: Trained, precisions: Sequence[str]) -> str:
    """|log p - log p in float64| at equal noise, where float64 is the reference's code."""
    x, Z = work.x[:COMPARED], work.experiment.latent_dim
    # in the order in which `score_images` draws on a CPU: a version for each model, then its latents
    [noise] = work.noise()
    y = perturbed(work.ensemble("float32").likelihood, x.flatten(1).expand(FOLDS, -1, -1), noise)
    forks = [forked(noise) for _ in range(1 if work.device.type == "cuda" else FOLDS)]
    shape = FOLDS // len(forks), len(x), SAMPLES, Z
    eps = torch.cat([torch.randn(shape, generator=fork, device=fork.device) for fork in forks])
    eps = eps.transpose(1, 2)  # (E, S, B, Z)

    def by_reference(dtype: torch.dtype) -> Tensor:
        each = [(work.network(k).to(dtype), y[k].to(dtype), eps[k].to(dtype)) for k in range(FOLDS)]
        return torch.stack([reference.log_px(*arguments) for arguments in each])

    found = {("reference", "float32"): by_reference(torch.float32)}
    for precision in precisions:
        for name in ("eager", "compiled"):
            scored = score_images(work.ensemble(precision), x, noise=work.noise(), **VARIANTS[name])
            found[f"memlib, {name}", precision] = scored.log_px[:, 0]
    exact = by_reference(torch.float64)
    lines = []
    for names, log_px in found.items():
        error = (log_px.double() - exact).abs()
        lines.append(f"{', '.join(names)} mean {error.mean():.2g}, largest {error.max():.2g} nats")
    return f"errors against float64 at equal noise, {len(x)} images, {FOLDS} times: {'; '.join(lines)}"


def convergence(work: Trained, precisions: Sequence[str]) -> str:
    """log p by every proposal minus that of fitted ones with eight times the samples, of one version."""
    model, [stream], lines = work.ensemble("float32").part(slice(0, 1)), work.noise(), []

    def log_px(model: Ensemble, **options: Any) -> Tensor:
        version = work.experiment.torch_stream(Stream.VERSIONS, 0)
        return score_images(model, work.x, noise=forked(stream), versions=[version], **options).log_px[0, 0]

    best = log_px(model, num_samples=8 * FITTED_SAMPLES, proposal="fitted")
    for precision in precisions:
        own = work.ensemble(precision).part(slice(0, 1))
        for name in ("eager", "fitted"):
            error = (log_px(own, **VARIANTS[name]) - best).double()
            spread = f"{error.mean():.3f} +- {error.std() / len(error) ** 0.5:.3f}"
            lines.append(f"{VARIANTS[name]['proposal']}, {precision} {spread} nats")
    return f"log p minus that of fitted proposals with {8 * FITTED_SAMPLES} samples: {'; '.join(lines)}"


@benchmark(images=128)
def main(asked: Asked) -> None:
    """Compare the scoring of memlib with the paper's way."""
    images = observed(asked.count)
    title = (
        f"scoring {described(images)}, S = {SAMPLES}, of fitted proposals {FITTED_SAMPLES}, {asked.rounds} "
        f"rounds of one call per method; a model trained for {TRAINING_STEPS} steps:\non a CPU memlib leaves "
        "out hidden units that are off in every sample of an image, so that its speed depends on weights; "
        "the reference has all cores"
    )
    work = trained(images, asked.device)

    def explain(measured: Sequence[Measured]) -> list[str]:
        lines = [beside_products(measured), accuracy(work, asked.precisions)]
        lines.append(convergence(work, asked.precisions))
        if not importlib.util.find_spec("pythae"):
            lines.append(
                "no row for pythae, which is not installed: pip install -r benchmarks/requirements.txt"
            )
        return lines

    compare(asked, title, methods(work, asked.precisions), "pairs", explain)


if __name__ == "__main__":
    main()
