"""Images to measure: eight bits per channel, with labels and the place each image came from.

`memlib.datasets.load_images` reads them, `ImageSet.of` takes arrays of one's own.
"""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from memlib.checks import as_array, check_unmasked

SIZE = 32  # height and width of the images of `DATASETS`, in pixels
SPLIT_SEED = 0  # of numpy.random.default_rng, for the sets that come without a split of their own


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
        paths: of each image's file (n), None where the images come from none of their own.
        absent: positions in that order of images that the data set has and no set here.

    Raises:
        ValueError: A value of another type, shape or range; the message names it and what is allowed.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    name: str
    split: str
    index: np.ndarray
    paths: tuple[str, ...] | None = None
    absent: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        images, classes = self.images, self.classes
        check_unmasked(images=images, labels=self.labels, index=self.index)
        shape = images.shape if isinstance(images, np.ndarray) and images.dtype == np.uint8 else ()
        if len(shape) != 4 or 0 in shape or shape[1] not in (1, 3):
            allowed = "uint8 (n, C, H, W) with n, H, W >= 1 and C 1 or 3"
            raise ValueError(f"images must be {allowed}, got {_describe(images)}")
        if not isinstance(classes, tuple) or not classes or not all(isinstance(c, str) for c in classes):
            raise ValueError(f"classes must be a tuple of at least one class name, got {classes!r}")
        check_names((self.name, *classes))
        [(name, count)] = Counter(unicodedata.normalize("NFC", c) for c in classes).most_common(1)
        if count > 1:
            raise ValueError(f"several classes read {name!r}; allowed: names that differ, rename all but one")
        for field, top in (("labels", len(classes) - 1), ("index", np.iinfo(np.int64).max)):
            values = getattr(self, field)
            if _describe(values) != (allowed := f"int64 ({len(images)},)"):
                raise ValueError(f"{field} must be {allowed}, got {_describe(values)}")
            if values.min() < 0 or values.max() > top:
                raise ValueError(f"{field} must be in 0..{top}, got {values.min()}..{values.max()}")
        paths = () if self.paths is None else self.paths
        if not isinstance(paths, tuple) or not all(isinstance(path, str) for path in paths):
            raise ValueError(f"paths must be None or a tuple of strings, got {_describe(paths)}")
        if self.paths is not None and len(paths) != len(images):
            raise ValueError(f"paths must be one for each of the {len(images)} images, got {len(paths)}")
        for field in ("images", "labels", "index"):
            view = np.ascontiguousarray(getattr(self, field)).view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)

    @classmethod
    def of(cls, images: np.ndarray, labels: Sequence | np.ndarray | None = None, name: str = "own") -> Self:
        """A set of images of your own, in the order given.

        Args:
            images: as above.
            labels: (n,), of one type that can be sorted, none missing; each value is a class, named as it
                reads. By default all images are of one class.
            name: of the set.

        Raises:
            ValueError: as above.

        >>> ImageSet.of(np.zeros((3, 1, 48, 64), np.uint8), ["cat", "dog", "cat"])
        ImageSet('own', 'train', n=3, channels=1, size=48x64, classes=2)
        """
        check_unmasked(images=images, labels=labels)
        shape = np.shape(images)[:1]
        given = [name] * sum(shape) if labels is None else labels
        _check_labels(given)
        values, places = np.unique(given, return_inverse=True)
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

    @property
    def sha256(self) -> str:
        """Fingerprint of shape and pixels, 64 hexadecimal digits; labels and names do not enter.

        Of the pixels of now: of an array that its owner has changed, no earlier result is taken.
        """
        digest = hashlib.sha256(repr(self.images.shape).encode())
        digest.update(self.images)
        return digest.hexdigest()

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSet":
        """Chosen images in the given order; `index` and `paths` still say where each comes from.

        Args:
            indices: integers (m,), m >= 1, positions 0..n-1 in this set; repeats are allowed.

        Raises:
            ValueError: `indices` is empty, not one-dimensional, not of integers, or out of range.

        >>> from memlib.datasets import load_images
        >>> load_images("patches", "test").subset([5, 0]).index
        array([35, 15])
        """
        chosen = as_array("indices", indices)
        if chosen.ndim != 1 or chosen.size == 0 or chosen.dtype.kind not in "iu":
            raise ValueError(f"indices must be integers (m,), m >= 1, got {_describe(chosen)}")
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise ValueError(f"indices must be in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        images, labels, index = self.images[chosen], self.labels[chosen], self.index[chosen]
        paths = self.paths and tuple(self.paths[i] for i in chosen)
        return replace(self, images=images, labels=labels, index=index, paths=paths)


def _describe(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def check_names(names: Iterable[str]) -> None:
    """Refuse what can be stored in no file: names of files and folders that are not UTF-8."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name!r} is not valid Unicode; allowed: names in UTF-8, rename it") from None


def _check_labels(labels: Sequence | np.ndarray) -> None:
    """Refuse missing labels, and different ones that NumPy or their text would make one class."""
    import pandas as pd

    values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if np.ndim(missing := pd.isna(np.array(values, object))) == 1 and missing.any():
        at = np.flatnonzero(missing)
        raise ValueError(
            f"{len(at)} labels are missing, the first of image {at[0]}; allowed: a label for each image"
        )
    texts: dict[str, object] = {}
    for value in values:
        other = texts.setdefault(
            value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value), value
        )
        if isinstance(other, str | bytes) != isinstance(value, str | bytes) or other != value:
            raise ValueError(
                f"labels {other!r} and {value!r} differ but read the same; allowed: labels of one type"
            )


def draw_split(n: int, n_test: int, split: str) -> np.ndarray:
    """Which of n images are in a split, int64, ascending: `n_test` in "test", the others in "train"."""
    order = np.random.default_rng(SPLIT_SEED).permutation(n)
    return np.sort(order[:n_test] if split == "test" else order[n_test:])
