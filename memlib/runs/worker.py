"""What every process does for a run: claim what is missing, compute it, or wait until another process has."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

import memlib.runs.store as store
from memlib.data import ImageSet
from memlib.device import check_precision, choose_device, one_thread, own_settings
from memlib.ensemble import Tick
from memlib.experiment import Experiment
from memlib.runs import executors
from memlib.runs.job import Job, requested
from memlib.runs.store import Member, StoreError
from memlib.runs.task import Task
from memlib.training import Snapshot

LOG = logging.getLogger("memlib")
WAIT_SECONDS = 0.5  # before asking again whether another process has finished

T = TypeVar("T")


@contextlib.contextmanager
def claimed(paths: Mapping[T, Path], is_done: Callable[[T], bool]) -> Iterator[list[T]]:
    """Claim pieces of work by their files; yields those that are neither done nor claimed by other processes.

    Args:
        paths: piece -> its file, beside which its lock lies.
        is_done: whether a piece is.
    """
    with contextlib.ExitStack() as held:
        free = [piece for piece, path in paths.items() if not is_done(piece)]
        free = [piece for piece in free if held.enter_context(store.claim(paths[piece]))]
        yield [piece for piece in free if not is_done(piece)]  # what another has finished meanwhile is done


@dataclass(frozen=True)
class Report:
    """What became of pieces of work that were attempted.

    Attributes:
        diverged: of members whose training diverged, when and why.
        elsewhere: pieces that other processes compute.
    """

    diverged: dict[Member, str]
    elsewhere: list[Any]


def work_through(
    groups: list[list[T]],
    attempt: Callable[[list[list[T]]], list[Report]],
    path_of: Callable[[T], Path],
    is_done: Callable[[T], bool],
) -> dict[Member, str]:
    """Attempt groups of pieces of work until no other process computes any of them.

    Args:
        groups: pieces that are attempted together.
        attempt: computes of groups what it can claim; a report for each group.
        path_of, is_done: the file of a piece, and whether it is done, for a message.

    Returns:
        Of members that diverged, when and why.
    """
    awaited, diverged = None, {}
    while groups:
        reports = attempt(groups)
        for report in reports:
            diverged |= report.diverged
        left = [report.elsewhere for report in reports if report.elsewhere]
        if left == groups:  # other processes compute them all
            pieces = (piece for group in left for piece in group)
            path = next((path_of(piece) for piece in pieces if not is_done(piece)), awaited)
            if path != awaited:
                LOG.warning(
                    "waiting for %s, which another process computes; it holds %s", path, store.lock_path(path)
                )
            awaited = path
            time.sleep(WAIT_SECONDS)
        groups = left
    return diverged


def check_precisions(experiment: Experiment, device: torch.device) -> None:
    """ValueError for a precision of training or scoring that the device does not have."""
    for name in ("precision", "scoring_precision"):
        check_precision(getattr(experiment, name), device, name)


@own_settings()
def compute(job: Job, members: Sequence[Member], tick: Tick | None = None) -> Report:
    """Train and score those members that are neither done nor claimed by another process.

    Args:
        members: repeats to be stacked into one group; or None alone, the model of all images.
        tick: as in `Task`.

    Raises:
        ValueError: a device or precision that is not here, or other images than where the run was started.
        StoreError: a checkpoint that this run cannot use.
    """
    where, diverged = choose_device(job.device), {}
    check_precisions(job.experiment, where)
    on_one_core = one_thread() if where.type == "cpu" else contextlib.nullcontext()
    with claimed({member: job.path(member) for member in members}, job.is_done) as mine, on_one_core:
        if mine:
            job = job if job.sets else dataclasses.replace(job, sets=_images(job))
            task = Task(job, where, tick or (lambda images: None))
            begun = {m: task.checkpoints.newest(m) for m in mine if not job.is_trained(m)}
            for group in _alike(begun):
                saved = [begun[member] for member in group if begun[member]]
                full = group == [None]
                diverged |= task.train_on_all(saved) if full else task.train_repeats(group, saved)
            for member in mine:
                if member not in diverged and job.to_score(member):
                    diverged |= task.score(member)
    return Report(diverged, [m for m in members if not job.is_done(m) and m not in diverged])


def _alike(begun: Mapping[Member, Snapshot | None]) -> list[list[Member]]:
    """Members that can go on side by side: after the same epoch."""
    groups: dict[int, list[Member]] = {}
    for member, saved in begun.items():
        groups.setdefault(saved.epoch if saved else 0, []).append(member)
    return list(groups.values())


def _images(job: Job) -> tuple[ImageSet, ImageSet]:
    """The images of the run, if they are the same here as where it was started."""
    images, held_out = job.experiment.load_images(), job.experiment.load_validation()
    here, _ = requested(job.experiment, images, held_out)
    if other := [name for name, value in here.items() if job.training.get(name) != value]:
        name = other[0]
        raise ValueError(
            f"{job.experiment.images} differs between machines: {name} is {here[name]} on "
            f"this one and {job.training.get(name)} where the run was started"
        )
    return images, held_out


def compute_in_process(job: Job, members: Sequence[Member]) -> Report:
    """`compute` in a process that reports its work."""
    done = compute(job, members, executors.report)
    executors.report(0, last=True)
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

    def attempt(left: list[list[Member]]) -> list[Report]:
        return [compute(job, group) for group in left]

    return Report(work_through([[member]], attempt, job.path, job.is_done), [])
