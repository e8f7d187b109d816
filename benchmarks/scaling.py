"""How memlib's time grows with models, images, samples and epochs.

    MEMLIB_DATA=/path/to/data python benchmarks/scaling.py [--device cuda] [--precision bfloat16]

Sizes take turns. `--help` lists the options.
"""

import contextlib
import dataclasses
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import torch
from measure import Asked, benchmark, interleaved, machine, save, table
from workload import FOLDS, described, models, observed, setting, training

from memlib.data import ImageSet
from memlib.device import one_thread
from memlib.ensemble import Ensemble
from memlib.experiment import Stream
from memlib.scoring import score_images


@dataclasses.dataclass(frozen=True)
class Size:
    """What a call does."""

    models: int
    images: int
    samples: int
    epochs: int


BASE = Size(models=FOLDS, images=0, samples=64, epochs=1)
MODELS, SAMPLES, EPOCHS = (1, 2, 5, 10, 20), (16, 32, 64, 128, 256), (1, 2, 4, 8)
ENDLESS, WARM_UP = 10**9, 4  # epochs; calls after which a GPU's steps are recorded
BOTH = ("training", "scoring")
PARTS = {"models": BOTH, "images": BOTH, "samples": ("scoring",), "epochs": ("training",)}


def work(
    images: ImageSet, device: torch.device, precision: str, size: Size
) -> dict[str, Callable[[], object]]:
    """Training, which goes on from call to call, and scoring, by models that stay as they were made."""
    images = images.subset(range(size.images))
    experiment, sets = setting(images, ENDLESS, precision), [np.arange(size.images)] * size.models
    untrained = Ensemble.stack(models(experiment, 0, size.models), device, precision)
    x, (_, epochs) = torch.tensor(images.images, device=device), training(experiment, images, device, sets)

    def train() -> None:
        for _ in range(size.epochs):
            next(epochs)

    def score() -> torch.Tensor:
        noise = experiment.torch_stream(Stream.SCORING_NOISE, 0, device)
        return score_images(untrained, x, size.samples, [noise], proposal="encoder").log_px.cpu()

    return {"training": train, "scoring": score}


def axis(
    name: str, works: dict[int, dict[str, Callable[[], object]]], parts: Sequence[str], rounds: int
) -> tuple[list[str], list[list[str]]]:
    """Seconds, and seconds per unit, of parts of the work by value of an axis."""
    functions = {(value, part): work[part] for value, work in works.items() for part in parts}
    interleaved(functions, WARM_UP)
    calls = interleaved(functions, rounds)
    seconds = {key: statistics.median(call.seconds for call in timed) for key, timed in calls.items()}
    smallest, rows = next(iter(works)), []
    for value in works:
        row = [f"{value:,}"]
        for part in parts:
            each, first = seconds[value, part] / value, seconds[smallest, part] / smallest
            row += [f"{seconds[value, part]:.3f}", f"{1e3 * each:.3g}", f"{each / first:.2f}"]
        rows.append(row)
    return [name, *(column for part in parts for column in (f"{part}, s", "ms per unit", "x first"))], rows


@benchmark(images=256)
def main(asked: Asked) -> None:
    """Show how time grows with models, images, samples and epochs."""
    device, count, images = asked.device, asked.count, observed(2 * asked.count)
    cuda = device.type == "cuda"
    base = dataclasses.replace(BASE, images=min(count, len(images)))
    title = (
        f"of {described(images)}; unless an axis says otherwise {base.models} models, {base.images} images, "
        f"S = {base.samples}, {base.epochs} epoch;\nmedians of {asked.rounds} rounds after {WARM_UP} that "
        f"warm up; the models that are scored have not been trained{'' if cuda else '; on one core'}"
    )
    print(title)
    sizes = [n for n in (count // 4, count // 2, count, 2 * count) if n <= len(images)]
    axes = {"models": MODELS, "images": sizes, "samples": SAMPLES, "epochs": EPOCHS}
    found = {}
    with contextlib.nullcontext() if cuda else one_thread():
        for precision in asked.precisions:
            for name, values in axes.items():
                works = {
                    value: work(images, device, precision, dataclasses.replace(base, **{name: value}))
                    for value in values
                }
                head, rows = axis(name, works, PARTS[name], asked.rounds)
                print(f"\n{precision}\n{table(head, rows)}")
                found[f"{name}, {precision}"] = {"head": head, "rows": rows}
    save(asked.path, title=title, machine=machine(device, asked.precisions), axes=found)


if __name__ == "__main__":
    main()
