"""What a file system does not take: no room, no quota, no file so large, no writing at all."""

import contextlib
import errno
import os
import socket
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


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to, beside that of a file, which gets there whole or not at all; raises as `writing`.

    The name is this process's own, on whatever machine that shares the folder.
    """
    part = path.with_name(f"{path.name}.{socket.gethostname()}-{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield part
            with part.open("r+b") as file:
                os.fsync(file.fileno())
            part.replace(path)
            _sync_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a new name survive a crash of the machine, where folders can be synced: not everywhere."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
