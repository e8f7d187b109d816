"""Images to measure: eight bits per channel, with labels and the place each image came from.

One type, `ImageSet`, and one way to get it, `load_images`:

    >>> load_images("digits")
    ImageSet('digits', 'train', n=1500, channels=1, classes=10)
"""

import difflib
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from memlib.data_files import FILES, TORCHVISION, check_folder, data_root, ensure_files
from memlib.image_folder import find_splits, fit_square, has_color, list_images, list_split, read_images

SIZE = 32  # height and width of the images of `DATASETS`, in pixels
SPLIT_SEED = 0  # of numpy.random.default_rng, for the sets that come without a split of their own
DATASETS = ("digits", "patches", "mnist", "cifar10", "cifar10-jpeg", "celeba")
SPLITS = dict.fromkeys(DATASETS, ("train", "test")) | {"celeba": ("train", "valid", "test")}


@dataclass(frozen=True, eq=False, repr=False)
class ImageSet:
    """Images with labels, in a fixed order; the arrays are read-only.

    Args:
        images: uint8 (n, C, H, W), levels 0..255, C = 1 (gray) or 3 (RGB), n, H and W >= 1. Not copied: a
            caller that keeps a writable reference must leave the array alone.
        labels: int64 (n,), values 0..len(classes)-1.
        classes: class names; label k is `classes[k]`.
        name: the data set, as in `load_images`.
        split: the part of the data set, as in `load_images`.
        index: int64 (n,), values >= 0, each image's position in the data set's own order (see `load_images`).

    Raises:
        ValueError: A value of another type, shape or range; the message names it and what is allowed.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    split: str
    index: np.ndarray

    def __post_init__(self) -> None:
        images, classes = self.images, self.classes
        shape = np.shape(images) if _dtype(images) == np.uint8 else ()
        if len(shape) != 4 or 0 in shape or shape[1] not in (1, 3):
            allowed = "uint8 (n, C, H, W) with n, H, W >= 1 and C 1 or 3"
            raise ValueError(f"images must be {allowed}, got {_describe(images)}")
        if not isinstance(classes, tuple) or not classes or not all(isinstance(c, str) for c in classes):
            raise ValueError(f"classes must be a tuple of at least one class name, got {classes!r}")
        for field, top in (("labels", len(classes) - 1), ("index", np.iinfo(np.int64).max)):
            values = getattr(self, field)
            if _dtype(values) != np.int64 or values.shape != images.shape[:1]:
                raise ValueError(f"{field} must be int64 ({len(images)},), got {_describe(values)}")
            if values.min() < 0 or values.max() > top:
                raise ValueError(f"{field} must be in 0..{top}, got {values.min()}..{values.max()}")
        for field in ("images", "labels", "index"):
            view = np.ascontiguousarray(getattr(self, field)).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @classmethod
    def of(cls, images: np.ndarray, labels: Sequence | np.ndarray | None = None, name: str = "own") -> Self:
        """A set of images of your own, in the order given.

        Args:
            images: as above.
            labels: (n,), of any type that can be sorted, by default all of one class; each value is a class.
            name: of the set.

        Raises:
            ValueError: as above.

        >>> ImageSet.of(np.zeros((3, 1, 48, 64), np.uint8), ["cat", "dog", "cat"])
        ImageSet('own', 'train', n=3, channels=1, size=48x64, classes=2)
        """
        shape = np.shape(images)[:1]
        values, places = np.unique([name] * sum(shape) if labels is None else labels, return_inverse=True)
        classes = tuple(map(str, values.tolist()))
        return cls(images, places.astype(np.int64), classes, name, "train", np.arange(sum(shape)))

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.images.shape[2:]
        size = "" if height == width == SIZE else f"size={height}x{width}, "
        counts = f"n={len(self)}, channels={self.channels}, {size}classes={len(self.classes)}"
        return f"ImageSet({self.name!r}, {self.split!r}, {counts})"

    @property
    def channels(self) -> int:
        """Number of channels C: 1 (gray) or 3 (RGB)."""
        return self.images.shape[1]

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of shape and pixels, 64 hexadecimal digits; labels and names do not enter."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images)
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """Chosen images in the given order; `index` still says where each comes from.

        Args:
            indices: integers (m,), m >= 1, positions 0..n-1 in this set; repeats are allowed.

        Raises:
            ValueError: `indices` is empty, not one-dimensional, not of integers, or out of range.

        >>> load_images("patches", "test").subset([5, 0]).index
        array([35, 15])
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise ValueError(f"indices must be integers (m,), m >= 1, got {_describe(chosen)}")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(f"indices must be in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        images, labels, index = self.images[chosen], self.labels[chosen], self.index[chosen]
        return ImageSet(images, labels, self.classes, self.name, self.split, index)


def load_images(
    name: str, split: str = "train", root: str | os.PathLike[str] | None = None, size: int = SIZE
) -> ImageSet:
    """Load one split of a data set as square images, of 32 x 32 pixels but for folders of your own.

    - `digits`: scikit-learn's 1797 digits, levels 0..16 to 0..255, 8x8 to 24x24 (bilinear), padded by 4.
      1500 train, 297 test.
    - `patches`: crops on the 32-pixel grid of scikit-learn's two photographs; the label says which one.
      390 train from columns 0..479, 130 test from columns 480..639.
    - `mnist`: 28x28 padded by 2. 60000 train, 10000 test.
    - `cifar10`: as it is. 50000 train, 10000 test.
    - `cifar10-jpeg`: CIFAR-10 after lossy compression, two archives of class folders of JPEG files, ordered
      by class and file name. 50000 train, 10000 test. Densities on it are not those of `cifar10`.
    - `celeba`: box (left 15, upper 40, right 163, lower 188) of the aligned 178x218 faces, to 32x32
      (bilinear, antialias); one class. 162770 train, 19867 valid, 19962 test. Copies on disk go unchecked.
    - `folder:PATH`: your images, shorter side to `size` (bilinear, antialias), then center crop, so that the
      aspect ratio is kept. Subfolders `train` and `test` (or `valid`, which is `test` where there is none)
      are the splits, otherwise 80 % train, 20 % test. Inside, each subfolder is a class, as in torchvision's
      `ImageFolder`; loose files beside class folders do not count, nor do hidden ones. Images without any
      class folder are one class named after PATH. C = 1 if no image of any split has color, else 3. EXIF
      orientation is applied, transparency dropped, sixteen-bit gray scaled to eight.

    Splits made here put the first 297 (digits) or the first fifth, rounded (folder), of
    `numpy.random.default_rng(SPLIT_SEED).permutation(n)` in test, the others in train, in ascending order.
    For these sets and for `patches` (260 photograph + 20 row + column) `index` counts over the whole set, for
    the others within the split.

    Args:
        name: one of `DATASETS`, or `folder:PATH` (`~` is expanded).
        split: one of `SPLITS[name]`; for a folder `train` or `test`, or `valid` if it has one.
        root: folder of `mnist`, `cifar10` and `celeba` in torchvision's layout and of the archives of
            `cifar10-jpeg`. Default: the environment variable MEMLIB_DATA, else `memlib/data` in the user's
            cache folder. torchvision downloads to it what is missing (`celeba` needs the package gdown;
            `cifar10-jpeg` has no public source).
        size: height and width in pixels, for a folder 1 or more, for the others 32. Experiments use 32.

    Raises:
        ValueError: Unknown name or split; a size that is not allowed; a data folder that is a file; damaged
            files; files that cannot be read as images, by name.
        FileNotFoundError: Files missing that cannot be downloaded; a folder missing or without images.

    Source: van den Burg & Williams (2021), supplement B (mnist, cifar10, celeba).
    """
    if type(size) is not int or size < 1:
        raise ValueError(f"size is {size!r}; allowed: a whole number, 1 or more")
    if isinstance(name, str) and name.startswith("folder:") and name != "folder:":
        return _load_folder(Path(name.removeprefix("folder:")).expanduser().resolve(), split, size)
    check_known("data set", name, (*DATASETS, "folder:PATH"))
    check_known(f"split of {name}", split, SPLITS[name])
    if size != SIZE:
        raise ValueError(f"size is {size}; allowed: {SIZE} for {name}, others for folder:PATH alone")
    match name:
        case "digits":
            return _load_digits(split)
        case "patches":
            return _load_patches(split)
        case "celeba":
            return _load_celeba(split, data_root(root))
        case "cifar10-jpeg":
            return _load_cifar10_jpeg(split, data_root(root))
    return _load_torchvision(name, split, data_root(root))


def availability(root: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """Where each of `DATASETS` is, one line of text per name; reads no image and uses no network.

    Args:
        root: data folder, as in `load_images`; ValueError where it is a file.

    >>> availability()["digits"]
    'bundled with scikit-learn'
    """
    lines, folder = dict.fromkeys(DATASETS, "bundled with scikit-learn"), data_root(root)
    check_folder(folder)
    for name, files in FILES.items():
        paths = [folder / file for file in files]
        place = f"found in {paths[0].parent}"
        found = all(path.exists() for path in paths)
        missing = "memlib downloads it on first use" if name in TORCHVISION else "memlib cannot download it"
        lines[name] = place if found else f"not {place}: {missing}"
    return lines


def _load_digits(split: str) -> ImageSet:
    from sklearn.datasets import load_digits

    source = load_digits()
    digits = source.images.astype(np.int64)  # (1797, 8, 8), levels 0..16
    # Enlarged three times, every pixel lies at a whole number of thirds of a source pixel: bilinear
    # interpolation is exact in integers, and the fingerprint the same on every machine.
    thirds = np.clip(np.arange(24) - 1, 0, 21)
    left, part = thirds // 3, thirds % 3
    right = np.minimum(left + 1, 7)
    rows = (3 - part)[:, None] * digits[:, left] + part[:, None] * digits[:, right]  # (n, 8, 8) -> (n, 24, 8)
    levels = (3 - part) * rows[:, :, left] + part * rows[:, :, right]  # (n, 24, 8) -> (n, 24, 24), 0..144
    images = np.zeros((len(digits), 1, SIZE, SIZE), np.uint8)
    images[:, 0, 4:28, 4:28] = (255 * levels + 72) // 144
    index = _draw_split(len(digits), 297, split)
    labels = source.target.astype(np.int64)
    return ImageSet(images[index], labels[index], tuple("0123456789"), "digits", split, index)


def _load_patches(split: str) -> ImageSet:
    from sklearn.datasets import load_sample_image

    photos = np.stack([load_sample_image("china.jpg"), load_sample_image("flower.jpg")])  # (2, 427, 640, 3)
    grid = photos[:, : 13 * SIZE].reshape(2, 13, SIZE, 20, SIZE, 3)
    grid = grid.transpose(0, 1, 3, 5, 2, 4)  # (2, 13, 32, 20, 32, 3) -> (2, 13, 20, 3, 32, 32)
    columns = slice(0, 15) if split == "train" else slice(15, 20)
    images = grid[:, :, columns].reshape(-1, 3, SIZE, SIZE)  # (2, 13, 15 or 5, 3, 32, 32) -> (n, 3, 32, 32)
    index = np.arange(520).reshape(2, 13, 20)[:, :, columns].ravel()
    return ImageSet(images, index // 260, ("china", "flower"), "patches", split, index)


def _load_torchvision(name: str, split: str, root: Path) -> ImageSet:
    ensure_files(name, root)
    from torchvision import datasets

    source = getattr(datasets, TORCHVISION[name])(root, train=split == "train")
    if name == "mnist":
        images = np.pad(source.data.numpy()[:, None], ((0, 0), (0, 0), (2, 2), (2, 2)))  # -> (n, 1, 32, 32)
        classes = tuple("0123456789")
    else:
        images = source.data.transpose(0, 3, 1, 2)  # (n, 32, 32, 3) -> (n, 3, 32, 32)
        classes = tuple(source.classes)
    labels = np.asarray(source.targets, np.int64)
    return ImageSet(images, labels, classes, name, split, np.arange(len(labels)))


def _load_cifar10_jpeg(split: str, root: Path) -> ImageSet:
    ensure_files("cifar10-jpeg", root)
    with zipfile.ZipFile(root / f"cifar10-jpeg-{split}.zip") as archive:
        paths = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        images = read_images(
            paths,
            (3, SIZE, SIZE),
            lambda image: image.convert("RGB"),
            lambda path: io.BytesIO(archive.read(path)),
        )
    names = [Path(path).parent.name for path in paths]
    classes, labels = np.unique(names, return_inverse=True)
    classes = tuple(classes.tolist())
    return ImageSet(images, labels.astype(np.int64), classes, "cifar10-jpeg", split, np.arange(len(paths)))


def _load_celeba(split: str, root: Path) -> ImageSet:
    # torchvision accepts an extracted copy only together with five annotation files that are not needed here.
    ensure_files("celeba", root)
    partition, folder = (root / file for file in FILES["celeba"])
    wanted = str(SPLITS["celeba"].index(split))
    paths = []
    for number, line in enumerate(partition.read_text(errors="replace").splitlines(), start=1):
        match line.split():
            case [file, ("0" | "1" | "2") as part]:
                paths += [str(folder / file)] if part == wanted else []
            case _:
                raise ValueError(f"{partition}, line {number}: expected FILE and 0, 1 or 2, got {line!r:.80}")
    if not paths:
        raise ValueError(f"{partition} lists no image of split {split!r} (number {wanted})")
    images = read_images(paths, (3, SIZE, SIZE), _crop_face)
    labels = np.zeros(len(paths), np.int64)
    return ImageSet(images, labels, ("face",), "celeba", split, np.arange(len(paths)))


def _draw_split(n: int, n_test: int, split: str) -> np.ndarray:
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    return np.sort(order[:n_test] if split == "test" else order[n_test:])


def _load_folder(path: Path, split: str, size: int) -> ImageSet:
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not a folder: 'folder:PATH' expects a folder of images")
    parts = find_splits(path)
    check_known(f"split of {path}", split, tuple(parts) or ("train", "test"))
    if parts:
        paths, labels, classes, everything = list_split(parts, split, path.name)
        index = np.arange(len(paths))
    else:
        everything, labels, classes = list_images(path, path.name)
        if len(everything) < 2:
            raise ValueError(f"{path} holds one image: at least two are needed for train and test")
        index = _draw_split(len(everything), max(1, round(len(everything) / 5)), split)
        paths, labels = [everything[i] for i in index], labels[index]
    # Decided over all splits, so that a model trained on one fits the others.
    mode, channels = ("RGB", 3) if any(has_color(file) for file in everything) else ("L", 1)
    images = read_images(paths, (channels, size, size), lambda image: fit_square(image, mode, size))
    return ImageSet(images, labels, classes, f"folder:{path}", split, index)


def _crop_face(image: Image.Image) -> Image.Image:
    if image.size != (178, 218):
        raise ValueError(f"expected the aligned 178x218 image, got {image.width}x{image.height}")
    return image.convert("RGB").crop((15, 40, 163, 188)).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint at the most similar known word, or nothing.

    >>> nearest("MINST", ["digits", "mnist"])
    ' (did you mean mnist?)'
    """
    near = difflib.get_close_matches(word.lower(), list(known), 1, cutoff=0.4)
    return f" (did you mean {near[0]}?)" if near else ""


def check_known(kind: str, name: object, known: Iterable[str], where: str = "") -> None:
    """ValueError that says where, for a name that is not known; it names the nearest and all that are."""
    known = list(dict.fromkeys(known))
    if name not in known:
        hint = nearest(str(name), known)
        raise ValueError(f"{where}unknown {kind} {name!r}{hint}; allowed: {', '.join(known)}")


def _dtype(value: object) -> np.dtype | None:
    return value.dtype if isinstance(value, np.ndarray) else None


def _describe(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
