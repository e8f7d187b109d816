"""Where tasks are computed: processes of this machine, each on one core, or the workers of a Dask scheduler.

A task on one core wastes nothing on waiting for the other cores, and its numbers do not depend on how many
there are. Threads would hinder each other at Python's lock.
"""

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError, Executor
from typing import Any, TextIO

from tqdm import tqdm

CONNECT_SECONDS = 10
PARENT_SECONDS = 0.5  # between looks whether the process that started this one still lives
REPORT_SECONDS = 0.2  # between reports of a process
# Read when a process starts. The C library of Linux otherwise hands large arrays back to the system as soon
# as they are free, and getting their memory again takes a quarter of a training step.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31),
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # more are processes of their own, one set for each process here
}

_queue: Any = None  # to the process that started this one
_unsent, _sent = 0, 0.0


def _connect(queue: Any, parent: int) -> None:
    global _queue
    _queue = queue
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process, whatever it does, soon after the one that started it: killed, that one cannot."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def report(images: int, last: bool = False) -> None:
    """Tell the process that started this one how many images have been done since the last call.

    Args:
        images: trained on, or scored.
        last: of a task; what has been held back to be sent later is sent now.
    """
    global _unsent, _sent
    _unsent += images
    if _queue and (last or time.monotonic() - _sent > REPORT_SECONDS):
        _queue.put(_unsent)
        _unsent, _sent = 0, time.monotonic()


@contextlib.contextmanager
def processes(workers: int, progress: Callable[[int], object] = lambda images: None) -> Iterator[Executor]:
    """A pool of processes that do not import the main module; killed when the block fails or is interrupted.

    Args:
        workers: processes, >= 1.
        progress: is called in a thread of this process with what the tasks `report`.

    Raises:
        ExecutorError: the machine gives no processes.
    """
    from loky import ProcessPoolExecutor  # which takes time that who lists results need not wait for
    from loky.backend import get_context

    with submitting(None):  # which needs semaphores
        queue = get_context("loky").SimpleQueue()
        pool = ProcessPoolExecutor(
            workers, env=ENVIRONMENT, initializer=_connect, initargs=(queue, os.getpid())
        )

    def listen() -> None:
        while (images := queue.get()) is not None:
            progress(images)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield pool
    except BaseException:
        # the listener is left to itself: a process killed while it writes holds the queue's lock for good
        pool.shutdown(wait=True, kill_workers=True)
        raise
    pool.shutdown()
    queue.put(None)
    listener.join()


class _Lines:
    """A stream that turns tqdm's carriage returns into lines of their own, for log files."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> None:
        if line := text.strip("\r\n "):
            self._stream.write(line + "\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(total: int, title: str, unit: str, enabled: bool = True) -> tqdm:
    """A tqdm bar on standard error: live in a terminal or a notebook, at most a line every 30 s in a log
    file.

    Args:
        total: the work, counted in `unit`.
        title: what is done.
        unit: plural, such as "images".
        enabled: False shows nothing.
    """
    live = sys.stderr.isatty() or "ipykernel" in sys.modules
    return tqdm(
        total=total,
        desc=title,
        unit=f" {unit}",
        unit_scale=True,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of {total_fmt}{unit}, {elapsed}<{remaining}",
        disable=not enabled,
        file=sys.stderr if live else _Lines(sys.stderr),
        **({"dynamic_ncols": True} if live else {"mininterval": 30, "ncols": 110}),
    )


class ExecutorError(RuntimeError):
    """An executor that cannot be reached or takes no tasks, or a task that was lost with its worker."""


@contextlib.contextmanager
def telling(executor: Executor | None) -> Iterator[None]:
    """Say in a sentence that whatever computes tasks ended, was shut down, or had too little memory.

    Args:
        executor: of the user; None for this process and those that it has started.

    Raises:
        ExecutorError: saying so; errors of other kinds are left as they are.
    """
    try:
        yield
    except Exception as error:
        if told := _lost(error, executor):
            raise ExecutorError(told) from error
        raise


@contextlib.contextmanager
def submitting(executor: Executor | None) -> Iterator[None]:
    """Say so where an executor takes no tasks, within `telling`, whose arguments and errors these are."""
    try:
        yield
    except Exception as error:
        refused = isinstance(error, RuntimeError | OSError) or _library(error) == "distributed"
        if not refused or isinstance(error, BrokenExecutor):
            raise  # a worker ended meanwhile, which `telling` says
        whose = (
            f"the executor, a {type(executor).__name__}," if executor else "a process pool of this machine"
        )
        raise ExecutorError(f"{whose} takes no tasks ({_line(error)}); {_kept(executor)}") from error


def _lost(error: Exception, executor: Executor | None) -> str:
    """What a task's error says of who computed it; empty where it is the task's own."""
    kind, short = type(error).__name__, "as happens where memory or time is too short"
    whose = f"of the executor, a {type(executor).__name__}," if executor else "process of this run"
    if kind == "KilledWorker":
        ended = f"{error.allowed_failures + 1} workers {whose} ended while they computed the same task"
        return f"{ended}, {short}; {_kept(executor)}; their logs say more"
    if isinstance(error, BrokenExecutor):
        told = re.search(r"exit codes of the workers are \{(.+?)\}", str(error))
        status = f" with {told[1]}" if told else ""
        fewer = "" if executor else "; a smaller OMP_NUM_THREADS starts fewer processes"
        return f"a worker {whose} ended{status} before its task did, {short}; {_kept(executor)}{fewer}"
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error):
        return f"memory is too short for a task ({_line(error)}); {_kept(executor)}"
    if isinstance(error, CancelledError) or _library(error) in ("loky", "distributed"):
        return f"a task {whose} was lost ({_line(error)}), as where that is shut down; {_kept(executor)}"
    return ""


def _kept(executor: Executor | None) -> str:
    """The way out."""
    other = ", with an executor that works" if executor else ""
    return f"what is finished is kept, and the same command or call goes on from there{other}"


def _library(error: Exception) -> str:
    return type(error).__module__.partition(".")[0]


def _line(error: Exception) -> str:
    """The first line of its message, or what type it is."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def connect(scheduler: str) -> Iterator[Executor]:
    """The executor of a Dask client, for `memlib.run`; closed after the block, the cluster goes on.

    Args:
        scheduler: its address, such as tcp://10.0.0.1:8786.

    Raises:
        ValueError: what is no address.
        ExecutorError: Dask is not installed, or no scheduler answers there.
    """
    if not re.fullmatch(r"[a-z]+://.+:\d+", scheduler):
        raise ValueError(f"scheduler is {scheduler!r}; allowed: an address such as tcp://10.0.0.1:8786")
    try:
        from distributed import Client
    except ImportError as error:
        raise ExecutorError("a scheduler needs Dask: pip install 'memlib[cluster]'") from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ExecutorError(f"no scheduler answers at {scheduler}") from error
    with client:
        # results of a task that failed or whose files were deleted must not be used again
        yield client.get_executor(pure=False)
