"""How fast memlib trains, beside the paper's way and the machine's limits, and whether losses agree.

    MEMLIB_DATA=/path/to/data python benchmarks/train.py [--device cuda] [--precision bfloat16]

Methods take turns, epoch by epoch. `--help` lists the options.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import reference
import torch
from measure import (
    Measured,
    Method,
    limits_line,
    machine,
    measure,
    notes,
    options,
    report,
    save,
    side_by_side,
    table,
    where,
)
from numpy.typing import NDArray
from workload import FOLDS, GROUPS, described, models, observed, setting, training, training_sets

from memlib.data import ImageSet
from memlib.experiment import Experiment
from memlib.runs.cost import ADAM_BYTES, flops_per_image


def plain_training(experiment: Experiment, images: ImageSet, device: torch.device) -> Callable[[], float]:
    """The first model of the first repeat; every call is an epoch and returns its mean loss."""
    network = reference.Network.like(models(experiment, 0)[0], device)
    members = training_sets(experiment, len(images), 0)[0]
    batches = reference.loader(images.images[members], experiment.batch_size, shuffle=True, device=device)
    optimizer = reference.adam(network, experiment.learning_rate)
    return functools.partial(reference.train_epoch, network, optimizer, batches)


def memlib_training(
    experiment: Experiment,
    images: ImageSet,
    device: torch.device,
    precision: str,
    groups: Sequence[Sequence[int]],
) -> Callable[[], float]:
    """Groups of stacked repeats, on a CPU side by side on one core each; every call is an epoch of all.

    It returns the mean loss of the first model of the first repeat.
    """

    def start(group: Sequence[int]) -> Callable[[], tuple[int, NDArray[np.float64]]]:
        return functools.partial(next, training(experiment, images, device, precision, group)[1])

    epochs = side_by_side([functools.partial(start, group) for group in groups])

    def epoch() -> float:
        (_, loss), *_ = epochs()
        return float(loss[0])

    return epoch


def methods(
    experiment: Experiment, images: ImageSet, device: torch.device, precisions: Sequence[str]
) -> list[Method]:
    """The reference and every way in which memlib trains on the device."""
    size = len(training_sets(experiment, len(images), 0)[0])
    parameters = sum(p.numel() for p in experiment.build(1).parameters())
    cost = {
        "flop": flops_per_image(experiment, 1).train,
        "bytes": ADAM_BYTES * parameters * math.ceil(size / experiment.batch_size) / size,
    }
    cuda = device.type == "cuda"
    cores = 1 if cuda else torch.get_num_threads()
    make = functools.partial(plain_training, experiment, images, device)
    rows = [Method("reference, 1 model", "float32", cores, make, size, **cost)]
    for precision in precisions:
        for count in GROUPS if cuda else sorted({1, cores}):
            groups = [range(count)] if cuda else [[repeat] for repeat in range(count)]
            make = functools.partial(memlib_training, experiment, images, device, precision, groups)
            name = f"memlib, {count} repeat{'s' * (count > 1)} of {FOLDS} models"
            rows.append(Method(name, precision, 1 if cuda else count, make, count * FOLDS * size, **cost))
    return rows


def agreement(measured: Sequence[Measured]) -> str:
    """The losses of the one model that all methods train, in the last epoch."""
    plain, *others = (m.calls[-1].result for m in measured)
    parts = (
        f"  {m.method.name}, {m.method.precision}: {loss:.2f} ({loss / plain - 1:+.2%})"
        for m, loss in zip(measured[1:], others, strict=True)
    )
    return "\n".join([f"  {measured[0].method.name}: {plain:.2f}", *parts])


@click.command()
@options(images=4000)
def main(device: str | None, precisions: Sequence[str], rounds: int, count: int, path: Path | None) -> None:
    """Compare the training of memlib with the paper's way."""
    chosen, images = where(device, precisions), observed(count)
    experiment = setting(images, epochs=rounds + 1)
    print(machine(chosen, precisions))
    title = (
        f"training on {described(images)}, {FOLDS} folds, batches of {experiment.batch_size}, "
        f"{rounds} rounds of one epoch per method; images/s are summed over models"
    )
    print(title)
    measured = measure(methods(experiment, images, chosen, precisions), rounds, chosen)
    print(limits := limits_line(measured))
    head, rows = report(measured, "images")
    print(f"\n{table(head, rows)}\n")
    print(f"mean loss of the same model in epoch {rounds + 1}, nats per image; noise and order differ:")
    print(agreement(measured))
    explained = [f"Adam's memory traffic: {ADAM_BYTES} bytes per parameter and step", *notes(chosen)]
    print("\n".join(explained))
    where_run = machine(chosen, precisions)
    save(path, title=title, machine=where_run, limits=limits, head=head, rows=rows, notes=explained)


if __name__ == "__main__":
    main()
