"""What is stored: a listing with the progress of every run, and a check of every file."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import memlib.runs.store as store
from memlib.runs.store import Member, Record, StoreError

_FILE = re.compile(r"(full|repeat-(\d+))(?:-fold-\d+)?(-epoch-(\d+))?\.npz")


@dataclass
class Stored:
    """A run's folder.

    Attributes:
        folder: where it is.
        request: that its training answers; None where no file's record can be read.
        images: as the run named them, with the path of a folder.
        trained: repeats, and None for the model of all images.
        begun: of each unfinished one the epoch of its newest checkpoint.
        scored: of every choice of scoring its request, and the repeats with scores of the last epoch.
        running: those that a process computes now.
        bytes, model_bytes: of all files, and of the models among them.
        modified: of the newest file, Unix time.
        problems: why files cannot be used.
    """

    folder: Path
    request: Record | None = None
    images: str = ""
    trained: list[Member] = field(default_factory=list)
    begun: dict[Member, int] = field(default_factory=dict)
    scored: list[tuple[Record, list[int]]] = field(default_factory=list)
    running: list[Member] = field(default_factory=list)
    bytes: int = 0
    model_bytes: int = 0
    modified: float = 0.0
    problems: list[str] = field(default_factory=list)


def list_results(root: str | Path | None = None) -> list[Stored]:
    """What is stored, by folder; of every file the record is read, but not the arrays."""
    listed = (_listed(folder) for folder in _folders(root))
    return [found for found in listed if found.bytes or found.problems or (found.request and found.running)]


def _folders(root: str | Path | None) -> list[Path]:
    return sorted(p for p in store.results_root(root).glob("*") if p.is_dir())


def _listed(folder: Path) -> Stored:
    found = Stored(folder, _request(folder), modified=folder.stat().st_mtime)
    choices = {place: (_request(place), []) for place in sorted(folder.glob("scores-*")) if place.is_dir()}
    for path, member, epoch in _files(folder):
        if "-fold-" in path.name:  # of `cross_fit`, which no experiment's name stands for
            continue
        kind = path.parent.name if epoch is not None else ""
        try:
            facts = path.stat()
            record = store.read_record(path)
        except FileNotFoundError:  # a checkpoint that was given up meanwhile
            continue
        except StoreError as error:
            found.problems.append(str(error))
            record = None
        found.bytes += facts.st_size
        found.model_bytes += facts.st_size if kind == "models" else 0
        found.modified = max(found.modified, facts.st_mtime)
        if record is None:
            continue
        found.request = found.request or store.training_part(record["request"])
        found.images = found.images or record["run"].get("images", "")
        if not kind:
            found.trained.append(member)
        elif kind == "checkpoints":
            found.begun[member] = max(epoch, found.begun.get(member, 0))
        elif kind != "models" and epoch == record["request"]["epochs"]:
            _, repeats = choices[path.parent]
            choices[path.parent] = record["request"], [*repeats, member]
    found.images = found.images or (found.request or {}).get("images", "")
    found.begun = {member: epoch for member, epoch in found.begun.items() if member not in found.trained}
    found.scored = [choice for choice in choices.values() if choice[0]]
    found.running = [member for member in _members(folder) if _claimed(folder, member)]
    return found


def _request(folder: Path) -> Record | None:
    """What a folder says that its results answer; None where it says nothing of the kind."""
    try:
        request = json.loads((folder / store.REQUEST).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return request if isinstance(request, dict) and isinstance(request.get("images"), str) else None


def _files(folder: Path) -> Iterator[tuple[Path, Member, int | None]]:
    """The files of a run, or of `cross_fit`, with their member and, where they are of one, their epoch."""
    for kind in ("*.npz", "checkpoints/*.npz", "models/*.npz", "scores-*/*.npz"):
        for path in sorted(folder.glob(kind)):
            if match := _FILE.fullmatch(path.name):
                yield path, _member(match), int(match[4]) if match[4] else None


def _member(match: re.Match[str]) -> Member:
    return None if match[1] == "full" else int(match[2])


def _members(folder: Path) -> Iterator[Member]:
    """Those that were ever begun: each has a lock file."""
    for path in sorted(folder.glob("*.lock")):
        if match := _FILE.fullmatch(f"{path.stem}.npz"):
            yield _member(match)


def _claimed(folder: Path, member: Member) -> bool:
    try:
        with store.claim(store.member_path(folder, member)) as free:
            return not free
    except OSError as error:
        if error.errno in store.READ_ONLY:  # who may only read cannot tell
            return False
        raise


def verify(root: str | Path | None = None) -> Iterator[tuple[Path, str]]:
    """Read every stored file whole.

    Yields:
        Each file with what is wrong with it, empty where nothing is: damaged, under another name or in
        another folder than it was written, of another version, scores of other shapes than their request asks
        for, or left half written by a process that was killed.
    """
    for folder in _folders(root):
        for path, member, _ in _files(folder):
            try:
                yield path, _problem(path, member)
            except FileNotFoundError:  # a checkpoint that was given up meanwhile
                continue
        running = [member for member in _members(folder) if _claimed(folder, member)]
        for part in sorted(folder.rglob("*.part")):
            match = _FILE.match(part.name)
            if match and _member(match) not in running:
                told = "was left by a process that was killed; the next run of its repeat deletes it"
                yield part, f"{part} {told}"


def _problem(path: Path, member: Member) -> str:
    """What is wrong with a file; empty where nothing is."""
    try:
        request = store.read_record(path)["request"]
        scores = path.parent.name.startswith("scores-")
        inside = scores or path.parent.name in ("models", "checkpoints")
        home = path.parent.parent if inside else path.parent
        named = store.training_folder(home.parent, store.training_part(request))
        belongs = named == home or "cross_fit_version" in request  # whose folder its user names
        if not belongs or (scores and store.scores_folder(home, request) != path.parent):
            place = path.parent if belongs else home
            return f"{path} does not belong into {place.name}: it answers another request"
        arrays, _ = store.read(path, request)
    except StoreError as error:
        return str(error)
    K, expected = request["folds"], {}
    if scores:
        expected = dict.fromkeys(("log_px", "ess"), (K, arrays["khat"].size))
    elif path.parent == home and "fold_loss" in arrays:
        expected = {"fold_loss": (request["epochs"], K)}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            return f"{path} is inconsistent: {name} has shape {arrays[name].shape} instead of {shape}"
    return ""
