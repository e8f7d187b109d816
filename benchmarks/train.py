"""How fast memlib trains, beside the paper's way and the machine's limits, and whether losses agree.

    MEMLIB_DATA=/path/to/data python benchmarks/train.py [--device cuda] [--precision bfloat16]

Methods take turns, epoch by epoch. `--help` lists the options.
"""

import functools
import math
from collections.abc import Callable, Sequence

import reference
import torch
from measure import Asked, Measured, Method, benchmark, compare, side_by_side
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
    experiment: Experiment, images: ImageSet, device: torch.device, groups: Sequence[Sequence[int]]
) -> Callable[[], float]:
    """Groups of stacked repeats, on a CPU side by side on one core each; every call is an epoch of all.

    It returns the mean loss of the first model of the first repeat.
    """

    def start(group: Sequence[int]) -> Callable[[], object]:
        sets = [members for r in group for members in training_sets(experiment, len(images), r)]
        return functools.partial(next, training(experiment, images, device, sets, group)[1])

    epochs = side_by_side([functools.partial(start, group) for group in groups])

    def epoch() -> float:
        (_, loss), *_ = epochs()
        return float(loss[0])

    return epoch


def methods(asked: Asked, images: ImageSet) -> list[Method]:
    """The reference and every way in which memlib trains on the device."""
    device, experiment = asked.device, setting(images, asked.rounds + 1)
    size, flops = len(training_sets(experiment, len(images), 0)[0]), flops_per_image(experiment, 1)
    steps = math.ceil(size / experiment.batch_size)
    cost = {"flop": flops.train, "bytes": ADAM_BYTES * flops.parameters * steps / size}
    cuda = device.type == "cuda"
    cores = 1 if cuda else torch.get_num_threads()
    make = functools.partial(plain_training, experiment, images, device)
    rows = [Method("reference, 1 model", "float32", cores, make, size, **cost)]
    for precision in asked.precisions:
        experiment = setting(images, asked.rounds + 1, precision)
        for count in GROUPS if cuda else sorted({1, cores}):
            groups = [range(count)] if cuda else [[repeat] for repeat in range(count)]
            make = functools.partial(memlib_training, experiment, images, device, groups)
            name = f"memlib, {count} repeat{'s' * (count > 1)} of {FOLDS} models"
            rows.append(Method(name, precision, 1 if cuda else count, make, count * FOLDS * size, **cost))
    return rows


def explain(measured: Sequence[Measured]) -> list[str]:
    """The losses of the one model that all methods train, in the last epoch."""
    plain, *others = (m.calls[-1].result for m in measured)
    losses = (
        f"{m.method.name}, {m.method.precision}: {loss:.2f} ({loss / plain - 1:+.2%})"
        for m, loss in zip(measured[1:], others, strict=True)
    )
    return [
        f"mean loss of the same model in the last epoch, nats per image, noise and order differ: reference "
        f"{plain:.2f}; {'; '.join(losses)}",
        f"Adam's memory traffic: {ADAM_BYTES} bytes per parameter and step",
    ]


@benchmark(images=4000)
def main(asked: Asked) -> None:
    """Compare the training of memlib with the paper's way."""
    images = observed(asked.count)
    title = (
        f"training on {described(images)}, {FOLDS} folds, batches of {setting(images, 1).batch_size}, "
        f"{asked.rounds} rounds of one epoch per method; images/s are summed over models"
    )
    compare(asked, title, methods(asked, images), "images", explain)


if __name__ == "__main__":
    main()
