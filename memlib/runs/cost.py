"""What an experiment costs: FLOP (2 per multiply-add) and bytes by counting, time by measuring some steps."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlib.checks import check_range
from memlib.device import check_precision, choose_device, one_thread, own_settings, products
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment
from memlib.models import SIDE
from memlib.proposals import POINTS, evaluations
from memlib.runs.store import Member
from memlib.scoring import BLOCK, DEVICE_TILE, FEWEST_FITTED, NOISE, TILE, score_images
from memlib.training import adam, fit, negative_elbo

# NVIDIA's data sheet of the H200: FLOP/s by precision, without sparsity, and B/s of its memory.
H200_FLOPS = {"float32": 67e12, "tf32": 495e12, "bfloat16": 989e12}
H200_BANDWIDTH = 4.8e12
ADAM_BYTES = 28  # per parameter and step: reads p, g, m, v and writes p, m, v, all float32
STATE_BYTES = 16  # per parameter: p, g, m, v
PROBE_FLOP = {"cpu": 5e9, "cuda": 1e12}  # of what a probe times: a quarter of a second on a slow core


@dataclass(frozen=True)
class Flops:
    """FLOP of one model for one image, and the sizes behind them."""

    train: int  # forward and backward
    encode: int
    decode: int
    parameters: int
    outputs: int  # of all layers, numbers
    model_bytes: int  # of parameters and buffers


@functools.lru_cache(maxsize=16)
def flops_per_image(experiment: Experiment, channels: int) -> Flops:
    """PyTorch's count of the products and convolutions of one model for one image of 1 or 3 channels.

    Products with zeros, which scoring on a CPU may leave out, count.
    """
    # on the meta device: of shapes without numbers, so that nothing is computed
    vae, outputs = experiment.build(channels), [channels * SIDE**2]
    for layer in vae.modules():
        if next(layer.children(), None) is None:
            layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output.numel()))
    y, eps = (torch.empty(1, size, device="meta") for size in (outputs[0], experiment.latent_dim))
    model = SimpleNamespace(encode=vae.encoder, decode=vae.decoder, likelihood=vae.likelihood)

    def counted(function: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            function()
        return counter.get_total_flops()

    encode, decode = counted(lambda: model.encode(y)), counted(lambda: model.decode(eps))
    numbers = sum(outputs)  # now that every layer has been called once
    train = counted(lambda: negative_elbo(model, y, eps).sum().backward())
    parameters = sum(p.numel() for p in vae.parameters())
    stored = sum(tensor.nbytes for tensor in vae.state_dict().values())
    return Flops(train, encode, decode, parameters, numbers, stored)


def _scoring_flop(experiment: Experiment, flops: Flops, num_samples: int) -> int:
    """FLOP of scoring an image in one version under one model, where k-hat asks for no more samples."""
    fitted = experiment.proposal == "fitted"
    decodings = evaluations(experiment.latent_dim, num_samples) if fitted else num_samples
    return flops.encode + decodings * flops.decode


@dataclass(frozen=True)
class Cost:
    """What is missing of an experiment, counted: totals, unless a comment says otherwise."""

    models: int
    steps: int  # of one model of a repeat; where no repeat is to be trained, of the model of all images
    training_flop: int  # with the losses of validation images
    scoring_flop: int  # with S samples for every image, and what fits its proposal
    adam_bytes: int  # moved between memory and processor
    result_bytes: int  # on disk, of log_px and ess: most of it
    model_bytes: int  # on disk, of the models that are trained, at the last epoch
    cpu_memory: int  # peak in bytes, a bound; see `cost`
    gpu_memory: int


@own_settings()
def cost(
    experiment: Experiment,
    n: int,
    channels: int,
    validation_images: int,
    missing: Mapping[Member, int] | None = None,
    to_score: Mapping[Member, int] | None = None,
    at_once: int = 1,
) -> Cost:
    """Count what the missing part of an experiment costs; measures nothing.

    Memory, a bound without Python and PyTorch themselves: the images, once and once per task; 16 bytes per
    parameter; results twice; the outputs of all layers, three times for a training batch or, on a GPU and,
    once for a tile of scoring, the latter with four times what it draws and a copy of the parameters.

    Args:
        n: training images, of `channels` 1 or 3.
        validation_images: on which the model of all images is evaluated after every epoch.
        missing: repeats to compute, and None for the model of all images, each with the epochs that it has
            behind it; by default all from the start.
        to_score: of repeats that are trained, at how many epochs they are to be scored anew.
        at_once: repeats at a time, tasks side by side on a CPU or stacked into one on a GPU.

    Raises:
        ValueError: fewer images than folds, other channels, or a number outside what is possible.
    """
    K, S, B, epochs = experiment.folds, experiment.num_samples, experiment.batch_size, experiment.epochs
    missing = dict.fromkeys([None, *range(experiment.repeats)], 0) if missing is None else missing
    begun = {member: done for member, done in missing.items() if member is not None}
    check_range(K, n=n)
    check_range(0, epochs, **{"epochs that are done": max(missing.values(), default=0)})
    check_range(0, validation_images=validation_images)
    check_range(1, at_once=at_once)
    flops, pixels, models = flops_per_image(experiment, channels), channels * SIDE**2, at_once * K
    size = n - math.ceil(n / K)  # of the smallest training set, which sets the number of steps
    steps, full_steps = math.ceil(size / B), math.ceil(n / B)  # of an epoch
    repeat_epochs = sum(epochs - done for done in begun.values())
    full_epochs = epochs - missing.get(None, epochs)
    training_passes = repeat_epochs * K * size + full_epochs * n
    optimizer_steps = repeat_epochs * K * steps + full_epochs * full_steps
    losses = full_epochs * validation_images
    evaluated = experiment.evaluated_epochs
    R = experiment.versions
    pairs = len(evaluated) * K * n * R  # of a repeat
    evaluated_epochs = sum(epoch > done for epoch in evaluated for done in begun.values())
    scored_pairs = (evaluated_epochs + sum((to_score or {}).values())) * K * n * R
    trained = sum(done < epochs for done in begun.values()) * K + (full_epochs > 0)

    def memory(copies: int, tile: int) -> int:
        decoded = max(tile, models * pixels) // pixels * flops.outputs
        drawn = at_once * max(NOISE, K * S * experiment.latent_dim) + models * BLOCK * pixels
        rows = max(tile // pixels, (K if tile == DEVICE_TILE else at_once) * FEWEST_FITTED * POINTS)
        fitted = 3 * rows * flops.outputs
        training = 3 * models * B * flops.outputs
        scoring = max(decoded, fitted) + 4 * drawn + models * flops.parameters
        # a recorded training step keeps its buffers while a GPU scores
        buffers = training + scoring if tile == DEVICE_TILE else max(training, scoring)
        held = models * flops.parameters * STATE_BYTES + 2 * 16 * at_once * pairs
        return (1 + copies) * n * pixels + held + 4 * buffers

    return Cost(
        models=len(begun) * K + (None in missing),
        steps=epochs * (steps if repeat_epochs else full_steps * (full_epochs > 0)),
        training_flop=training_passes * flops.train + losses * (flops.encode + flops.decode),
        scoring_flop=scored_pairs * _scoring_flop(experiment, flops, S),
        adam_bytes=ADAM_BYTES * flops.parameters * optimizer_steps,
        result_bytes=8 * scored_pairs // R + (4 * scored_pairs if R > 1 else 0),
        model_bytes=trained * flops.model_bytes,
        cpu_memory=max(memory(at_once, at_once * TILE), 2 * 8 * experiment.repeats * pairs),
        gpu_memory=memory(1, DEVICE_TILE),
    )


@dataclass(frozen=True)
class Limits:
    """What a device reaches now: FLOP/s of a large matrix product, B/s of a streaming addition."""

    flops: float
    bandwidth: float


@own_settings()
def machine_limits(device: str | None = None, precision: str = "float32") -> Limits:
    """Measure the two limits of a device, on a CPU with the threads that PyTorch has, in well under a second.

    Args:
        device: as in `memlib.run`.
        precision: of the product, (many, 512) by (512, 1024): float32, tf32 (only on a GPU) or bfloat16.

    Raises:
        ValueError: a device that is not there, or a precision that it has not.
    """
    where = choose_device(device)
    check_precision(precision, where)
    rows, length = (2**16, 2**27) if where.type == "cuda" else (2**11, 2**24)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    with torch.no_grad(), products(precision, where):
        a, b = (torch.rand(shape, device=where).to(dtype) for shape in ((rows, 512), (512, 1024)))
        product = _median_seconds(lambda: a @ b, where)
        x, y = torch.ones(2, length, device=where)
        addition = _median_seconds(lambda: x.add_(y), where)
    return Limits(flops=2 * rows * 512 * 1024 / product, bandwidth=3 * x.nbytes / addition)


def _median_seconds(function: Callable[[], object], device: torch.device) -> float:
    """Median over two calls or more, for about a tenth of a second, after one that warms up."""
    wait, times = torch.get_device_module(device).synchronize, []
    while len(times) < 3 or sum(times) < 0.1:
        started = time.perf_counter()
        function()
        wait(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def _probe(
    e: Experiment, n: int, channels: int, device: torch.device, at_once: int
) -> tuple[float, float, float]:
    """FLOP/s of real steps of training a task's repeats, of training the model of all images, and of scoring.

    It takes a second or two, and random images. On a CPU on one core, as a task of a run has it, but without
    its neighbors, with fewer models than a repeat has, then fewer images, then fewer samples where a step is
    much work. Nothing is compiled. The models are new: a CPU scores trained perceptrons up to a third faster,
    as it skips units that are off.
    """
    flops, cuda, rng = flops_per_image(e, channels), device.type == "cuda", np.random.default_rng(0)
    batch, steps = min(e.batch_size, n - math.ceil(n / e.folds)), 16 if cuda else 1
    repeats = at_once if cuda else 1
    noise = [torch.Generator(device) for _ in range(repeats)]
    shape = max(BLOCK, steps * batch), channels, SIDE, SIDE
    images = torch.randint(256, shape, generator=noise[0], dtype=torch.uint8, device=device)
    vae = e.build(channels, torch.Generator())

    def training_rate(count: int, size: int, noise: list[torch.Generator]) -> float:
        """Of epochs of a few steps; the first, in which a GPU's steps are recorded, does not count."""
        model, sets = Ensemble.stack([vae] * count, device, e.precision), [np.arange(steps * size)] * count
        settings = {"epochs": itertools.count(), "batch_size": size, "flip": e.flip}
        streams = {"order": [rng] * len(noise), "noise": noise}
        epochs = fit(model, adam(model, 1e-4), images, sets, **settings, **streams)
        return steps * count * size * flops.train / _median_seconds(lambda: next(epochs), device)

    with one_thread():
        pairs = math.inf if cuda else PROBE_FLOP["cpu"] / flops.train
        count, size = np.clip([pairs / batch, pairs], 1, [repeats * e.folds, batch]).astype(int).tolist()
        training = training_rate(count, size, noise)
        full = training_rate(1, batch, noise[:1]) if cuda else training
        # on a CPU the models of a task are scored one after the other
        model = Ensemble.stack([vae] * (repeats * e.folds if cuda else 1), device, e.scoring_precision)
        flop = PROBE_FLOP[device.type] / len(model)
        S = int(np.clip(flop / flops.decode, 1, e.num_samples))
        each = _scoring_flop(e, flops, S)
        x = images[: int(np.clip(flop / each, 1, BLOCK))]
        seconds = _median_seconds(lambda: score_images(model, x, S, noise, proposal=e.proposal), device)
    return training, full, len(model) * len(x) * each / seconds


