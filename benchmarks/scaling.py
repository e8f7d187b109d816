"""How memlib's time grows with models, images, samples and epochs.

    MEMLIB_DATA=/path/to/data python benchmarks/scaling.py [--device cuda] [--precision bfloat16]

Sizes take turns. `--help` lists the options.
"""

import contextlib
import dataclasses
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from measure import interleaved, machine, options, save, table, where
from workload import FOLDS, described, observed, setting

from memlib.data import ImageSet
from memlib.device import one_thread
from memlib.experiment import Stream
from memlib.runs.task import Task
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
    experiment = dataclasses.replace(setting(images, epochs=ENDLESS), precision=precision)
    task = Task(experiment, images, device, lambda flop: None)
    x = torch.tensor(images.images[: size.images], device=device)
    in_training, untrained = (task.ensemble(size.models, [0]) for _ in range(2))
    epochs = task.fit(task.start(in_training, [0]), x, [np.arange(len(x))] * size.models)

    def train() -> None:
        for _ in range(size.epochs):
            next(epochs)

    def score() -> torch.Tensor:
        noise = experiment.torch_stream(Stream.SCORING_NOISE, 0, device)
        return score_images(untrained, x, size.samples, [noise]).log_px.cpu()

    return {"training": train, "scoring": score}


def axis(
    name: str, works: dict[int, dict[str, Callable[[], object]]], parts: Sequence[str], rounds: int
) -> tuple[list[str], list[list[str]]]:
    """Seconds, and seconds per unit, of parts of the work by value of an axis."""
    functions = {(value, part): work[part] for value, work in works.items() for part in parts}
    interleaved(functions, WARM_UP)
    calls = interleaved(functions, rounds)
    seconds = {key: statistics.median(call.seconds for call in timed) for key, timed in calls.items()}
    smallest = next(iter(works))
    rows = []
    for value in works:
        row = [f"{value:,}"]
        for part in parts:
            each, first = seconds[value, part] / value, seconds[smallest, part] / smallest
            row += [f"{seconds[value, part]:.3f}", f"{1e3 * each:.3g}", f"{each / first:.2f}"]
        rows.append(row)
    columns = [[f"{part}, s", "ms per unit", "x first"] for part in parts]
    return [name, *itertools.chain(*columns)], rows


@click.command()
@options(images=256)
def main(device: str | None, precisions: Sequence[str], rounds: int, count: int, path: Path | None) -> None:
    """Show how time grows with models, images, samples and epochs."""
    chosen, images = where(device, precisions), observed(2 * count)
    base = dataclasses.replace(BASE, images=min(count, len(images)))
    alone = contextlib.nullcontext() if chosen.type == "cuda" else one_thread()
    print(machine(chosen, precisions))
    title = (
        f"of {described(images)}; unless an axis says otherwise {base.models} models, {base.images} images, "
        f"S = {base.samples}, {base.epochs} epoch;\nmedians of {rounds} rounds after {WARM_UP} that warm up; "
        f"the models that are scored have not been trained{'' if chosen.type == 'cuda' else '; on one core'}"
    )
    print(title)
    sizes = [n for n in (count // 4, count // 2, count, 2 * count) if n <= len(images)]
    axes = {"models": MODELS, "images": sizes, "samples": SAMPLES, "epochs": EPOCHS}
    found = {}
    with alone:
        for precision in precisions:
            for name, values in axes.items():
                works = {
                    value: work(images, chosen, precision, dataclasses.replace(base, **{name: value}))
                    for value in values
                }
                head, rows = axis(name, works, PARTS[name], rounds)
                print(f"\n{precision}\n{table(head, rows)}")
                found[f"{name}, {precision}"] = {"head": head, "rows": rows}
    save(path, title=title, machine=machine(chosen, precisions), axes=found)


if __name__ == "__main__":
    main()
