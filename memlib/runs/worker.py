"""What a process does for a run: claim members of it, compute them, write them down."""

import contextlib
import datetime
import importlib.metadata
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.device import check_precision, choose_device, one_thread
from memlib.ensemble import Tick
from memlib.experiment import Experiment
from memlib.runs import executors as parallel
from memlib.runs.checkpoints import Checkpoints, Saved
from memlib.runs.store import Member, StoreError
from memlib.runs.task import Outcome, Task

LOG = logging.getLogger("memlib")
WAIT_SECONDS = 0.5  # before asking again whether another process has finished


@dataclass(frozen=True)
class Job:
    """What every process of a run is told; small, and the same for all.

    Attributes:
        experiment: the specification.
        request: what a result must answer, field by field; see `requested`.
        folder: of the results.
        device: as in `memlib.run`.
    """

    experiment: Experiment
    request: dict[str, Any]
    folder: Path
    device: str | None


@dataclass(frozen=True)
class Report:
    """What became of a group of members.

    Attributes:
        paths: the files of those that are there.
        diverged: of those whose training diverged, when and why.
        elsewhere: those that other processes compute.
    """

    paths: list[str]
    diverged: dict[Member, str]
    elsewhere: list[Member]


def requested(experiment: Experiment, images: ImageSet, validation: ImageSet) -> dict[str, Any]:
    """What determines a repeat's result: all fields but the number of repeats, the images, the version.

    Images in a folder count as the same wherever they lie.
    """
    fields = {name: value for name, value in asdict(experiment).items() if name != "repeats"}
    fields["images"] = experiment.images.partition(":")[0]
    shas = {"train_sha256": images.sha256, "validation_sha256": validation.sha256}
    return {**fields, **shas, "version": store.RESULT_VERSION}


def compute(
    job: Job,
    members: Sequence[Member],
    tick: Tick | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
) -> Report:
    """Compute those members that are neither there nor claimed by another process.

    Args:
        members: repeats to be stacked into one group; or None alone, the model of all images.
        tick: called with the FLOP done.
        sets: training and validation images, where they are loaded already.

    Raises:
        ValueError: a device or precision that is not here, or other images than where the run was started.
        StoreError: a checkpoint that this run cannot use.
    """
    where, diverged = choose_device(job.device), {}
    check_precision(job.experiment.precision, where)
    paths = {member: store.member_path(job.folder, member) for member in members}
    with contextlib.ExitStack() as held:
        free = [m for m, p in paths.items() if not p.exists() and held.enter_context(store.claim(p))]
        mine = [m for m in free if not paths[m].exists()]
        if mine:
            images, validation = sets or _images(job)
            checkpoints = Checkpoints(job.folder, job.request, where.type)
            task = Task(job.experiment, images, where, tick or (lambda flop: None), checkpoints)
            held.enter_context(one_thread() if where.type == "cpu" else contextlib.nullcontext())
            begun = {member: checkpoints.newest(member) for member in mine}
            for group in _alike(begun):
                saved = [begun[member] for member in group if begun[member]]
                full = group == [None]
                outcomes = (
                    [task.train_on_all(validation, saved)] if full else task.train_repeats(group, saved)
                )
                compiled = not full and task.compiled  # the model of all images is not scored
                for member, outcome in zip(group, outcomes, strict=True):
                    if outcome.diverged:
                        diverged[member] = outcome.diverged
                        continue
                    facts = _run_facts(where, outcome, compiled, len(group))
                    record = {"request": job.request, "run": {"images": job.experiment.images, **facts}}
                    store.write(paths[member], outcome.arrays, record)
                    store.remove_checkpoints(job.folder, member)
    there = [member for member, path in paths.items() if path.exists()]
    elsewhere = [member for member in members if member not in there and member not in diverged]
    return Report([str(paths[member]) for member in there], diverged, elsewhere)


def _alike(begun: Mapping[Member, Saved | None]) -> list[list[Member]]:
    """Members that can go on side by side: after the same epoch."""
    groups: dict[int, list[Member]] = {}
    for member, saved in begun.items():
        groups.setdefault(saved.epoch if saved else 0, []).append(member)
    return list(groups.values())


def _images(job: Job) -> tuple[ImageSet, ImageSet]:
    """The images of the run, if they are the same here as where it was started."""
    images, validation = job.experiment.load_images(), job.experiment.load_validation()
    here = requested(job.experiment, images, validation)
    if other := [name for name, value in here.items() if job.request.get(name) != value]:
        name = other[0]
        raise ValueError(
            f"{job.experiment.images} differs between machines: {name} is {here[name]} on "
            f"this one and {job.request.get(name)} where the run was started"
        )
    return images, validation


def compute_in_process(job: Job, members: Sequence[Member]) -> Report:
    """`compute` in a process that reports its work."""
    done = compute(job, members, parallel.report)
    parallel.report(0, last=True)
    return done


def finish(job: Job, member: Member) -> Report:
    """A task of an executor: compute a member, or wait until another process has.

    Raises:
        StoreError: the folder of the results is not here.
    """
    if not job.folder.is_dir():
        raise StoreError(
            f"the results folder {job.folder}, which the run was started with, is not on this machine; "
            "allowed: a folder that all machines share"
        )
    path, told = store.member_path(job.folder, member), False
    while (report := compute(job, [member])).elsewhere:
        if not told:
            say_waiting(path)
        told = True
        time.sleep(WAIT_SECONDS)
    return report


def say_waiting(path: Path) -> None:
    """Log that another process computes a result, and by which file it can be found."""
    LOG.warning("waiting for %s, which another process computes; it holds %s", path, store.lock_path(path))


def _run_facts(device: torch.device, outcome: Outcome, compiled: bool, stacked: int) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "CPU, 1 thread",
        "seconds": round(outcome.seconds, 2),
        "resumed": outcome.resumed,
        "stacked": stacked,
        "kernels": "compiled" if compiled else "eager",
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "memlib": importlib.metadata.version("memlib"),
        "torch": outcome.torch_version,
    }