def makespan(seconds: Sequence[float], workers: int) -> float:
    """When the last task ends if each starts, in order, as soon as one of the workers is free."""
    ends = [0.0] * workers
    for task in seconds:
        ends[ends.index(min(ends))] += task
    return max(ends)


@dataclass(frozen=True)
class Estimate:
    """What is missing of an experiment, with time and memory; as text, with two significant digits."""

    cost: Cost
    training_seconds: float  # on this machine, of all tasks one after the other
    scoring_seconds: float  # the same, where k-hat asks for no more samples
    seconds: float  # until all is done, with as many tasks at once as asked for
    memory: int  # peak in bytes on this machine, a bound
    machine: str
    h200_seconds: float  # at least; see `estimate`

    def __str__(self) -> str:
        c = self.cost
        if not c.models:
            return "nothing is missing"
        training, scoring, memory, results, models = map(
            _quantity, (c.training_flop, c.scoring_flop, self.memory, c.result_bytes, c.model_bytes)
        )
        stored = f", {models}B of models (memlib prune frees them)" if c.model_bytes else ""
        return (
            f"{c.models} model{'s' * (c.models > 1)}, {f'{c.steps} steps each' if c.steps else 'trained'}\n"
            f"{training}FLOP of training, {scoring}FLOP of scoring\n"
            f"{memory}B of memory, {results}B of results{stored}\n"
            f"about {duration(self.seconds)} here ({self.machine}; timed now on a few steps)\n"
            f"at least {duration(self.h200_seconds)} on an H200 (data sheet)"
        )


