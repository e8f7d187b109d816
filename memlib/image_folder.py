"""Folders of images: which splits and classes they hold, and their files as arrays of one size."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps


def find_splits(path: Path) -> dict[str, Path]:
    """Folders of the splits `train`, `valid` and `test`; empty where a folder is not divided so.

    Where there is no `test`, `valid` stands in for it.
    """
    parts = {part: path / part for part in ("train", "valid", "test") if (path / part).is_dir()}
    if "train" not in parts or len(parts) == 1:
        return {}
    parts.setdefault("test", path / "valid")
    return parts


def list_split(
    parts: dict[str, Path], split: str, name: str
) -> tuple[list[str], np.ndarray, tuple[str, ...], list[str]]:
    """What `list_images` gives for one split, and the paths of all; ValueError where their classes differ."""
    listings = {part: list_images(folder, name) for part, folder in parts.items()}
    paths, labels, classes = listings[split]
    for part, (_, _, others) in listings.items():
        if others != classes:
            both = f"{classes} in {parts[split]}, {others} in {parts[part]}"
            raise ValueError(f"classes differ: {both}; allowed: the same in every split")
    return paths, labels, classes, [file for files, _, _ in listings.values() for file in files]


def list_images(folder: Path, name: str) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Paths (n) in ImageFolder's order, labels int64 (n,), classes: only `name` where no subfolder is one."""
    from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

    classes = sorted(item.name for item in folder.iterdir() if item.is_dir() and item.name[0] != ".")
    places = [folder / item for item in classes] or [folder]
    samples = []
    for label, place in enumerate(places):
        found = make_dataset(place.parent, {place.name: label}, IMG_EXTENSIONS, allow_empty=True)
        visible = [(file, k) for file, k in found if os.sep + "." not in file.removeprefix(str(place))]
        if not visible:
            raise FileNotFoundError(f"no image in {place}: expected any of {' '.join(IMG_EXTENSIONS)}")
        samples += visible
    labels = np.array([label for _, label in samples], np.int64)
    return [file for file, _ in samples], labels, tuple(classes) or (name,)


def has_color(path: str) -> bool:
    """Whether a file holds a color image; False where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.mode not in ("1", "L", "LA", "La", "F") and not image.mode.startswith("I")
    except (OSError, ValueError, Image.DecompressionBombError):  # named when its split is read
        return False


def read_images(
    paths: list[str],
    shape: tuple[int, int, int],
    fit: Callable[[Image.Image], Image.Image],
    open_file: Callable[[str], str | BinaryIO] = str,
) -> np.ndarray:
    """Images uint8 (n, *shape), shape (C, H, W); ValueError that names the files which cannot be read.

    `fit` gives each image its size W x H and its C channels. `open_file` finds the file of a path where that
    is not on disk, such as in an archive.
    """
    channels, height, width = shape
    images = np.empty((len(paths), *shape), np.uint8)

    def read(i: int) -> str | None:
        try:
            with Image.open(open_file(paths[i])) as image:
                pixels = np.asarray(fit(image))
        except Exception as error:  # decoders raise anything on damaged files; all are reported below
            return f"\n  {paths[i]}: {error}"
        images[i] = pixels.reshape(height, width, channels).transpose(2, 0, 1)  # (H, W, C) -> (C, H, W)
        return None

    with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
        failures = [failure for failure in pool.map(read, range(len(paths))) if failure]
    if failures:
        more = f"\n  and {len(failures) - 10} more" if len(failures) > 10 else ""
        raise ValueError(f"{len(failures)} of {len(paths)} images unreadable:{''.join(failures[:10])}{more}")
    return images


def fit_square(image: Image.Image, mode: str, size: int) -> Image.Image:
    """Upright, in Pillow's mode "L" or "RGB", shorter side to `size` (bilinear, antialias), center crop."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed white level; save with 8 or 16 bits")
    if image.mode.startswith("I"):  # where Pillow's own conversion clips at 255
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"expected gray levels in 0..65535, got {levels.min()}..{levels.max()}")
        image = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    width, height = (size * side // min(image.size) for side in image.size)
    image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
