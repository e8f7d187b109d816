"""Runs at the paper's settings, one model after the other, packed into published/runs/: `make runs`.

The unit of work is one model of one repeat, trained without one fold and scored at once, so that whoever
stops the command loses minutes. Every model has random streams of its own, as a repeat of `memlib.run` has.
"""

import functools
import time
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from book._ext.pages import ROOT, read_yaml
from numpy.typing import NDArray

import memlib.runs.store as store
from memlib.checks import check_known
from memlib.data import ImageSet
from memlib.device import one_thread
from memlib.experiment import Experiment, Stream, variant
from memlib.memorization import fold_assignment
from memlib.psis import khat_thresholds
from memlib.runs import executors
from memlib.runs.job import job_of
from memlib.runs.released import (
    Released,
    column,
    read_full,
    read_repeat,
    write_full,
    write_repeat,
)
from memlib.runs.task import Task, are_scores, run_facts
from memlib.runs.worker import claimed, compute
from memlib.scoring import score_images
from memlib.training import fit

CPU = torch.device("cpu")
FITTED_SAMPLES = 128  # of a fitted proposal's first look
SAMPLES = 10 * 2**20  # bytes of a model's samples that are released: all of MNIST's, a third of CIFAR-10's
VERSION = 1  # to be raised whenever the same request gives other numbers

Unit = tuple[int, int] | None  # repeat and fold, or the model of all images


@dataclass(frozen=True)
class Planned:
    """A run that is published.

    Attributes:
        name: of the run, and of its folder in published/runs.
        spec: the experiment as the paper scores it.
        fitted_images: how many images get log p(x) by fitted proposals, too, drawn at random; 0 means all.
    """

    name: str
    spec: Experiment
    fitted_images: int = 0

    @functools.cached_property
    def images(self) -> ImageSet:
        return self.spec.load_images()

    @functools.cached_property
    def request(self) -> dict[str, Any]:
        """What determines the models and their scores."""
        own = {"fitted_images": self.fitted_images, "fitted_samples": FITTED_SAMPLES, "runs_version": VERSION}
        return job_of(self.spec, None, None, None).scoring | own

    @property
    def folder(self) -> Path:
        """Where the scores of single models lie until they are packed."""
        return store.training_folder(store.results_root() / "released", self.request)

    def packed(self, repeat: int | None, root: Path) -> Path:
        """The released file of a repeat, or of the model of all images."""
        name = "full.npz" if repeat is None else f"repeat-{repeat:02d}.parquet"
        return root / "published" / "runs" / self.name / name

    def path(self, unit: Unit) -> Path:
        return self.folder / ("full.npz" if unit is None else "repeat-{:02d}-fold-{:02d}.npz".format(*unit))

    def fold_of(self, repeat: int) -> NDArray[np.int64]:
        return fold_assignment(len(self.images), self.spec.folds, self.spec.stream(Stream.FOLDS, repeat))

    def fitted(self) -> NDArray[np.int64]:
        """The images that get fitted proposals, sorted."""
        order = self.spec.stream(Stream.SUBSET).permutation(len(self.images))
        return np.sort(order[: self.fitted_images or len(order)])


def load_plan(book_dir: Path) -> tuple[dict[str, Planned], list[tuple[str, int]]]:
    """The runs of params/runs.yaml by name, and how many repeats of which, in their order.

    Raises:
        ValueError: an unknown experiment, field or run, named.
    """
    listed = read_yaml(book_dir / "params" / "runs.yaml", runs=dict, order=list)
    plan = {}
    for name, fields in listed["runs"].items():
        changes = {"precision": "bfloat16", "scoring_precision": "bfloat16", "noise": "paper"} | fields
        experiment, fitted_images = changes.pop("experiment", None), changes.pop("fitted_images", 0)
        spec = variant(experiment, **changes | {"proposal": "encoder", "repeats": 1})
        plan[name] = Planned(name, spec, fitted_images)
    order = [(name, count) for step in listed["order"] for name, count in step.items()]
    for name, _ in order:
        check_known("run", name, plan, "runs.yaml: ")
    return plan, order