def _quantity(value: float) -> str:
    power = int(math.log10(max(float(f"{value:.2g}"), 1))) // 3
    return f"{float(f'{value / 1000**power:.2g}'):g} {['', *'kMGTPEZY'][power]}"


def duration(seconds: float) -> str:
    """In the unit that suits it, with two significant digits."""
    units = (("days", 86400), ("h", 3600), ("min", 60))
    unit, length = next((u for u in units if seconds >= 2 * u[1]), ("s", 1))
    return f"{float(f'{seconds / length:.2g}'):g} {unit}"


@own_settings()
def estimate(
    experiment: Experiment,
    n: int,
    channels: int,
    validation_images: int,
    *,
    device: str | None = None,
    missing: Mapping[Member, int] | None = None,
    to_score: Mapping[Member, int] | None = None,
    at_once: int = 1,
) -> Estimate:
    """Count what is missing of an experiment, and time a few of its steps for a second or two.

    An H200 that reaches its data sheet needs at least: for training the longer of arithmetic and Adam's
    memory traffic, then for scoring the arithmetic.

    Args:
        device: as in `memlib.run`.
        at_once: as in `cost`, but no more than there are tasks; the rest as in `cost`, errors too.
    """
    where, sizes = choose_device(device), (n, channels, validation_images)
    cuda, precisions = where.type == "cuda", (experiment.precision, experiment.scoring_precision)
    missing = dict.fromkeys([None, *range(experiment.repeats)], 0) if missing is None else missing
    to_score = to_score or {}
    at_once = max(1, min(at_once, len(missing) - (cuda and None in missing)))
    c = cost(experiment, *sizes, missing, to_score, at_once)
    machine = torch.cuda.get_device_name(where) if cuda else f"CPU, {at_once} core{'s' * (at_once > 1)}"
    rates = _probe(experiment, n, channels, where, at_once) if missing else (1.0, 1.0, 1.0)
    tasks = {m: cost(experiment, *sizes, {m: done}, {m: to_score.get(m, 0)}) for m, done in missing.items()}
    training = [own.training_flop / rates[member is None] for member, own in tasks.items()]
    scoring = [own.scoring_flop / rates[2] for own in tasks.values()]
    workers, peaks = 1 if cuda else at_once, [H200_FLOPS[precision] for precision in precisions]
    return Estimate(
        cost=c,
        training_seconds=sum(training),
        scoring_seconds=sum(scoring),
        seconds=makespan(np.add(training, scoring), workers),
        memory=c.gpu_memory if cuda else c.cpu_memory,
        machine=f"{machine}, {' and '.join(dict.fromkeys(precisions))}",
        h200_seconds=max(c.training_flop / peaks[0], c.adam_bytes / H200_BANDWIDTH)
        + c.scoring_flop / peaks[1],
    )
