"""Folders of images: which of their subfolders are splits and classes, and which files count."""

import os
from pathlib import Path

import numpy as np

from memlib.checks import check_known
from memlib.data import ImageSet, draw_split
from memlib.pixels import fit_square, has_color, read_images


def load_folder(path: Path, split: str, size: int) -> ImageSet:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: 'folder:PATH' expects a folder of images")
    parts = {part: path / part for part in ("train", "valid", "test") if (path / part).is_dir()}
    divided = "train" in parts and len(parts) > 1
    if divided:
        parts.setdefault("test", path / "valid")
    check_known(f"split of {path}", split, parts if divided else ("train", "test"))
    places = parts if divided else {split: path}
    listings = {part: _list_images(place, path.name) for part, place in places.items()}
    files, labels, classes = listings[split]
    for part, (_, _, others) in listings.items():
        if others != classes:
            both = f"{classes} in {places[split]}, {others} in {places[part]}"
            raise ValueError(f"classes differ: {both}; allowed: the same in every split")
    if len(files) < 2 and not divided:
        raise ValueError(f"{path} holds one image: at least two are needed for train and test")
    n, n_test = len(files), max(1, round(len(files) / 5))
    index = np.arange(n) if divided else draw_split(n, n_test, split)
    # Decided over all splits, so that a model trained on one fits the others.
    colored = any(has_color(file) for files, _, _ in listings.values() for file in files)
    mode, channels = ("RGB", 3) if colored else ("L", 1)
    chosen = [files[i] for i in index]
    images = read_images(chosen, (channels, size, size), lambda image: fit_square(image, mode, size))
    return ImageSet(images, labels[index], classes, f"folder:{path}", split, index)


def _list_images(folder: Path, name: str) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Paths (n) in ImageFolder's order, labels int64 (n,), classes: only `name` where no subfolder is one."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    classes = sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name[0] != ".")
    places = [folder / item for item in classes] or [folder]
    files, labels = [], []
    for label, place in enumerate(places):
        found = make_dataset(place.parent, {place.name: label}, IMG_EXTENSIONS, allow_empty=True)
        visible = [file for file, _ in found if os.sep + "." not in file.removeprefix(str(place))]
        if not visible:
            raise FileNotFoundError(f"no image in {place}: expected any of {' '.join(IMG_EXTENSIONS)}")
        files += visible
        labels += [label] * len(visible)
    return files, np.array(labels, np.int64), tuple(classes) or (name,)
