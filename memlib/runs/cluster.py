"""Runs on more than one machine: the workers of a Dask scheduler as an executor."""

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor

CONNECT_SECONDS = 10


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or on which a task ends every worker that tries it."""


@contextlib.contextmanager
def connect(scheduler: str) -> Iterator[Executor]:
    """The executor of a Dask client, for `memlib.run`; closed after the block, the cluster goes on.

    Args:
        scheduler: its address, such as tcp://10.0.0.1:8786.

    Raises:
        ValueError: what is no address.
        ClusterError: Dask is not installed, no scheduler answers there, it was lost, or so many workers ended
            while they computed a task that Dask gave it up.
    """
    if not re.fullmatch(r"[a-z]+://.+:\d+", scheduler):
        raise ValueError(f"scheduler is {scheduler!r}; allowed: an address such as tcp://10.0.0.1:8786")
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise ClusterError("a scheduler needs Dask: pip install 'memlib[cluster]'") from error
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no scheduler answers at {scheduler}") from error
    with client:
        try:
            # results of a task that failed or whose files were deleted must not be used again
            yield client.get_executor(pure=False)
        except KilledWorker as error:
            raise ClusterError(
                f"{error.allowed_failures + 1} workers ended while they computed the same task, as happens "
                "where memory or time is too short; what is finished is kept, and their logs say more"
            ) from error
        except CancelledError as error:
            raise ClusterError(
                f"the scheduler at {scheduler} was lost; what is finished is kept, and the same run goes on"
            ) from error
