"""Runs: `run` trains and scores what an experiment misses, and loads what is there."""

import contextlib
import dataclasses
import functools
import itertools
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
import xarray as xr

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.device import check_device, choose_device
from memlib.experiment import Experiment
from memlib.runs.checkpoints import Checkpoints
from memlib.runs.cost import Estimate, cost, estimate
from memlib.runs.executors import processes, progress_bar, submitting, telling
from memlib.runs.job import Job, job_of
from memlib.runs.store import Member, StoreError
from memlib.runs.task import Task
from memlib.runs.worker import (
    LOG,
    WAIT_SECONDS,
    Report,
    T,
    check_precisions,
    compute,
    compute_in_process,
    finish,
    work_through,
)

PROCESSES_FLOP = 4e12  # from here on starting processes, which takes seconds, pays
# until a file that a worker wrote must be seen here: network folders remember for a minute
SHARED_SECONDS = 90


def run(
    experiment: Experiment,
    images: ImageSet | None = None,
    held_out: ImageSet | None = None,
    *,
    root: str | Path | None = None,
    executor: Executor | None = None,
    device: str | None = None,
    keep_models: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Train what is missing, score what is missing, load what is there.

    The repeats, and one model trained on all images, are separate tasks. On a CPU each computes on one core;
    where there is much to do, as many processes as PyTorch has threads work on them. On a GPU as many repeats
    as fit into half of its free memory are stacked into one group. Processes that ask for the same experiment
    at the same time share its tasks, or groups, and do each of them once.

    A task that was killed goes on from its newest checkpoint. On a CPU it ends, bit for bit, with the numbers
    that it would have had; on a GPU too if the same repeats are stacked again, else up to rounding.

    The models of the last epoch stay on disk: with other `num_samples`, `proposal`, `versions`, `noise` or
    `scoring_precision` they are scored anew, and nothing is trained again. Models of earlier epochs are gone
    when they have been scored once, so that later requests have scores of the last epoch alone; a warning
    says so.

    Args:
        experiment: the specification.
        images: training images that are at hand, 32 x 32 pixels, as many as folds or more, in place of those
            that the experiment names; its `images` then does not count, and its `num_images` has to be 0.
            Labels are only passed on into the result: who corrects them trains nothing again.
        held_out: given with them, images of the same shape that no model trains on: the model of all images
            is evaluated on them, and draws as many samples.
        root: the results folder; see `memlib.runs.store`.
        executor: a `concurrent.futures.Executor` whose workers see `root`, such as that of a Dask client,
            `client.get_executor(pure=False)`; by default this machine. When a task fails, those that wait
            are cancelled; those that run end by themselves, and their results are kept.
        device: "cpu", "cuda" or "cuda:N"; by default, where a task runs, $MEMLIB_DEVICE, else a GPU where
            there is one.
        keep_models: keep the models of all evaluated epochs, so that each can be scored anew.
        progress: show a progress bar: of images trained on or scored, with an executor of tasks.

    Returns:
        The data set that `stored` describes.

    Raises:
        ValueError: bad settings, before any training starts.
        FloatingPointError: the training of some repeats diverged; the others are stored.
        ExecutorError: a worker ended, an executor was shut down, or memory is too short; what is finished is
            stored, and the next call goes on from there.
        WriteError: the disk or the quota is full, a file too large, or `root` can only be read; as above.
        StoreError: a stored file is damaged or answers another request, models that are to be scored anew
            were pruned, `root` has no locks, or workers do not see it.
    """
    job = job_of(experiment, images, held_out, root, device)
    if executor is None:
        where = choose_device(device)
        check_precisions(experiment, where)
    elif not isinstance(executor, Executor):
        raise ValueError(
            f"executor is of type {type(executor).__name__}; allowed: a concurrent.futures.Executor, "
            "as client.get_executor(pure=False) of a Dask client is"
        )
    elif device:
        check_device(device)  # whether it is there, each worker finds out
    job = dataclasses.replace(job, device=device if executor else str(where), keep_models=keep_models)
    abroad = job if images else dataclasses.replace(job, sets=None)  # others load images by their name
    diverged: dict[Member, str] = {}
    if missing := job.missing():
        _check_stored(job, None if executor else where.type)
        store.write_request(job.folder, job.training)
        store.write_request(job.scores, job.scoring)
        epochs = sum(experiment.epochs - done for done in missing.values())
        title = f"{job.training['images']}, {len(missing)} of {len(job.members)} tasks"
        title += f", {epochs} epochs" if epochs else ", scoring"
        if executor:
            with telling(executor), progress_bar(len(missing), title, "tasks", enabled=progress) as bar:
                diverged = _run_elsewhere(abroad, missing, executor, bar.update)
        else:
            work, workers = sum(map(Task(job, where).work, missing)), _workers(job, missing, where)
            with (
                telling(None),
                progress_bar(work, title, "images", enabled=progress) as bar,
                contextlib.ExitStack() as pools,
            ):
                if workers > 1:
                    pool = pools.enter_context(processes(workers, bar.update))
                    submit = functools.partial(pool.submit, compute_in_process, abroad)
                    attempt: Callable = lambda left: _collect(submit, left)  # noqa: E731
                else:
                    attempt = lambda left: [compute(job, group, bar.update) for group in left]  # noqa: E731
                diverged = work_through(_groups(job, missing, where), attempt, job.path, job.is_done)
    for member in job.members:
        if job.is_trained(member):  # else it diverged
            store.remove(job.checkpoints, member)  # of a process killed before it could
    if diverged:
        raise FloatingPointError(_told(diverged, job))
    return _assembled(job)


def stored(
    experiment: Experiment,
    images: ImageSet | None = None,
    held_out: ImageSet | None = None,
    *,
    root: str | Path | None = None,
) -> xr.Dataset:
    """What `run` would return, if all of it is there; trains and scores nothing.

    Returns:
        Variables: `log_px`, the mean over versions of an image, and `ess`, the smallest of them, (epoch,
        repeat, fold, observation); of several versions `log_px_version` (epoch, repeat, fold, version,
        observation); `failing` (epoch, repeat, fold), the share of estimates with too high a Pareto k-hat;
        `khat`, `num_samples` (epoch, repeat, observation) of that estimate of a repeat whose k-hat is worst
        for its number of samples; `fold_of` (repeat, observation); `fold_loss` (repeat, train_epoch, fold);
        `train_loss`, `test_loss` (train_epoch) and `samples` (sample, channel, row, column) of the model
        trained on all images. Losses and log-probabilities are in nats per image. Attributes: `request`, what
        was asked for, and `runs`, what stored files say of their computation, as JSON; `folder`.

    Raises:
        ValueError: bad settings.
        StoreError: something is missing, damaged, or answers another request.
    """
    job = job_of(experiment, images, held_out, root)
    if missing := job.missing():
        raise StoreError(
            f"{len(missing)} of {len(job.members)} tasks are missing in {job.folder}; run the "
            "experiment with the same settings first"
        )
    return _assembled(job)


def remaining(
    experiment: Experiment,
    images: ImageSet | None = None,
    held_out: ImageSet | None = None,
    *,
    root: str | Path | None = None,
    device: str | None = None,
) -> Estimate:
    """What `run` would still have to do, and about how long it would take on this machine.

    Arguments and errors are those of `run`; a few steps are computed for their time.
    """
    job, where = job_of(experiment, images, held_out, root), choose_device(device)
    check_precisions(experiment, where)
    missing = job.missing()
    for member in filter(job.is_trained, missing):
        job.models_to_score(member)
    at_once = _workers(job, missing, where)
    if where.type == "cuda":
        at_once = max(map(len, _groups(job, missing, where)), default=1)
    return estimate(**_left(job, missing), device=str(where), at_once=at_once)


def prune(
    experiment: Experiment,
    images: ImageSet | None = None,
    held_out: ImageSet | None = None,
    *,
    root: str | Path | None = None,
) -> int:
    """Delete the models of an experiment's repeats that are trained and scored; returns the bytes freed.

    They cannot be scored anew then. The model of all images stays. Arguments are those of `run`.

    Raises:
        ValueError, StoreError: as `stored`: models without scores stay.
    """
    folder = Path(stored(experiment, images, held_out, root=root).folder) / "models"
    repeats = range(experiment.repeats)
    paths = [store.epoch_path(folder, r, epoch) for r in repeats for epoch in store.epochs_of(folder, r)]
    freed = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    return freed


def _check_stored(job: Job, device: str | None) -> None:
    """Read what is there of a run of which something is missing: nothing trains beside what cannot be used.

    Raises:
        StoreError: a file is damaged or answers another request; models that are to be scored are gone; a
            checkpoint answers another request, or is from another kind of device than this, if that is known.
    """
    for member in job.members:
        if job.is_trained(member):
            store.read(job.path(member), job.training)
        elif device:
            Checkpoints(job.checkpoints, job.training, device).check(member)
        for epoch in store.epochs_of(job.scores, member):
            store.read(store.epoch_path(job.scores, member, epoch), job.scoring)
    for member in filter(job.is_trained, job.members):
        job.models_to_score(member)


def _left(job: Job, missing: dict[Member, int]) -> dict[str, Any]:
    """What is missing, as `cost` takes it."""
    images, held_out = job.sets
    sizes = {"n": len(images), "channels": images.channels, "validation_images": len(held_out)}
    to_score = {member: len(job.to_score(member)) for member in missing if job.is_trained(member)}
    return {"experiment": job.experiment, **sizes, "missing": missing, "to_score": to_score}


def _workers(job: Job, missing: dict[Member, int], device: torch.device) -> int:
    """Processes that a run uses on this machine; 1 is this process itself."""
    left = cost(**_left(job, missing))
    if device.type != "cpu" or left.training_flop + left.scoring_flop < PROCESSES_FLOP:
        return 1
    if multiprocessing.current_process().daemon:  # may start no others; so are the workers of Dask
        return 1
    return max(1, min(len(missing), torch.get_num_threads()))


def _groups(job: Job, missing: dict[Member, int], device: torch.device) -> list[list[Member]]:
    """Members to be computed together: one at a time on a CPU, on a GPU as many repeats as fit."""
    size = 1
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] / 2
        memory = [cost(**_left(job, missing), at_once=count).gpu_memory for count in (1, 2)]
        size = 1 + max(0, int((limit - memory[0]) // (memory[1] - memory[0])))
    repeats = [member for member in missing if member is not None]
    alone: list[list[Member]] = [[None]] if None in missing else []
    return alone + [repeats[i : i + size] for i in range(0, len(repeats), size)]


def _collect(
    submit: Callable[[T], Future[Report]],
    pieces: Iterable[T],
    executor: Executor | None = None,
    tick: Callable[[int], object] = lambda done: None,
) -> list[Report]:
    """The results; when one fails, those that wait are cancelled and those that run finish."""
    futures: list[Future[Report]] = []
    ended: SimpleQueue[Future[Report]] = SimpleQueue()
    try:
        with submitting(executor):
            for piece in pieces:
                futures.append(submit(piece))
                futures[-1].add_done_callback(ended.put)
        for _ in futures:
            ended.get().result()  # as_completed misses what the shutdown of an executor cancels
            tick(1)
    except Exception:
        wait([future for future in futures if not future.cancel()])
        raise
    return [future.result() for future in futures]


def _run_elsewhere(
    job: Job, missing: Iterable[Member], executor: Executor, tick: Callable[[int], object]
) -> dict[Member, str]:
    """Let an executor's workers compute what is missing; returns why which diverged.

    Raises:
        StoreError: what they wrote is not seen here.
    """
    reports = _collect(functools.partial(executor.submit, finish, job), missing, executor, tick)
    diverged = {member: reason for report in reports for member, reason in report.diverged.items()}
    deadline = time.monotonic() + SHARED_SECONDS
    for member in missing:
        while member not in diverged and not job.is_done(member):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"a worker wrote {job.path(member)} or its scores, which are not seen here; allowed: a "
                    "results folder that all machines share"
                )
            time.sleep(WAIT_SECONDS)
    return diverged


def _told(diverged: dict[Member, str], job: Job) -> str:
    """The message on members whose training diverged."""
    lines = [
        f"{'the model of all images' if member is None else f'repeat {member + 1}'}, {diverged[member]}"
        for member in job.members
        if member in diverged
    ]
    return (
        f"{job.sets[0].name}: training diverged: {'; '.join(lines)}. A smaller learning_rate may help; "
        f"everything else is stored in {job.folder}"
    )


def _assembled(job: Job) -> xr.Dataset:
    """All that is stored of a run as one data set, at the epochs of which all repeats have scores."""
    evaluated, repeats = job.experiment.evaluated_epochs, range(job.experiment.repeats)
    full, facts = store.read(job.path(None), job.training)
    trained, records = zip(*(store.read(job.path(repeat), job.training) for repeat in repeats), strict=True)
    records = [facts, *records]
    scored = set.intersection(*({*store.epochs_of(job.scores, repeat)} for repeat in repeats))
    if without := [epoch for epoch in evaluated if epoch not in scored]:
        LOG.warning(
            "no scores of epochs %s with these settings in every repeat, and their models are not kept; "
            "run(keep_models=True) in a new results folder keeps them",
            ", ".join(map(str, without)),
        )
    scores: dict[int, list] = {epoch: [] for epoch in evaluated if epoch in scored}
    for epoch, repeat in itertools.product(scores, repeats):
        arrays, record = store.read(store.epoch_path(job.scores, repeat, epoch), job.scoring)
        scores[epoch].append(arrays)
        records.append(record)
    images, nats = job.sets[0], {"units": "nats"}
    fold_of, fold_loss = (np.stack([arrays[name] for arrays in trained]) for name in ("fold_of", "fold_loss"))
    result = store.assemble(scores, fold_of, images.index, images.labels)
    result["fold_loss"] = ("repeat", "train_epoch", "fold"), fold_loss, nats
    for name in ("train_loss", "test_loss"):
        result[name] = "train_epoch", full[name], nats
    result["samples"] = ("sample", "channel", "row", "column"), full["samples"]
    result.coords["train_epoch"] = np.arange(1, len(full["train_loss"]) + 1)
    return result.assign_attrs(
        folder=str(job.folder),
        request=json.dumps(job.scoring),
        runs=json.dumps([record["run"] for record in records]),
    )
