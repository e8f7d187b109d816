"""What a file system does not take: no room, no quota, no file so large, no writing at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

_UNTIL = {
    errno.ENOSPC: "there is room",
    errno.EDQUOT: "the quota has room",
    errno.EFBIG: "files may be as large (ulimit -f)",
    errno.EROFS: "it can be written",
}


class WriteError(OSError):
    """A file that could not be written; what is finished is kept, and the same call goes on from there."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Name a file, with its folder, which the block cannot write.

    Raises:
        WriteError: the disk or the quota is full, the file too large, or its file system can only be read.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _UNTIL:
            raise
        told = WriteError(
            f"{path} cannot be written ({os.strerror(error.errno)}); nothing half-written counts, and the "
            f"same command or call goes on once {_UNTIL[error.errno]}"
        )
        told.errno = error.errno
        raise told from error
