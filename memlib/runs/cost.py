"""What an experiment costs: FLOP (2 per multiply-add) and bytes by counting, time by measuring some steps."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from memlib.device import check_precision, choose_device, one_thread, products
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment
from memlib.models import SIDE
from memlib.runs.store import Member
from memlib.scoring import BATCH, DEVICE_TILE, NOISE, TILE, score_images
from memlib.training import adam, fit

# NVIDIA's data sheet of the H200: FLOP/s by precision, without sparsity, and B/s of its memory.
H200_FLOPS = {"float32": 67e12, "tf32": 495e12, "bfloat16": 989e12}
H200_BANDWIDTH = 4.8e12
ADAM_BYTES = 28  # per parameter and step: reads p, g, m, v and writes p, m, v, all float32
STATE_BYTES = 16  # per parameter: p, g, m, v
TRIAL_FLOP = 2e9  # of the first steps of a probe: a tenth of a second on a slow core
PROBE_SECONDS = 0.6  # for training, and again for scoring


@dataclass(frozen=True)
class Flops:
    """FLOP of one model for one image, and the sizes behind them."""

    train: int  # forward and backward
    encode: int
    decode: int
    parameters: int
    outputs: int  # of all layers, numbers


@functools.lru_cache(maxsize=16)
def flops_per_image(experiment: Experiment, channels: int) -> Flops:
    """Count the products and convolutions of one model for one image of 1 or 3 channels.

    The backward pass takes two products for every one of the forward pass, but one in the first layer: the
    image needs no gradient. Products with zeros, which scoring on a CPU may leave out, count.
    """
    model = experiment.build(channels, torch.Generator()).train(False)
    flop, outputs = [], [channels * SIDE**2]

    def count(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        outputs.append(output.numel())
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            # every weight is used once per position; a linear layer has one
            positions = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output)[0, 0].numel()
            flop.append(2 * layer.weight.numel() * positions)

    for module in model.modules():
        if next(module.children(), None) is None:
            module.register_forward_hook(count)
    with torch.no_grad():
        mu, _ = model.encoder(torch.zeros(1, outputs[0]))
        encode = sum(flop)
        model.decoder(mu)
    parameters = sum(p.numel() for p in model.parameters())
    return Flops(3 * sum(flop) - flop[0], encode, sum(flop) - encode, parameters, sum(outputs))


@dataclass(frozen=True)
class Cost:
    """What is missing of an experiment, counted: totals, unless a comment says otherwise."""

    models: int
    steps: int  # of one model of a repeat; where no repeat is missing, of the model of all images
    optimizer_steps: int  # of all models
    training_passes: int  # forward and backward, pairs of image and model
    scored_pairs: int  # of image and model, S samples each
    training_flop: int  # with the losses of validation images
    scoring_flop: int  # with S samples
    rescoring_flop: int  # at most, if Pareto k-hat asks for more samples everywhere
    adam_bytes: int  # moved between memory and processor
    parameters: int  # of one model
    result_bytes: int  # on disk, of log_px and ess: most of it
    cpu_memory: int  # peak in bytes, a bound; see `cost`
    gpu_memory: int


def cost(
    experiment: Experiment,
    n: int,
    channels: int,
    validation_images: int,
    missing: Mapping[Member, int] | None = None,
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
        at_once: repeats at a time, tasks side by side on a CPU or stacked into one on a GPU.

    Raises:
        ValueError: fewer images than folds, other channels, or a number outside what is possible.
    """
    K, S, B, epochs = experiment.folds, experiment.num_samples, experiment.batch_size, experiment.epochs
    missing = dict.fromkeys([None, *range(experiment.repeats)], 0) if missing is None else missing
    begun = [done for member, done in missing.items() if member is not None]
    _check("n", n, K)
    _check("number of repeats", len(begun), 0, experiment.repeats)
    _check("epochs that are done", max(missing.values(), default=0), 0, epochs)
    _check("validation_images", validation_images, 0)
    _check("at_once", at_once, 1)
    flops, pixels = flops_per_image(experiment, channels), channels * SIDE**2
    size = n - math.ceil(n / K)  # of the smallest training set, which sets the number of steps
    steps, full_steps = math.ceil(size / B), math.ceil(n / B)  # of an epoch
    repeat_epochs = sum(epochs - done for done in begun)
    full_epochs = epochs - missing[None] if None in missing else 0
    training_passes = repeat_epochs * K * size + full_epochs * n
    loss_passes = full_epochs * validation_images
    optimizer_steps = repeat_epochs * K * steps + full_epochs * full_steps
    pairs = len(experiment.evaluated_epochs) * K * n  # of a repeat
    scored_pairs = sum(epoch > done for done in begun for epoch in experiment.evaluated_epochs) * K * n
    models = at_once * K

    def memory(copies: int, tile: int) -> int:
        decoded = max(tile, models * pixels) // pixels * flops.outputs
        drawn = at_once * max(NOISE, K * experiment.most_samples * experiment.latent_dim)
        drawn += models * BATCH * pixels
        training, scoring = 3 * models * B * flops.outputs, decoded + 4 * drawn + models * flops.parameters
        # a recorded training step keeps its buffers while a GPU scores
        buffers = training + scoring if tile == DEVICE_TILE else max(training, scoring)
        held = models * flops.parameters * STATE_BYTES + 2 * 16 * at_once * pairs
        return (1 + copies) * n * pixels + held + 4 * buffers

    return Cost(
        models=len(begun) * K + (None in missing),
        steps=epochs * (steps if begun else full_steps * (None in missing)),
        optimizer_steps=optimizer_steps,
        training_passes=training_passes,
        scored_pairs=scored_pairs,
        training_flop=training_passes * flops.train + loss_passes * (flops.encode + flops.decode),
        scoring_flop=scored_pairs * (flops.encode + S * flops.decode),
        rescoring_flop=scored_pairs * (experiment.most_samples - S) * flops.decode,
        adam_bytes=ADAM_BYTES * flops.parameters * optimizer_steps,
        parameters=flops.parameters,
        result_bytes=8 * len(begun) * pairs,
        cpu_memory=max(memory(at_once, at_once * TILE), 2 * 8 * experiment.repeats * pairs),
        gpu_memory=memory(1, DEVICE_TILE),
    )