def computed(planned: Planned, repeat: int, fold: int) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Train a model without a fold, and score all images by it at every evaluated epoch.

    Returns:
        Log p(x) by column name, nats; and how it was computed, with the health of the estimates.

    Raises:
        FloatingPointError: the training diverged, or a score is no number.
    """
    e, started, chosen = planned.spec, time.monotonic(), planned.fitted()
    number = repeat * e.folds + fold  # of the model, whose streams are those of a repeat of that number
    task = Task(job_of(e, None, None, None, "cpu"), CPU)
    state, arrays, health = task.start(1, [number]), {}, {}
    epochs = fit(
        state.model,
        state.optimizer,
        task.x,
        [np.flatnonzero(planned.fold_of(repeat) != fold)],
        epochs=range(1, e.epochs + 1),
        batch_size=e.batch_size,
        flip=e.flip,
        order=state.order,
        noise=state.noise[Stream.TRAINING_NOISE.name],
    )
    for epoch, loss in epochs:
        if not np.isfinite(loss).all():
            raise FloatingPointError(f"{planned.name}, repeat {repeat}, fold {fold}: epoch {epoch} diverged")
        if epoch not in e.evaluated_epochs:
            continue
        judged = replace(state.model, precision=e.scoring_precision)
        ways = [("encoder", np.arange(len(task.x)), e.num_samples, 1)]
        if epoch == e.epochs:
            ways.append(("fitted", chosen, FITTED_SAMPLES, [e.torch_stream(Stream.VERSIONS, 0)]))
        for proposal, which, samples, versions in ways:
            name = column(proposal, epoch, fold)
            noise = e.torch_stream(Stream.SCORING_NOISE, number, epoch=epoch)
            scored = score_images(judged, task.x[which], samples, noise, versions, proposal, task.compiled)
            log_px, ess, khat, counts = (t[0, 0].double().numpy() for t in scored)
            if not are_scores(log_px):
                raise FloatingPointError(f"{planned.name}, repeat {repeat}, {name}: log p(x) is no number")
            arrays[name] = np.full(len(task.x), np.nan, np.float32)
            arrays[name][which] = log_px
            failing = float((khat > khat_thresholds(counts)).mean())
            health[name] = {"median_ess": round(float(np.median(ess)), 1), "failing": round(failing, 4)}
    return arrays, run_facts(planned.images, time.monotonic() - started) | {"health": health}


def compute_unit(planned: Planned, unit: Unit) -> str:
    """Compute a model's scores and write them, unless it is done or another process does; says which."""
    with claimed({unit: planned.path(unit)}, lambda unit: planned.path(unit).exists()) as mine, one_thread():
        if not mine:
            return f"{planned.name} {unit}: done, or computed elsewhere"
        started = time.monotonic()
        if unit is None:
            job = job_of(planned.spec, None, None, None, "cpu")
            report = compute(job, [None])
            if report.diverged:
                raise FloatingPointError(f"{planned.name}: {report.diverged[None]}")
            if report.elsewhere:
                return f"{planned.name} {unit}: computed elsewhere"
            arrays, record = store.read(job.path(None), job.training)
            kept = {name: arrays[name] for name in ("train_loss", "test_loss", "samples")}
            store.write(planned.path(None), kept, {"request": planned.request, "run": record["run"]})
        else:
            arrays, facts = computed(planned, *unit)
            store.write(planned.path(unit), arrays, {"request": planned.request, "run": facts})
    return f"{planned.name} {unit}: {(time.monotonic() - started) / 60:.1f} minutes"


def left(planned: Planned, repeats: int, root: Path) -> list[Unit]:
    """What is neither packed nor kept of a run."""
    units: list[Unit] = [None]
    if (full := planned.packed(None, root)).exists() and read_full(full, planned.request):
        units = []
    for repeat in range(repeats):
        path = planned.packed(repeat, root)
        done = read_repeat(path, planned.request).runs if path.exists() else {}
        units += [(repeat, fold) for fold in range(planned.spec.folds) if fold not in done]
    return [unit for unit in units if not planned.path(unit).exists()]


def pack(planned: Planned, root: Path) -> None:
    """Put what is kept of a run into its released files, beside what they hold."""
    repeats: dict[int, list[Path]] = {}
    for path in sorted(planned.folder.glob("repeat-*-fold-*.npz")):
        repeats.setdefault(int(path.name.split("-")[1]), []).append(path)
    for repeat, paths in repeats.items():
        target = planned.packed(repeat, root)
        held = Released(planned.fold_of(repeat), {}, {})
        if target.exists():
            held = read_repeat(target, planned.request)
        before = len(held.runs)
        for path in paths:
            fold = int(path.stem.split("-")[3])
            if fold not in held.runs:
                arrays, record = store.read(path, planned.request)
                held.log_px.update(arrays)
                held.runs[fold] = record["run"]
        if len(held.runs) > before:
            write_repeat(target, planned.images, held, planned.request)
    full = planned.packed(None, root)
    if planned.path(None).exists() and not full.exists():
        arrays, _ = store.read(planned.path(None), planned.request)
        samples = arrays["samples"][: SAMPLES // arrays["samples"][0].nbytes]
        write_full(full, {**arrays, "samples": samples}, planned.request)


@click.command()
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="models at a time, each on one core"
)
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, help="the checkout")
def main(jobs: int, root: Path) -> None:
    """Compute what is left of the runs of book/params/runs.yaml, and pack it into published/runs/.

    A model is packed as soon as it is finished.
    """
    plan, order = load_plan(root / "book")
    for planned in plan.values():
        pack(planned, root)  # what an earlier call had no time for
    units = {(name, unit): plan[name] for name, count in order for unit in left(plan[name], count, root)}
    click.echo(f"{len(units)} models to go")
    with executors.processes(jobs) as pool:
        futures = {pool.submit(compute_unit, planned, unit): planned for (_, unit), planned in units.items()}
        for future in as_completed(futures):
            click.echo(f"{time.strftime('%H:%M:%S')} {future.result()}")
            pack(futures[future], root)


if __name__ == "__main__":
    from book._ext import runs  # by its name, under which other processes know its functions

    runs.main()
