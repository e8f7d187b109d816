"""Results on disk: one atomic file per piece of work, assembled into an `xarray.Dataset`.

A file is an uncompressed .npz that carries its own record (JSON): its name, the request that it answers,
field by field, how it was computed, and the SHA-256 of every array. A run has a folder, named after what
determines its training:

    request.json                             what was asked for
    full.npz, repeat-000.npz                 what training has left of the model of all images, of a repeat
    models/repeat-000-epoch-000060.npz       models of a repeat, by default those of the last epoch alone
    checkpoints/repeat-000-epoch-000040.npz  of a repeat whose training is not finished
    scores-0123456789ab/request.json         what determines the scores, one folder for every such choice
    scores-0123456789ab/repeat-000-epoch-000060.npz

Results live in the folder given, else in $MEMLIB_RESULTS, else in `results/` of the checkout that memlib runs
from, else in the user's cache folder.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xarray as xr
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from memlib.runs.disk import whole, writing

# To be raised whenever the same request gives other models, or other scores of the same models.
TRAINING_VERSION = 4
SCORING_VERSION = 4
RECORD = "record"
REQUEST = "request.json"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)  # what is said of results that may only be read
LOCK_SECONDS = 0.04  # patience for a claim; who lists results holds each lock for a moment

# Fields of an experiment that change the scores of models, and not the models. `score_every` is none of them:
# which epochs leave models to be scored is part of a training.
SCORING = ("num_samples", "proposal", "versions", "noise", "scoring_precision")

Record = dict[str, Any]
Member = int | None  # a repeat, or None for the model of all images


class StoreError(ValueError):
    """A stored file or folder that cannot be used for the request."""


class DamagedError(StoreError):
    """A stored file that is truncated or altered."""


def results_root(root: str | Path | None = None) -> Path:
    """The folder that holds all results; see the module's first lines.

    Raises:
        StoreError: it is a file, or inside of one.
    """
    checkout = Path(__file__).resolve().parents[2]
    if root is not None:
        chosen, origin = Path(root), "the results folder"
    elif variable := os.environ.get("MEMLIB_RESULTS"):
        chosen, origin = Path(variable), "MEMLIB_RESULTS"
    elif (checkout / "_toc.yml").is_file():
        return checkout / "results"
    else:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memlib" / "results"
    chosen = chosen.expanduser()
    if file := next((place for place in (chosen, *chosen.parents) if place.is_file()), None):
        which = "which is a file" if file == chosen else f"but {str(file)!r} is a file"
        raise StoreError(f"{origin} is {str(chosen)!r}, {which}; allowed: a folder, or a new name")
    return chosen


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()[:12]


def training_folder(root: str | Path | None, request: Mapping[str, Any]) -> Path:
    """Where a training lives: named by the data set and the hash of all that determines it."""
    name = re.sub(r"[^\w.-]", "_", request["images"])  # of images at hand, which may be any text
    return results_root(root) / f"{name}-{_digest(request)}"


def training_part(request: Mapping[str, Any]) -> Record:
    """The fields of a request that determine a training."""
    return {name: value for name, value in request.items() if name not in (*SCORING, "scoring_version")}


def scores_folder(folder: Path, request: Mapping[str, Any]) -> Path:
    """Where the scores of a training's models live that answer a request."""
    return folder / f"scores-{_digest(request)}"


def member_path(folder: Path, member: Member) -> Path:
    """The file of a finished repeat, or with None that of the model trained on all images."""
    return folder / ("full.npz" if member is None else f"repeat-{member:03d}.npz")


def epoch_path(folder: Path, member: Member, epoch: int) -> Path:
    """The file of a member at an epoch in a folder of models, of checkpoints or of scores."""
    return folder / f"{member_path(folder, member).stem}-epoch-{epoch:06d}.npz"


def epochs_of(folder: Path, member: Member) -> list[int]:
    """The epochs of which such a folder has a file of a member, newest first."""
    stem = member_path(folder, member).stem
    found = (re.fullmatch(rf"{stem}-epoch-(\d+)\.npz", path.name) for path in folder.glob(f"{stem}-epoch-*"))
    return sorted((int(match[1]) for match in found if match), reverse=True)


def remove(folder: Path, member: Member, after: int = 0) -> None:
    """Give up such files of a member of later epochs, with what a killed process left of one."""
    stem = member_path(folder, member).stem
    for path in folder.glob(f"{stem}-epoch-*"):
        match = re.match(rf"{stem}-epoch-(\d+)\.npz", path.name)
        if match and int(match[1]) > after:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                if error.errno not in READ_ONLY:
                    raise


def write(path: Path, arrays: Mapping[str, NDArray], record: Record) -> None:
    """Write arrays and their record so that the file is there whole or not at all.

    What a process that was killed left of a file goes when a file of that name is written again.

    Raises:
        WriteError: as `disk.writing`.
    """
    with whole(path) as part:
        for left in path.parent.glob(f"{path.name}.*.part"):
            left.unlink(missing_ok=True)
        with part.open("wb") as file:
            _write_archive(file, arrays, record | {"file": path.name})


def _write_archive(file: BinaryIO, arrays: Mapping[str, NDArray], record: Record) -> None:
    hashes = {}
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            content = _serialized(array)
            hashes[name] = hashlib.sha256(content).hexdigest()
            archive.writestr(f"{name}.npy", content)
        archive.writestr(f"{RECORD}.npy", _serialized(np.array(json.dumps(record | {"arrays": hashes}))))


def _serialized(array: NDArray) -> memoryview:
    content = io.BytesIO()
    np.lib.format.write_array(content, np.asanyarray(array), allow_pickle=False)
    return content.getbuffer()