def _check(name: str, value: int, least: int, most: float = math.inf) -> None:
    if not least <= value <= most:
        allowed = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise ValueError(f"{name} is {value}; allowed: {allowed}")


@dataclass(frozen=True)
class Limits:
    """What a device reaches now: FLOP/s of a large matrix product, B/s of a streaming addition."""

    flops: float
    bandwidth: float


def machine_limits(device: str | None = None, precision: str = "float32", threads: int = 0) -> Limits:
    """Measure the two limits of a device, in well under a second.

    Args:
        device: as in `memlib.run`.
        precision: of the product, (many, 512) by (512, 1024): float32, tf32 (only on a GPU) or bfloat16.
        threads: of PyTorch on the CPU; 0 means as many as it is set to.

    Raises:
        ValueError: a device that is not there, a precision that it has not, or threads < 0.
    """
    where, before = choose_device(device), torch.get_num_threads()
    check_precision(precision, where)
    _check("threads", threads, 0)
    rows, length = (2**16, 2**27) if where.type == "cuda" else (2**11, 2**24)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    torch.set_num_threads(threads or before)
    try:
        with torch.no_grad(), products(precision, where):
            a, b = (torch.rand(shape, device=where).to(dtype) for shape in ((rows, 512), (512, 1024)))
            product = _median_seconds(lambda: a @ b, where)
            x, y = torch.ones(2, length, device=where)
            addition = _median_seconds(lambda: x.add_(y), where)
    finally:
        torch.set_num_threads(before)
    return Limits(flops=2 * rows * 512 * 1024 / product, bandwidth=3 * x.nbytes / addition)


