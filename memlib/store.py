"""Results on disk: one atomic file per finished repeat, assembled into an `xarray.Dataset`.

A file is an uncompressed .npz that carries its own record (JSON): the request that it answers, field by
field, how it was computed, and the names of its arrays. Results live in the folder given, else in
$MEMLIB_RESULTS, else in `results/` of the checkout that memlib runs from, else in the user's cache folder.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from filelock import FileLock, Timeout
from numpy.typing import NDArray

RESULT_VERSION = 2  # to be raised whenever the same request gives other numbers
RECORD = "record"

Record = dict[str, Any]


class StoreError(ValueError):
    """A stored file that cannot be used for the request: damaged, or the answer to another one."""


def results_root(root: str | Path | None = None) -> Path:
    """The folder that holds all results; see the module's first lines."""
    if root is not None:
        return Path(root).expanduser()
    if variable := os.environ.get("MEMLIB_RESULTS"):
        return Path(variable).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "_toc.yml").is_file():
        return checkout / "results"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memlib" / "results"


def result_folder(root: str | Path | None, request: Mapping[str, Any]) -> Path:
    """Where the answer to a request lives: named by the data set and the hash of all fields."""
    digest = hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()
    return results_root(root) / f"{str(request['images']).partition(':')[0]}-{digest[:12]}"


def member_path(folder: Path, repeat: int | None) -> Path:
    """The file of a repeat, or with None that of the model trained on all images."""
    return folder / ("full.npz" if repeat is None else f"repeat-{repeat:03d}.npz")


def write(path: Path, arrays: Mapping[str, NDArray], record: Record) -> None:
    """Write arrays and their record so that the file is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    record = np.array(json.dumps(record | {"arrays": sorted(arrays)}))
    try:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **{RECORD: record}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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
        raise StoreError(
            f"{path} is damaged ({error}); delete it, and the next run computes it again"
        ) from error


def _array(file: zipfile.ZipFile, name: str) -> NDArray:
    # The member as a whole, which verifies its checksum; numpy reads as far as the shape in its header says.
    content = io.BytesIO(file.read(f"{name}.npy"))
    return np.lib.format.read_array(content, allow_pickle=False)


def read_record(path: Path) -> Record:
    """The record of a stored file.

    Raises:
        StoreError: the file is damaged.
    """
    with _open(path) as file:
        return json.loads(str(_array(file, RECORD)[()]))


def check(path: Path, request: Mapping[str, Any]) -> Record:
    """The record of a stored file, if it answers the request.

    Raises:
        StoreError: the file is damaged, or a field of its record differs from the request (both values are
            named).
    """
    record = read_record(path)
    stored = record["request"]
    for field in sorted(stored.keys() | request.keys()):
        if stored.get(field) != request.get(field):
            raise StoreError(
                f"{path} was computed for other settings: {field} is {stored.get(field)!r} there and "
                f"{request.get(field)!r} in the request; it is left as it is. Use another results folder"
            )
    return record


def read(path: Path, request: Mapping[str, Any]) -> tuple[dict[str, NDArray], Record]:
    """All arrays of a stored file and its record; raises like `check`. Verifies names and checksums."""
    record = check(path, request)
    with _open(path) as file:
        names = sorted({name.removesuffix(".npy") for name in file.namelist()} - {RECORD})
        if names != record.get("arrays", names):
            raise ValueError(f"its arrays are {', '.join(names)} instead of {', '.join(record['arrays'])}")
        return {name: _array(file, name) for name in names}, record


@contextlib.contextmanager
def claim(path: Path) -> Iterator[bool]:
    """Claim the work behind `path` among processes; yields whether it was free.

    The operating system frees the lock when its holder ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def assemble(folder: Path, repeats: int, request: Mapping[str, Any]) -> xr.Dataset:
    """All repeats and the model of all images as one data set.

    Variables: `log_px`, `ess` (epoch, repeat, fold, observation); `fold_of` (repeat, observation);
    `fold_loss` (repeat, train_epoch, fold); `train_loss`, `test_loss` (train_epoch) and `samples` (sample,
    channel, row, column) of the model trained on all images. Losses and log-probabilities are in nats per
    image.

    Raises:
        StoreError: as `check`.
    """
    full, record = read(member_path(folder, None), request)
    parts = [read(member_path(folder, repeat), request) for repeat in range(repeats)]

    def stacked(name: str) -> NDArray:
        return np.stack([arrays[name] for arrays, _ in parts])

    dims = ("epoch", "repeat", "fold", "observation")
    result = xr.Dataset(
        {
            **{name: (dims, np.stack([a[name] for a, _ in parts], axis=1)) for name in ("log_px", "ess")},
            "fold_of": (("repeat", "observation"), stacked("fold_of")),
            "fold_loss": (("repeat", "train_epoch", "fold"), stacked("fold_loss")),
            "train_loss": ("train_epoch", full["train_loss"]),
            "test_loss": ("train_epoch", full["test_loss"]),
            "samples": (("sample", "channel", "row", "column"), full["samples"]),
        },
        coords={
            "epoch": parts[0][0]["epoch"],
            "repeat": np.arange(repeats),
            "fold": np.arange(parts[0][0]["log_px"].shape[1]),
            "train_epoch": np.arange(1, len(full["train_loss"]) + 1),
            "index": ("observation", full["index"]),
            "label": ("observation", full["label"]),
        },
        attrs={
            "folder": str(folder),
            "request": json.dumps(dict(request)),
            "runs": json.dumps([record["run"], *(r["run"] for _, r in parts)]),
        },
    )
    for name in ("log_px", "fold_loss", "train_loss", "test_loss"):
        result[name].attrs["units"] = "nats"
    return result


def list_results(root: str | Path | None = None) -> list[Record]:
    """What is stored, by experiment: folder, request, repeats, full, bytes, modified (Unix time), damaged.

    `damaged` says which files' records cannot be read, empty if none; `request` is None where none can be.
    """
    found = []
    for folder in sorted(p for p in results_root(root).glob("*") if p.is_dir()):
        requests, damaged = {}, []
        for file in sorted(folder.glob("*.npz")):
            try:
                requests[file] = read_record(file)["request"]
            except StoreError as error:
                damaged.append((file, str(error)))
        files = [*requests, *(file for file, _ in damaged)]
        if files:
            found.append(
                {
                    "folder": str(folder),
                    "request": next(iter(requests.values()), None),
                    "repeats": sum(f.name.startswith("repeat-") for f in requests),
                    "full": (folder / "full.npz") in requests,
                    "bytes": sum(f.stat().st_size for f in files),
                    "modified": max(f.stat().st_mtime for f in files),
                    "damaged": "; ".join(message for _, message in damaged),
                }
            )
    return found