_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
# What zipfile and numpy raise on altered content: flipped bits make members encrypted, compressed, misplaced.
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except _DAMAGE as error:
        # Seeking to a place that a damaged file names fails with EINVAL, decompressing without a number.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DamagedError(f"{path} is damaged ({error}); {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    """How a damaged file is made again: what is of models that are not kept takes their training."""
    stem, of_epoch, _ = path.name.partition("-epoch-")
    folder = path.parent.parent
    models = folder / "models" / path.name
    if of_epoch and path.parent.name != "checkpoints" and (path == models or not models.exists()):
        return f"delete it and {folder / stem}.npz, and the next run trains and scores that repeat again"
    return "delete it, and the next run computes it again"


def _array(file: zipfile.ZipFile, name: str, sha256: str | None = None) -> NDArray:
    # The member as a whole, which verifies its checksum; numpy reads as far as the shape in its header says.
    content = file.read(f"{name}.npy")
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ValueError(f"array {name} is not the one that was written")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def read_record(path: Path) -> Record:
    """The record of a stored file.

    Raises:
        StoreError: the file is damaged, from another version of memlib, or has got another file's name.
    """
    with _open(path) as file:
        record = json.loads(str(_array(file, RECORD)[()]))
    request = record.get("request", {})
    versions = {"training_version": TRAINING_VERSION, "scoring_version": SCORING_VERSION}
    named = "file" in record and "version" not in request
    if not named or any(request.get(name, now) != now for name, now in versions.items()):
        raise StoreError(
            f"{path} was written by another version of memlib; read it with that one, or delete its folder"
        )
    if record["file"] != path.name:
        raise StoreError(f"{path} was written as {record['file']}; give it that name again, or delete it")
    return record


def read(path: Path, request: Mapping[str, Any]) -> tuple[dict[str, NDArray], Record]:
    """All arrays of a stored file and its record. Verifies names and checksums.

    Raises:
        StoreError: as `read_record`, or a field of its record differs from the request (both values are
            named).
    """
    record = check(path, request)
    with _open(path) as file:
        names, hashes = {name.removesuffix(".npy") for name in file.namelist()} - {RECORD}, record["arrays"]
        if names != hashes.keys():
            raise ValueError(
                f"its arrays are {', '.join(sorted(names))} instead of {', '.join(sorted(hashes))}"
            )
        return {name: _array(file, name, sha256) for name, sha256 in hashes.items()}, record


def check(path: Path, request: Mapping[str, Any]) -> Record:
    """The record of a stored file, if it answers the request; raises like `read`."""
    record = read_record(path)
    stored = record["request"]
    for field in sorted(stored.keys() | request.keys()):
        if stored.get(field) != request.get(field):
            raise StoreError(
                f"{path} was computed for other settings: {field} is {stored.get(field)!r} there and "
                f"{request.get(field)!r} in the request; it is left as it is. Use another results folder"
            )
    return record


def write_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Write down what a folder's results answer; until a result is there, nothing else tells.

    What a process that was killed has left half written is written again.
    """
    path, content = folder / REQUEST, json.dumps(dict(request), indent=1).encode()
    if not path.exists() or path.read_bytes() != content:
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def lock_path(path: Path) -> Path:
    """The file that a `claim` of the work behind `path` locks."""
    return path.with_suffix(".lock")


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim the work behind `path` among processes; yields whether it was free.

    The operating system frees the lock when its holder ends, however it ends.

    Raises:
        StoreError: the file system has no locks.
        WriteError: as `disk.writing`.
    """
    lock = FileLock(lock_path(path), fallback_to_soft=False)
    try:
        with writing(lock_path(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=LOCK_SECONDS, poll_interval=LOCK_SECONDS / 4)
    except Timeout:
        yield False
        return
    except OSError as error:
        if error.errno in _NO_LOCKS:
            raise StoreError(
                f"the file system of {path.parent} has no locks ({error}); allowed: a results folder on one "
                "that has, as local ones and current versions of NFS do"
            ) from error
        raise
    try:
        yield True
    finally:
        lock.release()


def assemble(
    scores: Mapping[int, Sequence[Mapping[str, NDArray]]],
    fold_of: NDArray[np.integer],
    index: NDArray[np.integer],
    label: NDArray[np.integer],
) -> xr.Dataset:
    """The scores of all models as one data set.

    Args:
        scores: by epoch, of every repeat what `task.stored_scores` keeps.
        fold_of: (L, n).
        index, label: of the images, (n,).

    Returns:
        What `memlib.stored` describes, but for losses and samples.
    """
    dims = {
        "log_px": ("epoch", "repeat", "fold", "observation"),
        "log_px_version": ("epoch", "repeat", "fold", "version", "observation"),
        "ess": ("epoch", "repeat", "fold", "observation"),
        "failing": ("epoch", "repeat", "fold"),
        "khat": ("epoch", "repeat", "observation"),
        "num_samples": ("epoch", "repeat", "observation"),
    }
    every = [arrays for repeats in scores.values() for arrays in repeats]
    variables = {
        name: (named, np.stack([np.stack([arrays[name] for arrays in each]) for each in scores.values()]))
        for name, named in dims.items()
        if all(name in arrays for arrays in every)
    }
    variables["fold_of"] = (("repeat", "observation"), fold_of)
    coords = {
        "epoch": [*scores],
        "repeat": np.arange(len(fold_of)),
        "fold": np.arange(variables["log_px"][1].shape[2]),
        "index": ("observation", index),
        "label": ("observation", label),
    }
    result = xr.Dataset(variables, coords)
    result.log_px.attrs["units"] = "nats"
    return result
