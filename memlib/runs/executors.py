"""Processes side by side on the cores of one machine, each with a single PyTorch thread.

A task on one core wastes nothing on waiting for the other cores, and its numbers do not depend on how many
there are. Threads would hinder each other at Python's lock.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from loky import ProcessPoolExecutor
from loky.backend import get_context

REPORT_SECONDS = 0.2  # between reports of a process
PARENT_SECONDS = 0.5  # between looks whether the process that started this one still lives
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
_unsent, _sent = 0.0, 0.0


def _connect(queue: Any, parent: int) -> None:
    global _queue
    _queue = queue
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process, whatever it does, soon after the one that started it: killed, that one cannot."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def report(count: float, last: bool = False) -> None:
    """Tell the process that started this one how much work has been done since the last call.

    Args:
        count: work done, in any unit.
        last: of a task; what has been held back to be sent later is sent now.
    """
    global _unsent, _sent
    _unsent += count
    if _queue and (last or time.monotonic() - _sent > REPORT_SECONDS):
        _queue.put(_unsent)
        _unsent, _sent = 0.0, time.monotonic()


@contextlib.contextmanager
def processes(
    workers: int, progress: Callable[[float], object] = lambda count: None
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes that do not import the main module; killed when the block fails or is interrupted.

    Args:
        workers: processes, >= 1.
        progress: is called in a thread of this process with what the tasks `report`.
    """
    queue = get_context("loky").SimpleQueue()

    def listen() -> None:
        while (count := queue.get()) is not None:
            progress(count)

    pool = ProcessPoolExecutor(workers, env=ENVIRONMENT, initializer=_connect, initargs=(queue, os.getpid()))
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
