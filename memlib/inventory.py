"""What is stored: a listing with the progress of every run, and a check of every file."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import memlib.store as store
from memlib.store import Member, Record, StoreError

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
    records, problems, begun = {}, [], {}
    files = list(_files(folder))
    for path, member, epoch in files:
        try:
            records[path] = store.read_record(path)
        except StoreError as error:
            problems.append(str(error))
        else:
            if epoch is not None:
                begun[member] = max(epoch, begun.get(member, 0))
    finished = [member for path, member, epoch in files if epoch is None and path in records]
    if not files:
        return None
    request = next((record["request"] for record in records.values()), None)
    named = [record["run"]["images"] for record in records.values() if "images" in record["run"]]
    return Stored(
        folder=folder,
        request=request,
        images=named[0] if named else request["images"] if request else "",
        finished=finished,
        begun={member: epoch for member, epoch in begun.items() if member not in finished},
        running=[member for member in _members(folder) if _claimed(folder, member)],
        bytes=sum(path.stat().st_size for path, _, _ in files),
        modified=max(path.stat().st_mtime for path, _, _ in files),
        problems=problems,
    )


def _files(folder: Path) -> Iterator[tuple[Path, Member, int | None]]:
    """Results and checkpoints with their member and, of a checkpoint, its epoch."""
    for path in [*sorted(folder.glob("*.npz")), *sorted(folder.glob("checkpoints/*.npz"))]:
        if match := _MEMBER.fullmatch(path.name):
            member = None if match[1] == "full" else int(match[2])
            yield path, member, int(match[4]) if match[4] else None


def _members(folder: Path) -> Iterator[Member]:
    """Those that were ever begun: each has a lock file."""
    for path in sorted(folder.glob("*.lock")):
        if match := _MEMBER.fullmatch(f"{path.stem}.npz"):
            yield None if match[1] == "full" else int(match[2])


def _claimed(folder: Path, member: Member) -> bool:
    try:
        with store.claim(store.member_path(folder, member)) as free:
            return not free
    except PermissionError:  # a folder that others may only read does not tell
        return False


def verify(root: str | Path | None = None) -> Iterator[tuple[Path, str]]:
    """Read every stored file whole, results and checkpoints.

    Yields:
        Each file with what is wrong with it, empty where nothing is: damaged, under another name or in
        another folder than it was written, of another version, or with arrays of other shapes than its
        request asks for.
    """
    for folder in _folders(root):
        for path, member, epoch in _files(folder):
            yield path, _problem(path, member, epoch)
        for part in sorted(folder.rglob("*.part")):
            yield part, f"{part} was left by a process that was killed; the next run of its repeat deletes it"


def _problem(path: Path, member: Member, epoch: int | None) -> str:
    try:
        request = store.read_record(path)["request"]
        if request["version"] != store.RESULT_VERSION:
            return f"{path} has version {request['version']}; this memlib reads {store.RESULT_VERSION}"
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
