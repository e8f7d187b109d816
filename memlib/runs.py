"""Runs: `run` trains what an experiment misses and loads what is there; its tasks, one per repeat."""

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import memlib.store as store
from memlib.data import ImageSet
from memlib.device import check_device, choose_device
from memlib.ensemble import Ensemble, fit, mean_loss, sample
from memlib.experiment import Experiment, Stream
from memlib.memorization import fold_assignment
from memlib.progress import progress_bar
from memlib.scoring import score_images

LOG = logging.getLogger("memlib")
PARAMETER = "parameter."  # prefix of a model's parameters among the arrays of its file


def _request(experiment: Experiment, images: ImageSet, validation: ImageSet) -> dict[str, Any]:
    fields = {k: v for k, v in dataclasses.asdict(experiment).items() if k != "repeats"}
    shas = {"train_sha256": images.sha256, "validation_sha256": validation.sha256}
    return {**fields, **shas, "version": store.RESULT_VERSION}


def run(
    experiment: Experiment,
    root: str | Path | None = None,
    executor: Executor | None = None,
    device: str | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Train what is missing, load what is there.

    The repeats, and one model trained on all images, are separate tasks. Processes that ask for the same
    experiment at the same time share its tasks and do each of them once.

    Args:
        experiment: the specification.
        root: the results folder; see `memlib.store`.
        executor: anything with the interface of `concurrent.futures.Executor` whose workers see `root`; by
            default this process. When a task fails, those that wait are cancelled and those that run finish.
        device: "cpu", "cuda" or "cuda:N"; by default, where a task runs, $MEMLIB_DEVICE, else a GPU where
            there is one.
        progress: show progress bars.

    Returns:
        The data set described in `memlib.store.assemble`.

    Raises:
        ValueError: bad settings, before any training starts.
        FloatingPointError: training diverged, or a score is not a number.
        StoreError: a stored file is damaged or answers another request.
    """
    if executor is None:
        device = str(choose_device(device))
    elif device:
        check_device(device)  # whether it is there, each worker finds out
    images, validation = experiment.load_images(), experiment.load_validation()
    request = _request(experiment, images, validation)
    folder = store.result_folder(root, request).resolve()
    members: list[int | None] = [None, *range(experiment.repeats)]
    missing = [m for m in members if not store.member_path(folder, m).exists()]
    if executor is None:
        sets = images, validation
        compute = functools.partial(_compute, experiment, request, folder, device, progress, sets=sets)
        _work_through(missing, folder, compute)
    else:
        task = functools.partial(_compute, experiment, request, folder, device, False, wait_for_others=True)
        _collect([executor.submit(task, member) for member in missing])
    return store.assemble(folder, experiment.repeats, request)


def _work_through(missing: list[int | None], folder: Path, compute: Callable[[int | None], bool]) -> None:
    awaited = None
    while missing:
        left = [member for member in missing if not compute(member)]
        if left == missing:  # all that is left is being computed by other processes
            path = store.member_path(folder, left[0])
            if path != awaited:
                LOG.warning("waiting for %s, which another process computes", path)
            awaited = path
            time.sleep(0.5)
        missing = left


def _collect(futures: list[Future[bool]]) -> None:
    try:
        for future in as_completed(futures):
            future.result()
    except Exception:
        wait([future for future in futures if not future.cancel()])
        raise


def _compute(
    experiment: Experiment,
    request: dict[str, Any],
    folder: Path,
    device: str | None,
    progress: bool,
    member: int | None,
    sets: tuple[ImageSet, ImageSet] | None = None,
    wait_for_others: bool = False,
) -> bool:
    """Compute one task unless it is there, or claimed by another process; tells whether it is there now."""
    path = store.member_path(folder, member)
    where = choose_device(device)
    while True:
        with store.claim(path) as free:
            if path.exists():
                return True
            if free:
                images, validation = sets or (experiment.load_images(), experiment.load_validation())
                if _request(experiment, images, validation) != request:
                    raise ValueError(
                        f"{experiment.images} has other images here than where the run was started"
                    )
                started = time.perf_counter()
                if member is None:
                    arrays = _train_on_all(experiment, images, validation, where, progress)
                else:
                    arrays = _train_repeat(experiment, images, member, where, progress)
                facts = _run_facts(where, time.perf_counter() - started)
                store.write(path, arrays, {"request": request, "run": facts})
                return True
        if not wait_for_others:
            return False
        time.sleep(0.5)


def _run_facts(device: torch.device, seconds: float) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "seconds": round(seconds, 2),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "memlib": importlib.metadata.version("memlib"),
        "torch": torch.__version__,
    }


def _ensemble(
    experiment: Experiment, channels: int, count: int, repeat: int | None, device: torch.device
) -> Ensemble:
    parameters = experiment.torch_stream(Stream.PARAMETERS, repeat)
    return Ensemble.stack([experiment.build(channels, parameters) for _ in range(count)], device)


def _fit(
    experiment: Experiment,
    model: Ensemble,
    images: torch.Tensor,
    training_sets: list[NDArray[np.int64]],
    repeat: int | None,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    return fit(
        model,
        images,
        training_sets,
        epochs=experiment.epochs,
        learning_rate=experiment.learning_rate,
        batch_size=experiment.batch_size,
        flip=experiment.flip,
        order=experiment.stream(Stream.ORDER, repeat),
        noise=experiment.torch_stream(Stream.TRAINING_NOISE, repeat, model.device),
    )


def _train_repeat(
    experiment: Experiment, images: ImageSet, repeat: int, device: torch.device, progress: bool
) -> dict[str, NDArray]:
    """Train a repeat's K models side by side and score all images under each at the evaluated epochs."""
    n, K = len(images), experiment.folds
    fold_of = fold_assignment(n, K, experiment.stream(Stream.FOLDS, repeat))
    x = torch.tensor(images.images, device=device)
    model = _ensemble(experiment, images.channels, K, repeat, device)
    noise = experiment.torch_stream(Stream.SCORING_NOISE, repeat, device)
    training_sets = [np.flatnonzero(fold_of != k) for k in range(K)]
    losses, scored = [], []
    title = f"{experiment.images}, repeat {repeat + 1} of {experiment.repeats}"
    with progress_bar(experiment.epochs, title, "epoch", progress) as bar:
        for epoch, loss in _fit(experiment, model, x, training_sets, repeat):
            losses.append(loss)
            if epoch in experiment.evaluated_epochs:
                scored.append(score_images(model, x, experiment.num_samples, noise))
                if any(t.isnan().any() for t in scored[-1]):
                    raise FloatingPointError(
                        f"{title}, epoch {epoch}: a score is not a number; a smaller learning_rate may help"
                    )
            bar.update()
    return {
        "log_px": torch.stack([s.log_px for s in scored]).float().cpu().numpy(),  # (epoch, fold, observation)
        "ess": torch.stack([s.ess for s in scored]).float().cpu().numpy(),
        "epoch": np.array(experiment.evaluated_epochs),
        "fold_of": fold_of,
        "fold_loss": np.stack(losses),
    }


def _train_on_all(
    experiment: Experiment, images: ImageSet, validation: ImageSet, device: torch.device, progress: bool
) -> dict[str, NDArray]:
    """Train one model on all images: its losses, as many samples as validation images, its parameters."""
    x, held = (torch.tensor(s.images, device=device) for s in (images, validation))
    model = _ensemble(experiment, images.channels, 1, None, device)
    noise = experiment.torch_stream(Stream.SCORING_NOISE, None, device)
    train_loss, test_loss = [], []
    with progress_bar(experiment.epochs, f"{experiment.images}, all images", "epoch", progress) as bar:
        for _, loss in _fit(experiment, model, x, [np.arange(len(images))], None):
            train_loss.append(loss[0])
            test_loss.append(mean_loss(model, held, noise)[0])
            bar.update()
    prior = experiment.torch_stream(Stream.SAMPLES, None, device)
    return {
        "train_loss": np.array(train_loss),
        "test_loss": np.array(test_loss),
        "samples": sample(model, len(validation), images.channels, prior)[0],
        "index": images.index,
        "label": images.labels,
        **{f"{PARAMETER}{name}": array for name, array in model.state().items()},
    }


def full_model(result: xr.Dataset, device: str | None = None) -> Ensemble:
    """The model trained on all images behind a result of `run`, an ensemble of one in evaluation mode."""
    request = json.loads(result.request)
    arrays, _ = store.read(store.member_path(Path(result.folder), None), request)
    names = {f.name for f in dataclasses.fields(Experiment)}
    experiment = Experiment(**{name: value for name, value in request.items() if name in names})
    state = {name.removeprefix(PARAMETER): a for name, a in arrays.items() if name.startswith(PARAMETER)}
    template = experiment.build(result.sizes["channel"])
    return Ensemble.from_state(template, state, choose_device(device)).train(False)
