"""What is stored: a listing with the progress of every run, and a check of every file."""

import errno
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import memlib.runs.store as store
from memlib.runs.store import Member, Record, StoreError

_MEMBER = re.compile(r"(full|repeat-(\d+))(-epoch-(\d+))?\.npz")


@dataclass(frozen=True)
class Stored:
    """A folder of results.

    Attributes:
        folder: where it is.
        request: that its files answer; None where no file's record can be read.
        images: as the experiment named them, with the path of a folder.
        finished: repeats, and None for the model of all images.
        begun: of each unfinished one the epoch of its newest checkpoint.
        running: those that a process computes now.
        bytes: of all files.
        modified: of the newest file, Unix time.
        problems: why files cannot be used.
    """

    folder: Path
    request: Record | None
    images: str
    finished: list[Member]
    begun: dict[Member, int]
    running: list[Member]
    bytes: int
    modified: float
    problems: list[str]

    @property
    def repeats(self) -> int:
        """Finished ones."""
        return sum(member is not None for member in self.finished)


def list_results(root: str | Path | None = None) -> list[Stored]:
    """What is stored, by folder; of every file the record is read, but not the arrays."""
    listed = (_listed(folder) for folder in _folders(root))
    return [stored for stored in listed if stored]


def _folders(root: str | Path | None) -> list[Path]:
    return sorted(p for p in store.results_root(root).glob("*") if p.is_dir())


def _listed(folder: Path) -> Stored | None:
    records, problems, begun, sizes, ages = {}, [], {}, [], []
    for path, member, epoch in _files(folder):
        try:
            facts = path.stat()
            records[path] = store.read_record(path)
        except FileNotFoundError:  # a checkpoint that was given up meanwhile
            continue
        except StoreError as error:
            problems.append(str(error))
        else:
            if epoch is not None:
                begun[member] = max(epoch, begun.get(member, 0))
        sizes.append(facts.st_size)
        ages.append(facts.st_mtime)
    request = next((record["request"] for record in records.values()), None) or _request(folder)
    running = [member for member in _members(folder) if _claimed(folder, member)]
    if not sizes and not (request and running):
        return None
    finished = [m for path, m, epoch in _files(folder) if epoch is None and path in records]
    named = [record["run"]["images"] for record in records.values() if "images" in record["run"]]
    return Stored(
        folder=folder,
        request=request,
        images=named[0] if named else request["images"] if request else "",
        finished=finished,
        begun={member: epoch for member, epoch in begun.items() if member not in finished},
        running=running,
        bytes=sum(sizes),
        modified=max(ages, default=folder.stat().st_mtime),
        problems=problems,
    )


def _request(folder: Path) -> Record | None:
    try:
        return json.loads((folder / store.REQUEST).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _files(folder: Path) -> Iterator[tuple[Path, Member, int | None]]:
    """Results and checkpoints with their member and, of a checkpoint, its epoch."""
    for path in [*sorted(folder.glob("*.npz")), *sorted(folder.glob("checkpoints/*.npz"))]:
        if match := _MEMBER.fullmatch(path.name):
            yield path, _member(match), int(match[4]) if match[4] else None


def _member(match: re.Match[str]) -> Member:
    return None if match[1] == "full" else int(match[2])


def _members(folder: Path) -> Iterator[Member]:
    """Those that were ever begun: each has a lock file."""
    for path in sorted(folder.glob("*.lock")):
        if match := _MEMBER.fullmatch(f"{path.stem}.npz"):
            yield _member(match)


def _claimed(folder: Path, member: Member) -> bool:
    try:
        with store.claim(store.member_path(folder, member)) as free:
            return not free
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):  # who may only read cannot tell
            return False
        raise


def verify(root: str | Path | None = None) -> Iterator[tuple[Path, str]]:
    """Read every stored file whole, results and checkpoints.

    Yields:
        Each file with what is wrong with it, empty where nothing is: damaged, under another name or in
        another folder than it was written, of another version, the result of a repeat with arrays of other
        shapes than its request asks for, or left half written by a process that was killed.
    """
    for folder in _folders(root):
        for path, member, epoch in _files(folder):
            try:
                yield path, _problem(path, member, epoch)
            except FileNotFoundError:  # a checkpoint that was given up meanwhile
                continue
        running = [member for member in _members(folder) if _claimed(folder, member)]
        for part in sorted(folder.rglob("*.part")):
            match = _MEMBER.match(part.name)
            if match and _member(match) not in running:
                yield (
                    part,
                    f"{part} was left by a process that was killed; the next run of its repeat deletes it",
                )


def _problem(path: Path, member: Member, epoch: int | None) -> str:
    try:
        request = store.read_record(path)["request"]
        if (version := request.get("version")) != store.RESULT_VERSION:
            return f"{path} has version {version}; this memlib reads {store.RESULT_VERSION}"
        home = path.parent if epoch is None else path.parent.parent
        if store.result_folder(home.parent, request) != home:
            return f"{path} does not belong into {home.name}: it answers another request"
        arrays, _ = store.read(path, request)
    except StoreError as error:
        return str(error)
    return _wrong_shapes(path, arrays, request) if member is not None and epoch is None else ""


def _wrong_shapes(path: Path, arrays: dict[str, np.ndarray], request: Record) -> str:
    """What does not fit the request among the arrays of a finished repeat."""
    times, K, n = len(arrays["epoch"]), request["folds"], arrays["fold_of"].size
    expected = {"log_px": (times, K, n), "ess": (times, K, n), "fold_loss": (request["epochs"], K)}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            return f"{path} is inconsistent: {name} has shape {arrays[name].shape} instead of {shape}"
    return ""
