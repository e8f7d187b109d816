"""Folders of images: which of their subfolders are splits and classes, and which files count."""

import logging
import os
import re
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from memlib.checks import check_known
from memlib.data import ImageSet, check_names, draw_split
from memlib.pixels import first_color, read_squares

LOG = logging.getLogger("memlib")
# What operating systems, storage servers and programs leave behind, in lower case, beside all with a dot.
MACHINE_NAMES = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@__thumb", "#recycle", "#snapshot", "~snapshot"),
    *("__macosx", "network trash folder", "temporary items", "lost+found", "__pycache__", "$recycle.bin"),
    *("recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),
}
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Whole names as above or as train_set, Test-Images, trainA, val2017; own words before them, as in mnist_test.
_LIKE_SPLIT = re.compile(
    rf"(?P<own>.+[ _.-])?(?P<word>{'|'.join(SPLITS)}|trainval|dev|eval|evaluation|(hold|held)[ _-]?out)"
    r"([ _.-]?(set|data|dataset|images?|imgs?|split|part|[ab]|\d+))*"
)
HIDDEN, OTHER_TYPE = "hidden or written by machines alone", "of other types"
AGAIN, BESIDE = "that links lead to again", "beside the folders that are read"


def load_folder(path: Path, split: str, size: int) -> ImageSet:
    """The images of a folder; see `memlib.datasets.load_images`, which gives an absolute path."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: 'folder:PATH' expects a folder of images")
    walk = _Walk(path)
    divided = walk.splits()
    check_known(f"split of {path}", split, (*divided, "test") if divided else ("train", "test"))
    places = divided or {split: path}
    listings = walk.listings(places)
    chosen = split if split in places else "valid"
    files, labels, classes = listings[chosen]
    check_names((str(path), *classes))
    for part, (_, _, others) in listings.items():
        if others != classes:
            both = f"{classes} in {places[chosen]}, {others} in {places[part]}"
            raise ValueError(f"classes differ: {both}; allowed: the same in every split")
    if len(files) < 2 and not divided:
        raise ValueError(f"{path} holds one image: at least two are needed for train and test")
    if walk.left_out:
        LOG.warning("%s: %s", path, walk.told())
    n, n_test = len(files), max(1, round(len(files) / 5))
    index = np.arange(n) if divided else draw_split(n, n_test, split)
    paths = tuple(files[i] for i in index)
    images, colored = read_squares(paths, size)
    read = {*paths}
    others = [file for files, _, _ in listings.values() for file in files if file not in read]
    if colored.any():
        color = paths[colored.argmax()]
    elif color := first_color(others, size):  # decided over all splits: a model of one fits the others
        images = images.repeat(3, axis=1)
    if color and not colored.all():
        told = f"{colored.sum()} of {len(paths)} {split} images have color"
        LOG.warning("%s: %s; all get three channels through %s", path, told, color)
    return ImageSet(images, labels[index], classes, f"folder:{path}", split, index, paths)


class _Walk:
    """The image files of a folder: every real folder and file once, and none that only machines write.

    Links are followed when all that lies in place is found, those of test images first: none of these enters
    the training images through a link.
    """

    def __init__(self, path: Path) -> None:
        from torchvision.datasets.folder import IMG_EXTENSIONS

        self.path, self.extensions = path, IMG_EXTENSIONS
        self.seen: set[str] = set()  # real paths of folders and files
        self.left_out: defaultdict[str, list[str]] = defaultdict(list)  # paths by reason

    def told(self) -> str:
        """How many files and folders were left out, and why."""
        reasons = (
            f"{len(paths)} {reason} (such as {os.path.relpath(paths[0], self.path)})"
            for reason, paths in self.left_out.items()
        )
        return f"left out {', '.join(reasons)}"

    def splits(self) -> dict[str, Path]:
        """Split -> its folder; none where the folder is not divided, or names alone do not tell."""
        names = _folders(_entries(self.path))
        parts: dict[str, str] = {}
        for name in names:
            part = SPLITS.get(name.casefold())
            if part in parts:
                raise ValueError(
                    f"{self.path} has two folders of the split {part}, {parts[part]} and {name}; allowed: one"
                )
            if part:
                parts[part] = name
        if "train" not in parts or len(parts) == 1:
            return {}
        self._leave_beside(self.path, parts.values())
        return {part: self.path / name for part, name in parts.items()}

    def listings(self, places: dict[str, Path]) -> dict[str, tuple[list[str], np.ndarray, tuple[str, ...]]]:
        """Of every split: paths (n) in ImageFolder's order, labels int64 (n,), classes.

        Args:
            places: split -> its folder. Where no subfolder is a class, the only one has the name of `path`.
        """
        folders: dict[str, list[Path]] = {}
        for part in sorted(places, key=("test", "valid", "train").index):
            folders[part] = [places[part] / name for name in self._subfolders(places[part])] or [places[part]]
        files: dict[Path, list[str]] = defaultdict(list)
        links: dict[Path, deque[str]] = defaultdict(deque)
        every = [folder for some in folders.values() for folder in some]
        for folder in every:
            if folder.is_symlink():
                links[folder].append(str(folder))
            else:
                self._enter(str(folder), files[folder], links[folder])
        for folder in every:
            self._follow(files[folder], links[folder])
            if not files[folder]:
                found = f"; {self.told()}" if self.left_out else ""
                raise FileNotFoundError(
                    f"no image in {folder}: expected any of {' '.join(self.extensions)}{found}"
                )
            files[folder].sort(key=os.path.split)
        return {part: self._listing(places[part], some, files) for part, some in folders.items()}

    def _listing(
        self, place: Path, folders: Sequence[Path], files: dict[Path, list[str]]
    ) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
        labels = np.repeat(np.arange(len(folders)), [len(files[folder]) for folder in folders])
        classes = (self.path.name,) if folders == [place] else tuple(folder.name for folder in folders)
        return [file for folder in folders for file in files[folder]], labels, classes

    def _subfolders(self, folder: Path) -> list[str]:
        """Sorted names of its folders; where there are any, its own files do not count."""
        names = _folders(_entries(folder))
        self._refuse_splits(folder, names, "classes")
        if names:
            self._leave_beside(folder, names)
        return names

    def _leave_beside(self, folder: Path, names: Collection[str]) -> None:
        self.seen.add(os.path.realpath(folder))
        for entry in _entries(folder):
            if entry.name not in names:
                self._leave_out(entry, BESIDE)

    def _refuse_splits(self, folder: str | Path, names: Sequence[str], role: str) -> None:
        """Refuse folders that would be read as classes or as parts of one, but look like splits.

        They do where two splits are there, or nothing else, or where classes lie inside of one.
        """
        like = {name: found for name in names if (found := _LIKE_SPLIT.fullmatch(name.casefold()))}
        plain = {name for name, found in like.items() if not found["own"]}
        kinds, plain_kinds = (
            {SPLITS.get(like[name]["word"], like[name]["word"]) for name in some} for some in (like, plain)
        )
        alone = len(like) == len(names) and (len(kinds) > 1 or plain)
        if not (alone or len(plain_kinds) > 1 or any(self._holds_folders_alone(folder, n) for n in plain)):
            return
        parts = {SPLITS.get(name.casefold()) for name in names} - {None}
        way = f"folder:{folder}" if {"train"} < parts else "train beside test or valid in the folder given"
        names = ", ".join(like)
        raise ValueError(
            f"{folder} has {names}, which look like splits, but would be read as {role}; allowed: for splits "
            f"{way}, for {role} other names, for one of them alone folder:{os.path.join(folder, min(like))}"
        )

    def _holds_folders_alone(self, folder: str | Path, name: str) -> bool:
        entries = [entry for entry in _entries(os.path.join(folder, name)) if not _by_machine(entry.name)]
        return bool(_folders(entries)) and not any(self._is_image(entry.name) for entry in entries)

    def _enter(self, folder: str, files: list[str], links: deque[str]) -> None:
        """Find the images below a folder, and the links, which lead to more."""
        waiting = [folder]
        while waiting:
            real = os.path.realpath(folder := waiting.pop())
            if real in self.seen:
                self.left_out[AGAIN].append(folder)
                continue
            self.seen.add(real)
            entries = _entries(folder)
            self._refuse_splits(folder, _folders(entries), "parts of a class")
            for entry in entries:
                if _by_machine(entry.name):
                    self._leave_out(entry)
                elif entry.is_symlink():
                    links.append(entry.path)
                elif entry.is_dir():
                    waiting.append(entry.path)
                elif entry.is_file() and self._is_image(entry.name):
                    self._take(entry.path, os.path.join(real, entry.name), files)
                else:
                    self._leave_out(entry)

    def _follow(self, files: list[str], links: deque[str]) -> None:
        """Find the images behind links, and behind the links there."""
        while links:
            link = links.popleft()
            if os.path.isdir(link):
                self._enter(link, files, links)
            elif not self._is_image(link) or (os.path.exists(link) and not os.path.isfile(link)):
                self.left_out[OTHER_TYPE].append(link)
            else:  # a link to nothing, too, which is then named as unreadable
                self._take(link, os.path.realpath(link), files)

    def _take(self, path: str, real: str, files: list[str]) -> None:
        (self.left_out[AGAIN] if real in self.seen else files).append(path)
        self.seen.add(real)

    def _leave_out(self, entry: os.DirEntry[str], image: str = OTHER_TYPE) -> None:
        """Count a name; `image` is the reason where it is that of an image or a folder."""
        reason = image if self._is_image(entry.name) or _is_folder(entry) else OTHER_TYPE
        self.left_out[HIDDEN if _by_machine(entry.name) else reason].append(entry.path)

    def _is_image(self, name: str) -> bool:
        return name.lower().endswith(self.extensions)


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _folders(entries: Iterable[os.DirEntry[str]]) -> list[str]:
    return [entry.name for entry in entries if not _by_machine(entry.name) and _is_folder(entry)]


def _by_machine(name: str) -> bool:
    return name.startswith(".") or name.lower() in MACHINE_NAMES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False
