"""Runs: `run` trains what an experiment misses and loads what is there."""

import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, as_completed, wait
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import memlib.store as store
from memlib import parallel
from memlib.cost import Cost, Estimate, cost, estimate
from memlib.data import ImageSet
from memlib.device import check_device, choose_device
from memlib.ensemble import Ensemble
from memlib.experiment import Experiment
from memlib.parallel import one_thread, processes
from memlib.precision import check_precision
from memlib.progress import progress_bar
from memlib.tasks import PARAMETER, Task
from memlib.training import Tick

LOG = logging.getLogger("memlib")
PROCESSES_FLOP = 4e12  # from here on starting processes, which takes seconds, pays

Member = int | None  # a repeat, or None for the model of all images


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

    The repeats, and one model trained on all images, are separate tasks. On a CPU each computes on one core;
    where there is much to do, as many processes as PyTorch has threads work on them. On a GPU as many repeats
    as fit into half of its free memory are stacked into one group. Processes that ask for the same experiment
    at the same time share its tasks, or groups, and do each of them once.

    Args:
        experiment: the specification.
        root: the results folder; see `memlib.store`.
        executor: anything with the interface of `concurrent.futures.Executor` whose workers see `root`; by
            default this machine. When a task fails, those that wait are cancelled and those that run finish.
        device: "cpu", "cuda" or "cuda:N"; by default, where a task runs, $MEMLIB_DEVICE, else a GPU where
            there is one.
        progress: show a progress bar.

    Returns:
        The data set described in `memlib.store.assemble`.

    Raises:
        ValueError: bad settings, before any training starts.
        FloatingPointError: training diverged, or a score is not a number.
        StoreError: a stored file is damaged or answers another request.
    """
    if executor is None:
        where = choose_device(device)
        check_precision(experiment.precision, where)
    elif device:
        check_device(device)  # whether it is there, each worker finds out
    images, validation = experiment.load_images(), experiment.load_validation()
    request, folder, missing = _missing(experiment, images, validation, root)
    if executor:
        task = functools.partial(_finish, experiment, request, folder, device)
        _collect([executor.submit(task, [member]) for member in missing])
    elif missing:
        left = cost(experiment, len(images), images.channels, len(validation), *_parts(missing))
        flop = left.training_flop + left.scoring_flop
        title = f"{experiment.images}, {left.models} models"
        workers = _workers(left, missing, where)
        groups, task = _groups(experiment, images, missing, where), (experiment, request, folder, str(where))
        with progress_bar(flop, title, enabled=progress) as bar:
            if workers > 1:
                with processes(workers, bar.update) as pool:
                    compute = functools.partial(pool.submit, _compute_in_process, *task)
                    _work_through(groups, folder, lambda left: _collect([compute(group) for group in left]))
            else:
                sets = images, validation
                compute = functools.partial(_compute, *task, tick=bar.update, sets=sets)
                _work_through(groups, folder, lambda left: [compute(group) for group in left])
    return store.assemble(folder, experiment.repeats, request)


def remaining(experiment: Experiment, root: str | Path | None = None, device: str | None = None) -> Estimate:
    """What `run` would still have to do, and about how long it would take on this machine.

    Arguments and errors are those of `run`; a few steps are computed for their time.
    """
    where = choose_device(device)
    images, validation = experiment.load_images(), experiment.load_validation()
    _, _, missing = _missing(experiment, images, validation, root)
    sizes, (repeats, full) = (len(images), images.channels, len(validation)), _parts(missing)
    at_once = _workers(cost(experiment, *sizes, repeats, full), missing, where)
    if where.type == "cuda":
        at_once = max(map(len, _groups(experiment, images, missing, where)), default=1)
    options = {"repeats_missing": repeats, "full_missing": full, "at_once": at_once}
    return estimate(experiment, *sizes, device=str(where), **options)


def _missing(
    experiment: Experiment, images: ImageSet, validation: ImageSet, root: str | Path | None
) -> tuple[dict[str, Any], Path, list[Member]]:
    """The request, the folder of its results, and what is not there."""
    request = _request(experiment, images, validation)
    folder = store.result_folder(root, request).resolve()
    members: list[Member] = [None, *range(experiment.repeats)]
    return request, folder, [m for m in members if not store.member_path(folder, m).exists()]


def _workers(left: Cost, missing: list[Member], device: torch.device) -> int:
    """Processes that a run uses on this machine; 1 is this process itself."""
    if device.type != "cpu" or left.training_flop + left.scoring_flop < PROCESSES_FLOP:
        return 1
    return max(1, min(len(missing), torch.get_num_threads()))


def _parts(members: list[Member]) -> tuple[int, bool]:
    """How many of the members are repeats, and whether the model of all images is among them."""
    return len(members) - (None in members), None in members


def _groups(
    experiment: Experiment, images: ImageSet, members: list[Member], device: torch.device
) -> list[list[Member]]:
    """Members to be computed together: one at a time on a CPU, on a GPU as many repeats as fit."""
    size = 1
    if device.type == "cuda":
        limit = torch.cuda.mem_get_info(device)[0] / 2
        memory = [
            cost(experiment, len(images), images.channels, 0, at_once=count).gpu_memory for count in (1, 2)
        ]
        size = 1 + max(0, int((limit - memory[0]) // (memory[1] - memory[0])))
    repeats = [member for member in members if member is not None]
    alone: list[list[Member]] = [[None]] if None in members else []
    return alone + [list(repeats[i : i + size]) for i in range(0, len(repeats), size)]


def _work_through(
    groups: list[list[Member]], folder: Path, compute: Callable[[list[list[Member]]], list[bool]]
) -> None:
    """Call `compute` with the groups that are not there yet until all are; it tells which are there then."""
    awaited = None
    while groups:
        done = compute(groups)
        left = [group for group, there in zip(groups, done, strict=True) if not there]
        if left == groups:  # other processes compute them all
            paths = [store.member_path(folder, member) for group in left for member in group]
            path = next((path for path in paths if not path.exists()), awaited)
            if path != awaited:
                LOG.warning("waiting for %s, which another process computes", path)
            awaited = path
            time.sleep(0.5)
        groups = left


def _collect(futures: list[Future[bool]]) -> list[bool]:
    """The results; when one fails, those that wait are cancelled and those that run finish."""
    try:
        for future in as_completed(futures):
            future.result()
    except Exception:
        wait([future for future in futures if not future.cancel()])
        raise
    return [future.result() for future in futures]


def _finish(
    experiment: Experiment,
    request: dict[str, Any],
    folder: Path,
    device: str | None,
    members: list[Member],
) -> bool:
    """A task of an executor: compute members, or wait until another process has."""
    while not _compute(experiment, request, folder, device, members):
        time.sleep(0.5)
    return True


def _compute_in_process(*task: Any) -> bool:
    """`_compute` in a process that reports its work."""
    done = _compute(*task, tick=parallel.report)
    parallel.report(0, last=True)
    return done


def _compute(
    experiment: Experiment,
    request: dict[str, Any],
    folder: Path,
    device: str | None,
    members: list[Member],
    tick: Tick | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
) -> bool:
    """Compute those members that are neither there nor claimed by another process.

    `tick` is called with the FLOP done. Returns whether all members are there.
    """
    where = choose_device(device)
    check_precision(experiment.precision, where)
    paths = {member: store.member_path(folder, member) for member in members}
    with contextlib.ExitStack() as held:
        free = [m for m, path in paths.items() if not path.exists() and held.enter_context(store.claim(path))]
        mine = [m for m in free if not paths[m].exists()]
        if mine:
            images, validation = sets or (experiment.load_images(), experiment.load_validation())
            if _request(experiment, images, validation) != request:
                raise ValueError(f"{experiment.images} has other images here than where the run was started")
            held.enter_context(one_thread() if where.type == "cpu" else contextlib.nullcontext())
            started = time.perf_counter()
            task = Task(experiment, images, where, tick or (lambda flop: None))
            full = mine == [None]
            computed = [task.train_on_all(validation)] if full else task.train_repeats(mine)
            compiled = not full and task.compiled  # the model of all images is not scored
            facts = _run_facts(where, time.perf_counter() - started, compiled, len(mine))
            for member, arrays in zip(mine, computed, strict=True):
                store.write(paths[member], arrays, {"request": request, "run": facts})
    return all(path.exists() for path in paths.values())


def _run_facts(device: torch.device, seconds: float, compiled: bool, stacked: int) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "CPU, 1 thread",
        "seconds": round(seconds, 2),
        "stacked": stacked,
        "kernels": "compiled" if compiled else "eager",
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "memlib": importlib.metadata.version("memlib"),
        "torch": torch.__version__,
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
