"""Runs: `run` trains and scores what an experiment misses, and loads what is there."""

import dataclasses
import functools
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path

import numpy as np
import torch
import xarray as xr

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.device import check_device, choose_device
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment
from memlib.models import SIDE
from memlib.runs.checkpoints import Checkpoints
from memlib.runs.cost import Cost, Estimate, cost, estimate
from memlib.runs.executors import processes, progress_bar
from memlib.runs.store import Member, StoreError
from memlib.runs.task import PARAMETER, Job, Task, requested
from memlib.runs.worker import (
    LOG,
    WAIT_SECONDS,
    Report,
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

    The models of the last epoch stay on disk: with other `num_samples`, `rescoring`, `noise` or
    `scoring_precision` they are scored anew, and nothing is trained again. Models of earlier epochs are gone
    when they have been scored once, so that later requests have scores of the last epoch alone; a warning
    says so.

    Args:
        experiment: the specification.
        images: training images that are at hand, 32 x 32 pixels, as many as folds or more, in place of those
            that the experiment names; its `images` and `num_images` then do not count, and have to be as
            they are by default or 0.
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
        StoreError: a stored file is damaged or answers another request, models that are to be scored anew
            were pruned, `root` has no locks, or workers do not see it.
    """
    sets = _sets(experiment, images, held_out)
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
    job, missing = _job(experiment, sets, root, device if executor else str(where), images is not None)
    job = dataclasses.replace(job, keep_models=keep_models)
    if missing:
        _check_stored(job, where.type if executor is None else None)
        store.write_request(job.folder, job.training)
        store.write_request(job.scores, job.scoring)
    diverged: dict[Member, str] = {}
    epochs = sum(experiment.epochs for member in missing if not job.is_trained(member))
    title = f"{sets[0].name.partition(':')[0]}, {len(missing)} of {experiment.repeats + 1} tasks"
    title += f", {epochs} epochs" if epochs else ", scoring"
    if missing and executor:
        diverged = _run_elsewhere(job, missing, executor, title, progress)
    elif missing:
        workers = _workers(_cost(job, missing, sets), missing, where)
        groups = _groups(job, sets, missing, where)
        task, path_of = Task(job, *sets, where), functools.partial(store.member_path, job.folder)
        with progress_bar(sum(map(task.work, missing)), title, "images", enabled=progress) as bar:
            if workers > 1:
                with processes(workers, bar.update) as pool:
                    submit = functools.partial(pool.submit, compute_in_process, job)
                    attempt: Callable = lambda left: _collect([submit(group) for group in left])  # noqa: E731
                    diverged = work_through(groups, attempt, path_of)
            else:
                here = dataclasses.replace(job, sets=sets)
                attempt = lambda left: [compute(here, group, bar.update) for group in left]  # noqa: E731
                diverged = work_through(groups, attempt, path_of)
    for member in _members(job):
        if job.is_trained(member):  # else it diverged
            store.remove(job.folder / "checkpoints", member)  # of a process killed before it could
    if diverged:
        raise FloatingPointError(_told(diverged, job))
    return _assembled(job, sets[0])


def stored(
    experiment: Experiment,
    images: ImageSet | None = None,
    held_out: ImageSet | None = None,
    *,
    root: str | Path | None = None,
) -> xr.Dataset:
    """What `run` would return, if all of it is there; trains and scores nothing.

    Returns:
        Variables: `log_px`, `ess` (epoch, repeat, fold, observation); `failing` (epoch, repeat, fold), the
        share of observations with too high a Pareto k-hat; `khat`, `num_samples` (epoch, repeat,
        observation), the worst k-hat among the models of a repeat, and how many samples each of them has
        used; `fold_of` (repeat, observation); `fold_loss` (repeat, train_epoch, fold); `train_loss`,
        `test_loss` (train_epoch) and `samples` (sample, channel, row, column) of the model trained on all
        images. Losses and log-probabilities are in nats per image. Attributes: `request`, what was asked for,
        and `runs`, what stored files say of their computation, as JSON; `folder`.

    Raises:
        ValueError: bad settings.
        StoreError: something is missing, damaged, or answers another request.
    """
    sets = _sets(experiment, images, held_out)
    job, missing = _job(experiment, sets, root, None, images is not None)
    if missing:
        raise StoreError(
            f"{len(missing)} of {experiment.repeats + 1} tasks are missing in {job.folder}; run the "
            "experiment with the same settings first"
        )
    return _assembled(job, sets[0])


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
    sets = _sets(experiment, images, held_out)
    where = choose_device(device)
    check_precisions(experiment, where)
    job, missing = _job(experiment, sets, root, str(where), images is not None)
    at_once = _workers(_cost(job, missing, sets), missing, where)
    if where.type == "cuda":
        at_once = max(map(len, _groups(job, sets, missing, where)), default=1)
    return estimate(
        experiment, *_sizes(sets), missing=_begun(job, missing), device=str(where), at_once=at_once
    )


def prune(experiment: Experiment, *, root: str | Path | None = None) -> int:
    """Delete the models of an experiment's repeats that are trained and scored; returns the bytes freed.

    They cannot be scored anew then. The model of all images stays.

    Raises:
        ValueError, StoreError: as `stored`: models without scores stay.
    """
    folder = Path(stored(experiment, root=root).folder) / "models"
    files = [(path, path.stat().st_size) for r in range(experiment.repeats) for path in _models(folder, r)]
    for path, _ in files:
        path.unlink()
    return sum(size for _, size in files)


def _models(folder: Path, repeat: int) -> list[Path]:
    return [store.epoch_path(folder, repeat, epoch) for epoch in store.epochs_of(folder, repeat)]


def _sets(
    experiment: Experiment, images: ImageSet | None, held_out: ImageSet | None
) -> tuple[ImageSet, ImageSet]:
    """Training and held-out images: those given, checked, else those that the experiment names."""
    if not isinstance(experiment, Experiment):
        raise ValueError(
            f"experiment is {experiment!r:.60}; allowed: an Experiment, as EXPERIMENTS and variant() give"
        )
    if images is None and held_out is None:
        return experiment.load_images(), experiment.load_validation()
    for name, given in (("images", images), ("held_out", held_out)):
        if not isinstance(given, ImageSet):
            kind = type(given).__name__
            raise ValueError(
                f"{name} is a {kind}; allowed: an ImageSet for both images and held_out, or None for both"
            )
        shape = (images.channels, SIDE, SIDE)
        if given.images.shape[1:] != shape:
            raise ValueError(
                f"{name} are {given.images.shape[1:]}; allowed: {shape}, as the models take them"
            )
    if experiment.num_images:
        raise ValueError(
            f"num_images is {experiment.num_images}; allowed with images at hand: 0, all of them"
        )
    if len(images) < experiment.folds:
        raise ValueError(f"folds is {experiment.folds}; allowed: at most the number of images, {len(images)}")
    return images, held_out


def _job(
    experiment: Experiment,
    sets: tuple[ImageSet, ImageSet],
    root: str | Path | None,
    device: str | None,
    at_hand: bool,
) -> tuple[Job, list[Member]]:
    """What every process has to know, and the members that are not done."""
    training, scoring = requested(experiment, *sets)
    folder = store.training_folder(root, training).resolve()
    job = Job(experiment, training, scoring, folder, device, sets=sets if at_hand else None)
    return job, [member for member in _members(job) if not job.is_done(member)]


def _members(job: Job) -> list[Member]:
    return [None, *range(job.experiment.repeats)]


def _check_stored(job: Job, device: str | None) -> None:
    """Read what is there of a run of which something is missing: nothing trains beside what cannot be used.

    Raises:
        StoreError: a file is damaged or answers another request; a checkpoint answers another one, or is from
            another kind of device than this, if that is known.
    """
    for member in _members(job):
        if job.is_trained(member):
            store.read(store.member_path(job.folder, member), job.training)
        elif device:
            Checkpoints(job.folder, job.training, device).check(member)
        if member is not None:
            for epoch in store.epochs_of(job.scores, member):
                store.read(store.epoch_path(job.scores, member, epoch), job.scoring)


def _begun(job: Job, members: list[Member]) -> dict[Member, int]:
    """The epochs that members have behind them."""
    checkpoints, epochs = job.folder / "checkpoints", job.experiment.epochs
    return {
        m: epochs if job.is_trained(m) else max(store.epochs_of(checkpoints, m), default=0) for m in members
    }


def _sizes(sets: tuple[ImageSet, ImageSet]) -> tuple[int, int, int]:
    return len(sets[0]), sets[0].channels, len(sets[1])


def _cost(job: Job, missing: list[Member], sets: tuple[ImageSet, ImageSet]) -> Cost:
    """All of what is missing, with what checkpoints hold of it."""
    return cost(job.experiment, *_sizes(sets), missing=dict.fromkeys(missing, 0))


def _workers(left: Cost, missing: list[Member], device: torch.device) -> int:
    """Processes that a run uses on this machine; 1 is this process itself."""
    if device.type != "cpu" or left.training_flop + left.scoring_flop < PROCESSES_FLOP:
        return 1
    if multiprocessing.current_process().daemon:  # may start no others; so are the workers of Dask
        return 1
    return max(1, min(len(missing), torch.get_num_threads()))


def _groups(
    job: Job, sets: tuple[ImageSet, ImageSet], members: list[Member], device: torch.device
) -> list[list[Member]]:
    """Members to be computed together: one at a time on a CPU, on a GPU as many repeats as fit."""
    size = 1
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] / 2
        n, channels, _ = _sizes(sets)
        memory = [cost(job.experiment, n, channels, 0, at_once=count).gpu_memory for count in (1, 2)]
        size = 1 + max(0, int((limit - memory[0]) // (memory[1] - memory[0])))
    repeats = [member for member in members if member is not None]
    alone: list[list[Member]] = [[None]] if None in members else []
    return alone + [list(repeats[i : i + size]) for i in range(0, len(repeats), size)]


def _collect(
    futures: list[Future[Report]], tick: Callable[[int], object] = lambda done: None
) -> list[Report]:
    """The results; when one fails, those that wait are cancelled and those that run finish."""
    try:
        for future in as_completed(futures):
            future.result()
            tick(1)
    except Exception:
        wait([future for future in futures if not future.cancel()])
        raise
    return [future.result() for future in futures]


def _run_elsewhere(
    job: Job, missing: list[Member], executor: Executor, title: str, progress: bool
) -> dict[Member, str]:
    """Let an executor's workers compute what is missing; returns why which diverged.

    Raises:
        StoreError: what they wrote is not seen here.
    """
    with progress_bar(len(missing), title, "tasks", enabled=progress) as bar:
        reports = _collect([executor.submit(finish, job, member) for member in missing], bar.update)
    diverged = {member: reason for report in reports for member, reason in report.diverged.items()}
    deadline = time.monotonic() + SHARED_SECONDS
    for member in missing:
        while member not in diverged and not job.is_done(member):
            if time.monotonic() > deadline:
                raise StoreError(
                    f"a worker wrote {store.member_path(job.folder, member)} or its scores, which are not "
                    "seen here; allowed: a results folder that all machines share"
                )
            time.sleep(WAIT_SECONDS)
    return diverged


def _told(diverged: dict[Member, str], job: Job) -> str:
    """The message on members whose training diverged."""
    lines = [
        f"{'the model of all images' if m is None else f'repeat {m + 1}'}, {reason}"
        for m, reason in sorted(diverged.items(), key=lambda item: -1 if item[0] is None else item[0])
    ]
    return (
        f"{job.experiment.images}: training diverged: {'; '.join(lines)}. A smaller learning_rate may help; "
        f"everything else is stored in {job.folder}"
    )


def _assembled(job: Job, images: ImageSet) -> xr.Dataset:
    """All that is stored of a run as one data set, at the epochs of which all repeats have scores."""
    e, repeats = job.experiment, range(job.experiment.repeats)
    full, facts = store.read(store.member_path(job.folder, None), job.training)
    trained = [store.read(store.member_path(job.folder, repeat), job.training) for repeat in repeats]
    scored = [{*store.epochs_of(job.scores, repeat)} for repeat in repeats]
    epochs = sorted(set.intersection(*scored) & {*e.evaluated_epochs})
    if without := [epoch for epoch in e.evaluated_epochs if epoch not in epochs]:
        LOG.warning(
            "no scores of epochs %s with these settings: their models had been scored with others, and were "
            "not kept; run(keep_models=True) in a new results folder keeps them",
            ", ".join(map(str, without)),
        )
    parts = {
        epoch: [store.read(store.epoch_path(job.scores, r, epoch), job.scoring) for r in repeats]
        for epoch in epochs
    }
    fold_of = np.stack([arrays["fold_of"] for arrays, _ in trained])
    scores = {epoch: [arrays for arrays, _ in each] for epoch, each in parts.items()}
    result = store.assemble(scores, fold_of, images.index, images.labels)
    nats = {"units": "nats"}
    fold_loss = np.stack([arrays["fold_loss"] for arrays, _ in trained])
    result["fold_loss"] = ("repeat", "train_epoch", "fold"), fold_loss, nats
    for name in ("train_loss", "test_loss"):
        result[name] = "train_epoch", full[name], nats
    result["samples"] = ("sample", "channel", "row", "column"), full["samples"]
    result.coords["train_epoch"] = np.arange(1, len(full["train_loss"]) + 1)
    records = [facts, *(record for _, record in trained)]
    records += [record for each in parts.values() for _, record in each]
    return result.assign_attrs(
        folder=str(job.folder),
        request=json.dumps(job.scoring),
        runs=json.dumps([record["run"] for record in records]),
    )


def full_model(result: xr.Dataset, device: str | None = None) -> Ensemble:
    """The model trained on all images behind a result of `run`, an ensemble of one in evaluation mode."""
    request = json.loads(result.request)
    arrays, _ = store.read(store.member_path(Path(result.folder), None), store.training_part(request))
    names = {f.name for f in dataclasses.fields(Experiment)} - {"images"}
    experiment = Experiment(**{name: value for name, value in request.items() if name in names})
    state = {name.removeprefix(PARAMETER): a for name, a in arrays.items() if name.startswith(PARAMETER)}
    template = experiment.build(result.sizes["channel"])
    return Ensemble.from_state(template, state, choose_device(device)).train(False)
