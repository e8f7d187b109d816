"""CIFAR-10 but for 97 images: from sheets of losslessly stored images, or from the official files.

Both give the same arrays, bit for bit, which their SHA-256 proves, and so the same results.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from memlib.data import SIZE, ImageSet

FOLDER = "cifar10-lossless"  # of the sheets, under the data folder
SHEETS = {"train": 50, "test": 10}  # of 25 rows and 40 columns of images, in official order
ROWS, COLUMNS = 25, 40
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# of all images, uint8 (N, 3, 32, 32) in official order, those that are absent black
SHA256 = {
    "train": "26f62173714e4c88c40ce766558fa939bdefc1c109c710ef3cc0aae7f75f1d26",
    "test": "df1f23a3e8e180ebac38bed593275836e252599788093282bfc6151d7064d873",
}
# Places in the official order of the images that the sheets lack: ships but for four horses, and for one.
ABSENT = {
    "train": """
        4298 5949 7066 7237 7248 7630 8006 8831 8968 9415 10336 10408 12762 12834 13546 21493 25728 26098
        26927 27621 28435 28728 29694 29747 30329 31066 31367 31462 31625 31663 32777 33641 33661 34067
        34276 34387 34825 35160 35646 36733 37329 37474 37567 38384 38925 39358 39385 39613 39840 39888
        39971 40805 41779 42004 42389 42611 43357 43883 44882 45168 45240 46175 46435 46538 46624 47393
        47597 48081 48124 48333 48821 48836 49321 49429 49631 49830 49857
    """,
    "test": """
        1259 1369 1422 2245 2737 2935 3695 3718 4085 4496 5791 5896 6286 7580 7707 7724 7832 8117 8551 9254
    """,
}


def has_sheets(root: Path) -> bool:
    """Whether all sheets, and the labels beside them, are under the data folder."""
    names = [f"{split}-{k:02d}.png" for split, count in SHEETS.items() for k in range(count)]
    return all((root / FOLDER / name).exists() for name in ("index.npz", *names))


def load_partial(root: Path, split: str, official: Callable[[], ImageSet]) -> ImageSet:
    """The images of a split that the sheets have, in official order.

    Args:
        root: the data folder.
        split: train or test.
        official: reads all images of the split from the official files, where there are no sheets.

    Raises:
        ValueError: the images are not those of CIFAR-10.
    """
    if has_sheets(root):
        with np.load(root / FOLDER / "index.npz", allow_pickle=False) as file:
            labels = file[f"{split}_labels"].astype(np.int64)
        paths = [root / FOLDER / f"{split}-{k:02d}.png" for k in range(SHEETS[split])]
        images = np.concatenate([_cut(path) for path in paths])
    else:
        every = official()
        images, labels = every.images.copy(), every.labels
    absent = np.array(ABSENT[split].split(), np.int64)
    images[absent] = 0
    if (found := hashlib.sha256(images).hexdigest()) != SHA256[split]:
        raise ValueError(
            f"the {split} images of CIFAR-10 in {root} have SHA-256 {found[:12]}...; allowed: "
            f"{SHA256[split][:12]}..., that of the official ones: delete these files and get them again"
        )
    index = np.setdiff1d(np.arange(len(images)), absent)
    kept = images[index], labels[index], CLASSES, "cifar10-partial", split, index
    return ImageSet(*kept, absent=tuple(absent.tolist()))


def _cut(path: Path) -> np.ndarray:
    """The images of a sheet, uint8 (1000, 3, 32, 32), row by row."""
    try:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        tiles = pixels.reshape(ROWS, SIZE, COLUMNS, SIZE, 3)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); allowed: a sheet of 25 x 40 images") from error
    tiles = tiles.transpose(0, 2, 4, 1, 3)  # (rows, 32, columns, 32, C) -> (rows, columns, C, 32, 32)
    return tiles.reshape(ROWS * COLUMNS, 3, SIZE, SIZE)