def _median_seconds(function: Callable[[], object], device: torch.device, seconds: float = 0.1) -> float:
    """Median over two calls or more, for about `seconds`, after one that warms up."""
    times = []
    while len(times) < 3 or sum(times) < seconds:
        started = _now(device)
        function()
        times.append(_now(device) - started)
    return float(np.median(times[1:]))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class Probe:
    """Seconds of real steps of one task, and where that was measured."""

    training: float  # per image and model of a repeat
    full: float  # per image, of the model of all images
    scoring: float  # per image and model, S samples
    machine: str


def probe(
    experiment: Experiment, n: int, channels: int, device: str | None = None, at_once: int = 1
) -> Probe:
    """Time real steps of training and of scoring on random images, for a second and a half.

    On a CPU on one core, as a task of a run has it, but without its neighbors; it takes fewer models than a
    repeat has, then fewer images, then fewer samples, where a step is slow; time is in proportion. Nothing is
    compiled. The models are new: a CPU scores trained perceptrons up to a third faster, as it skips units
    that are off. Arguments and errors are those of `cost` and `estimate`.
    """
    where, K = choose_device(device), experiment.folds
    _check("n", n, K)
    _check("at_once", at_once, 1)
    models, machine = K, f"CPU, {at_once} core{'s' * (at_once > 1)}"
    if where.type == "cuda":
        models, machine = at_once * K, torch.cuda.get_device_name(where)
    batch = min(experiment.batch_size, n - math.ceil(n / K))
    with one_thread():
        seconds = _measure(experiment, channels, where, batch, models)
    return Probe(*seconds, machine=f"{machine}, {experiment.precision}")


