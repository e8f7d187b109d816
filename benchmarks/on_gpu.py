"""Everything that waits for a GPU, in one command; every step writes its result as soon as it has one.

    MEMLIB_DATA=/path/to/data python benchmarks/on_gpu.py --out results/gpu [--only mnist]

Steps: `tests` (those marked gpu), `train`, `score`, `scaling` (the tables, at every precision), `agreement`
(one small experiment on the CPU and on the GPU), `mnist` (the paper's MNIST experiment, timed). A step that
fails is reported, and the next one starts. What is stored is used again.
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import xarray as xr
from measure import machine, save

import memlib
from memlib.device import choose_device
from memlib.experiment import Experiment

HERE = Path(__file__).resolve().parent
IMAGES = {"train": 20_000, "score": 4096, "scaling": 4096}  # enough that starting is not what is timed
STEPS = ("tests", *IMAGES, "agreement", "mnist")
PRECISIONS = ("float32", "tf32", "bfloat16")


def command(*words: str | Path) -> None:
    """Run a Python command; its output is this one's."""
    subprocess.run([sys.executable, *words], check=True, cwd=HERE.parent)


def table(name: str, out: Path) -> None:
    """One of the benchmarks on the GPU at every precision."""
    chosen = [word for precision in PRECISIONS for word in ("--precision", precision)]
    options = ["--device", "cuda", "--images", str(IMAGES[name]), "--json", out / f"{name}.json"]
    command(HERE / f"{name}.py", *options, *chosen)


def headline(result: xr.Dataset) -> dict[str, float]:
    """What two runs of an experiment should share."""
    scores = memlib.memorization(result).isel(epoch=-1)
    return {
        "median M": float(scores.M.median()),
        "0.95 quantile of M": float(np.quantile(scores.M, 0.95)),
        "gap": float(scores.gap.mean()),
        "training loss": float(result.fold_loss[:, -1].mean()),
        "test loss": float(result.test_loss[-1]),
    }


def agreement(out: Path) -> dict[str, Any]:
    """The small experiment by device, precision and seed: devices should differ no more than seeds."""
    small = memlib.variant("digits-lr3", num_images=300, epochs=40, score_every=40, folds=4, num_samples=32)
    runs: dict[str, tuple[Experiment, str]] = {}
    for seed in (0, 1, 2):
        runs[f"CPU, seed {seed}"] = dataclasses.replace(small, seed=seed), "cpu"
    for precision in PRECISIONS:
        own = dataclasses.replace(small, precision=precision, scoring_precision=precision)
        runs[f"GPU, {precision}"] = own, "cuda"
    return {
        name: headline(memlib.run(experiment, root=out / f"agreement-{device}", device=device))
        for name, (experiment, device) in runs.items()
    }


def mnist(out: Path, precision: str) -> dict[str, Any]:
    """The paper's MNIST experiment at learning rate 1e-3: time, memory, scores of all images."""
    experiment = memlib.variant("mnist-lr3", precision=precision, scoring_precision=precision)
    print(memlib.remaining(experiment, root=out / "mnist", device="cuda"))
    torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = memlib.run(experiment, root=out / "mnist", device="cuda")
    seconds = time.perf_counter() - started
    scores = memlib.memorization(result)
    columns = {name: scores[name].values for name in ("U", "V", "M", "M_se") if name in scores}
    np.savez(out / "mnist-scores.npz", epoch=result.epoch, index=result["index"], **columns)
    return {
        "seconds": round(seconds, 1),
        "peak GB": torch.cuda.max_memory_allocated() / 1e9,
        "request": json.loads(result.request),
        "runs": json.loads(result.runs),
        **headline(result),
    }


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for results")
@click.option("--only", multiple=True, type=click.Choice(STEPS), help="a step; may be repeated")
@click.option("--precision", default="bfloat16", show_default=True, help="of the step mnist")
def main(out: Path, only: tuple[str, ...], precision: str) -> None:
    """Run what waits for a GPU."""
    try:
        device = choose_device("cuda")
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    steps: dict[str, Callable[[], Any]] = {
        "tests": lambda: command("-m", "pytest", "-q", "-m", "gpu", "tests"),
        **{name: lambda name=name: table(name, out) for name in IMAGES},
        "agreement": lambda: agreement(out),
        "mnist": lambda: mnist(out, precision),
    }
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in only or STEPS:
        print(f"\n== {name}", flush=True)
        try:
            found = steps[name]()
        except Exception as error:  # the next step may work, and device time is short
            print(f"{name} failed: {error!r}", file=sys.stderr)
            failed.append(name)
            continue
        if found is not None:
            save(out / f"{name}.json", machine=machine(device, PRECISIONS), found=found)
            print(json.dumps(found, indent=1))
    if failed:
        raise click.ClickException(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
