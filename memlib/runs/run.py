"""Runs: `run` trains what an experiment misses and loads what is there."""

import dataclasses
import functools
import json
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path

import torch
import xarray as xr

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.device import check_device, check_precision, choose_device
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment
from memlib.runs.checkpoints import Checkpoints
from memlib.runs.cost import Cost, Estimate, cost, estimate
from memlib.runs.executors import processes
from memlib.runs.progress import progress_bar
from memlib.runs.store import Member, StoreError
from memlib.runs.task import PARAMETER
from memlib.runs.worker import (
    WAIT_SECONDS,
    Job,
    Report,
    compute,
    compute_in_process,
    finish,
    requested,
    say_waiting,
)

PROCESSES_FLOP = 4e12  # from here on starting processes, which takes seconds, pays
# until a file that a worker wrote must be seen here: network folders remember for a minute
SHARED_SECONDS = 90


def run(
    experiment: Experiment,
    root: str | Path | None = None,
    executor: Executor | None = None,
    device: str | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Train what is missing, load what is there.

    The repeats, and one model trained on all images, are separate tasks. On a CPU each computes on one core;
    where there is much to do, as many processes as PyTorch has threads work on them. On a GPU as many repeats
    as fit into half of its free memory are stacked into one group. Processes that ask for the same experiment
    at the same time share its tasks, or groups, and do each of them once.

    A task that was killed goes on from its newest checkpoint. On a CPU it ends, bit for bit, with the numbers
    that it would have had; on a GPU too if the same repeats are stacked again, else up to rounding.

    Args:
        experiment: the specification.
        root: the results folder; see `memlib.runs.store`.
        executor: a `concurrent.futures.Executor` whose workers see `root`, such as that of a Dask client,
            `client.get_executor(pure=False)`; by default this machine. When a task fails, those that wait
            are cancelled; those that run end by themselves, and their results are kept.
        device: "cpu", "cuda" or "cuda:N"; by default, where a task runs, $MEMLIB_DEVICE, else a GPU where
            there is one.
        progress: show a progress bar: of FLOP, with an executor of tasks.

    Returns:
        The data set described in `memlib.runs.store.assemble`.

    Raises:
        ValueError: bad settings, before any training starts.
        FloatingPointError: the training of some repeats diverged; the others are stored.
        StoreError: a stored file is damaged or answers another request, `root` has no locks, or workers do
            not see it.
    """
    _check(experiment)
    if executor is None:
        where = choose_device(device)
        check_precision(experiment.precision, where)
    elif not isinstance(executor, Executor):
        raise ValueError(
            f"executor is of type {type(executor).__name__}; allowed: a concurrent.futures.Executor, "
            "as client.get_executor(pure=False) of a Dask client is"
        )
    elif device:
        check_device(device)  # whether it is there, each worker finds out
    images, validation = experiment.load_images(), experiment.load_validation()
    job, missing = _missing(experiment, images, validation, root, device if executor else str(where))
    if missing:
        _check_stored(job, missing, where.type if executor is None else None)
        store.write_request(job.folder, job.request)
    title = f"{experiment.images}, {len(missing)} of {experiment.repeats + 1} tasks"
    diverged: dict[Member, str] = {}
    if missing and executor:
        diverged = _run_elsewhere(job, missing, executor, title, progress)
    elif missing:
        left = _cost(job, missing, images, validation)
        flop = left.training_flop + left.scoring_flop + left.rescoring_flop
        workers = _workers(left, missing, where)
        groups = _groups(job, images, missing, where)
        with progress_bar(flop, title, enabled=progress) as bar:
            if workers > 1:
                with processes(workers, bar.update) as pool:
                    submit = functools.partial(pool.submit, compute_in_process, job)
                    diverged = _work_through(groups, job, lambda left: _collect([submit(g) for g in left]))
            else:
                sets = images, validation
                diverged = _work_through(
                    groups, job, lambda left: [compute(job, g, bar.update, sets) for g in left]
                )
    for member in [None, *range(experiment.repeats)]:
        if store.member_path(job.folder, member).exists():  # else it diverged
            store.remove_checkpoints(job.folder, member)  # of a process killed before it could
    if diverged:
        raise FloatingPointError(_told(diverged, job))
    return store.assemble(job.folder, experiment.repeats, job.request)


def stored(experiment: Experiment, root: str | Path | None = None) -> xr.Dataset:
    """What `run` would return, if all of it is there; trains nothing.

    Raises:
        ValueError: bad settings.
        StoreError: something is missing, damaged, or answers another request.
    """
    _check(experiment)
    images, validation = experiment.load_images(), experiment.load_validation()
    job, missing = _missing(experiment, images, validation, root, None)
    if missing:
        raise StoreError(
            f"{len(missing)} of {experiment.repeats + 1} tasks are missing in {job.folder}; run the "
            "experiment with the same settings first"
        )
    return store.assemble(job.folder, experiment.repeats, job.request)


def remaining(experiment: Experiment, root: str | Path | None = None, device: str | None = None) -> Estimate:
    """What `run` would still have to do, and about how long it would take on this machine.

    Arguments and errors are those of `run`; a few steps are computed for their time.
    """
    _check(experiment)
    where = choose_device(device)
    check_precision(experiment.precision, where)
    images, validation = experiment.load_images(), experiment.load_validation()
    job, missing = _missing(experiment, images, validation, root, str(where))
    at_once = _workers(_cost(job, missing, images, validation), missing, where)
    if where.type == "cuda":
        at_once = max(map(len, _groups(job, images, missing, where)), default=1)
    sizes = len(images), images.channels, len(validation)
    return estimate(experiment, *sizes, missing=_begun(job, missing), device=str(where), at_once=at_once)


def _check(experiment: Experiment) -> None:
    if not isinstance(experiment, Experiment):
        raise ValueError(
            f"experiment is {experiment!r:.60}; allowed: an Experiment, as EXPERIMENTS and variant() give"
        )


def _missing(
    experiment: Experiment,
    images: ImageSet,
    validation: ImageSet,
    root: str | Path | None,
    device: str | None,
) -> tuple[Job, list[Member]]:
    """What every process has to know, and the members that are not there."""
    request = requested(experiment, images, validation)
    folder = store.result_folder(root, request).resolve()
    members: list[Member] = [None, *range(experiment.repeats)]
    missing = [m for m in members if not store.member_path(folder, m).exists()]
    return Job(experiment, request, folder, device), missing


def _check_stored(job: Job, missing: list[Member], device: str | None) -> None:
    """Read what is there of a run of which something is missing: nothing trains beside what cannot be used.

    Raises:
        StoreError: a file is damaged or answers another request; a checkpoint answers another one, or is from
            another kind of device than this, if that is known.
    """
    for member in [None, *range(job.experiment.repeats)]:
        if member not in missing:
            store.read(store.member_path(job.folder, member), job.request)
        elif device:
            Checkpoints(job.folder, job.request, device).check(member)


def _begun(job: Job, members: list[Member]) -> dict[Member, int]:
    """The epochs that members have behind them."""
    return {m: max(store.checkpoint_epochs(job.folder, m), default=0) for m in members}


def _cost(job: Job, missing: list[Member], images: ImageSet, validation: ImageSet) -> Cost:
    """All of what is missing, with what checkpoints hold of it: tasks report that as done when they begin."""
    sizes = len(images), images.channels, len(validation)
    return cost(job.experiment, *sizes, missing=dict.fromkeys(missing, 0))


def _workers(left: Cost, missing: list[Member], device: torch.device) -> int:
    """Processes that a run uses on this machine; 1 is this process itself."""
    if device.type != "cpu" or left.training_flop + left.scoring_flop < PROCESSES_FLOP:
        return 1
    if multiprocessing.current_process().daemon:  # may start no others; so are the workers of Dask
        return 1
    return max(1, min(len(missing), torch.get_num_threads()))


def _groups(job: Job, images: ImageSet, members: list[Member], device: torch.device) -> list[list[Member]]:
    """Members to be computed together: one at a time on a CPU, on a GPU as many repeats as fit."""
    size = 1
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] / 2
        memory = [
            cost(job.experiment, len(images), images.channels, 0, at_once=count).gpu_memory
            for count in (1, 2)
        ]
        size = 1 + max(0, int((limit - memory[0]) // (memory[1] - memory[0])))
    repeats = [member for member in members if member is not None]
    alone: list[list[Member]] = [[None]] if None in members else []
    return alone + [list(repeats[i : i + size]) for i in range(0, len(repeats), size)]


def _work_through(
    groups: list[list[Member]], job: Job, attempt: Callable[[list[list[Member]]], list[Report]]
) -> dict[Member, str]:
    """Attempt the groups that are not there yet until all are; returns why which diverged."""
    awaited, diverged = None, {}
    while groups:
        reports = attempt(groups)
        for report in reports:
            diverged |= report.diverged
        left = [report.elsewhere for report in reports if report.elsewhere]
        if left == groups:  # other processes compute them all
            paths = [store.member_path(job.folder, member) for group in left for member in group]
            path = next((path for path in paths if not path.exists()), awaited)
            if path != awaited:
                say_waiting(path)
            awaited = path
            time.sleep(WAIT_SECONDS)
        groups = left
    return diverged


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
    with progress_bar(len(missing), title, enabled=progress) as bar:
        reports = _collect([executor.submit(finish, job, member) for member in missing], bar.update)
    deadline = time.monotonic() + SHARED_SECONDS
    for path in [Path(path) for report in reports for path in report.paths]:
        while not path.exists():
            if time.monotonic() > deadline:
                raise StoreError(
                    f"a worker wrote {path}, which is not seen here; allowed: a results folder that all "
                    "machines share"
                )
            time.sleep(WAIT_SECONDS)
    return {member: reason for report in reports for member, reason in report.diverged.items()}


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


def full_model(result: xr.Dataset, device: str | None = None) -> Ensemble:
    """The model trained on all images behind a result of `run`, an ensemble of one in evaluation mode."""
    request = json.loads(result.request)
    arrays, _ = store.read(store.member_path(Path(result.folder), None), request)
    names = {f.name for f in dataclasses.fields(Experiment)}
    experiment = Experiment(**{name: value for name, value in request.items() if name in names})
    state = {name.removeprefix(PARAMETER): a for name, a in arrays.items() if name.startswith(PARAMETER)}
    template = experiment.build(result.sizes["channel"])
    return Ensemble.from_state(template, state, choose_device(device)).train(False)