def _measure(e: Experiment, channels: int, device: torch.device, batch: int, models: int) -> list[float]:
    """`training`, `full` and `scoring` of a `Probe`."""
    flops, cuda, rng = flops_per_image(e, channels), device.type == "cuda", np.random.default_rng(0)
    vae = e.build(channels, torch.Generator().manual_seed(0))
    steps = 7 if cuda else 4  # of which three count; on a GPU three run as they are, and one is recorded
    shape = (max(BATCH, steps * batch), channels, SIDE, SIDE)
    images = torch.tensor(rng.integers(0, 256, shape, dtype=np.uint8), device=device)

    noise = [torch.Generator(device) for _ in range(max(1, models // e.folds))]

    def pass_seconds(count: int, size: int, noise: list[torch.Generator]) -> float:
        model, ends = Ensemble.stack([vae] * count, device, e.precision), []
        sets, streams = [np.arange(steps * size)] * count, {"order": [rng] * len(noise), "noise": noise}
        settings = {"epochs": [1], "batch_size": size, "flip": e.flip}
        optimizer, tick = adam(model, 1e-4), lambda count: ends.append(_now(device))
        next(fit(model, optimizer, images, sets, **settings, **streams, tick=tick))
        return np.median(np.diff(ends[-4:])) / (count * size)

    trial = batch if cuda else int(np.clip(TRIAL_FLOP / flops.train, 1, batch))
    full = pass_seconds(1, trial, noise[:1])
    affordable = math.inf if cuda else PROBE_SECONDS / 4 / full  # images times models of a step
    count, size = np.clip([affordable / batch, affordable], 1, [models, batch]).astype(int).tolist()
    training = pass_seconds(count, size, noise)
    # on a CPU the models of a task are scored one after the other
    model = Ensemble.stack([vae] * (models if cuda else 1), device, e.precision)
    flop = PROBE_SECONDS / 4 / training * flops.train / len(model)  # of a call, if as fast as training
    S = int(np.clip(flop / flops.decode, 1, e.num_samples))
    x = images[: int(np.clip(flop / (flops.encode + S * flops.decode), 1, BATCH))]
    seconds = _median_seconds(lambda: score_images(model, x, S, noise), device, PROBE_SECONDS)
    scale = (flops.encode + e.num_samples * flops.decode) / (flops.encode + S * flops.decode)
    return [training, full if cuda else training, seconds / (len(model) * len(x)) * scale]


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
    seconds: float  # on this machine, with S samples for every image
    most_seconds: float  # the same if every image needs more samples
    memory: int  # peak in bytes on this machine, a bound
    machine: str
    h200_seconds: float  # at least; see `estimate`

    def __str__(self) -> str:
        c = self.cost
        if not c.models:
            return "nothing is missing"
        training, scoring = _quantity(c.training_flop, "FLOP"), _quantity(c.scoring_flop, "FLOP")
        longest = f"up to {_duration(self.most_seconds)} if every image needs more samples\n"
        more = longest if c.rescoring_flop else ""
        return (
            f"{c.models} model{'s' * (c.models > 1)}, {c.steps} steps each\n"
            f"{training} of training, {scoring} of scoring\n"
            f"{_quantity(self.memory, 'B')} of memory, {_quantity(c.result_bytes, 'B')} of results\n"
            f"about {_duration(self.seconds)} here ({self.machine}; timed now on a few steps)\n"
            f"{more}"
            f"at least {_duration(self.h200_seconds)} on an H200 (data sheet)"
        )


def _quantity(value: float, unit: str) -> str:
    power = int(math.log10(max(float(f"{value:.2g}"), 1))) // 3
    return f"{float(f'{value / 1000**power:.2g}'):g} {['', *'kMGTPEZY'][power]}{unit}"


def _duration(seconds: float) -> str:
    units = (("days", 86400), ("h", 3600), ("min", 60))
    unit, length = next((u for u in units if seconds >= 2 * u[1]), ("s", 1))
    return f"{float(f'{seconds / length:.2g}'):g} {unit}"


def estimate(
    experiment: Experiment,
    n: int,
    channels: int,
    validation_images: int,
    *,
    device: str | None = None,
    missing: Mapping[Member, int] | None = None,
    at_once: int | None = None,
    measured: Probe | None = None,
) -> Estimate:
    """Count and time what is missing of an experiment.

    An H200 that reaches its data sheet needs at least: for training the longer of arithmetic and Adam's
    memory traffic, then for scoring the arithmetic.

    Args:
        device: as in `memlib.run`.
        at_once: as in `cost`, by default as many as PyTorch has threads, on a GPU all that are missing.
        measured: what `probe` returned, by default it is called; the rest as in `cost`, errors too.
    """
    where, flops = choose_device(device), flops_per_image(experiment, channels)
    cuda, peak = where.type == "cuda", H200_FLOPS[experiment.precision]
    missing = dict.fromkeys([None, *range(experiment.repeats)], 0) if missing is None else missing
    tasks = len(missing) - (cuda and None in missing)
    at_once = max(1, min(tasks, at_once or (tasks if cuda else torch.get_num_threads())))
    sizes = n, channels, validation_images
    c = cost(experiment, *sizes, missing, at_once)
    m = measured or (probe(experiment, n, channels, str(where), at_once) if c.models else Probe(0, 0, 0, ""))

    def seconds(member: Member, done: int, rescored: bool) -> float:
        own = cost(experiment, *sizes, {member: done})
        if member is None:
            return m.full * own.training_flop / flops.train  # losses included
        more = rescored and own.scoring_flop and own.rescoring_flop / own.scoring_flop
        return m.training * own.training_passes + m.scoring * own.scored_pairs * (1 + more)

    last, longest = (
        makespan([seconds(*begun, rescored) for begun in missing.items()], 1 if cuda else at_once)
        for rescored in (False, True)
    )
    h200_seconds = max(c.training_flop / peak, c.adam_bytes / H200_BANDWIDTH) + c.scoring_flop / peak
    return Estimate(c, last, longest, c.gpu_memory if cuda else c.cpu_memory, m.machine, h200_seconds)
