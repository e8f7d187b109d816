"""Image sets in which it is known what is an outlier, a copy or nearly one, and what not.

`plant` makes training sets (chapters 15, 16, 22), `cheat` and `mixture` what a cheating generator would pass
off as samples (chapter 20). Every function raises ValueError, naming the argument, for what its docstring
does not allow.
"""

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memlib.checks import Bools, check_known, check_range
from memlib.data import ImageSet

KINDS = ("ordinary", "copy", "near-duplicate", "outlier", "copied outlier", "noise")
COPIES = {2: 10, 5: 6, 20: 4}  # times in the set -> originals
OUTLIERS = {1: 20, **COPIES}
SHIFTS = ((0, 1), (0, -1), (1, 0), (-1, 0))  # rows down, columns right: the near-duplicates of an original
CHEATS = ("copies", "flipped copies", "shifted copies", "noisy copies", "few copies")
FEW = 20  # different images among "few copies"
NOISE = 25  # standard deviation of "noisy copies", in gray levels
BLOCK = 8  # side of the squares that an outlier's pixels are shuffled in
LEAST = 4 * BLOCK  # side of images to shuffle: of few squares, the order is often the old one


@dataclass(frozen=True, eq=False)
class Planted:
    """An image set with what was planted into it.

    Attributes:
        images: sorted by label.
        kind: of every image, (n,): "ordinary"; "copy", one of several equal images; "near-duplicate", one of
            an original and its shifted versions; "outlier", a shuffled image; "copied outlier", one of
            several that are equal; "noise", an image of single pixels in random order.
        copies: how many times each image is in the set, (n,).
        original: the image that each was made of, by its position in the set it came from, (n,).
    """

    images: ImageSet
    kind: NDArray[np.str_]
    copies: NDArray[np.int64]
    original: NDArray[np.int64]

    @property
    def kinds(self) -> dict[str, Bools]:
        """Which images, (n,), are "ordinary", "copy, 2 times", ..., "noise"; of kinds that are there."""
        return {
            f"{kind}, {times} times" if times > 1 else kind: (self.kind == kind) & (self.copies == times)
            for kind in KINDS
            for times in np.unique(self.copies[self.kind == kind]).tolist()
        }


def plant(
    images: ImageSet,
    ordinary: int,
    copies: Mapping[int, int] = COPIES,
    near: int = 8,
    outliers: Mapping[int, int] = OUTLIERS,
    noise: int = 20,
    seed: int = 0,
) -> Planted:
    """Plant copies, near-duplicates, outliers and noise into images of a set.

    Every original is another image of `images`. Outliers are images cut into squares of 8 x 8 pixels in
    random order; noise are images whose pixels are all in random order, with a class drawn at random.

    Args:
        images: n to draw originals and ordinary images from. To make outliers, their height and width must be
            multiples of 8, 32 or more.
        ordinary: images that are in the set once, unchanged; at least 1, and with all originals n at most.
        copies: times in the set, at least 2 -> originals that are there so often.
        near: originals with four near-duplicates each, shifted by one pixel.
        outliers: times in the set, at least 1 -> shuffled images that are there so often.
        noise: images of noise.
        seed: of all choices, 0 or more.
    """
    check_range(1, ordinary=ordinary)
    check_range(0, near=near, noise=noise, seed=seed)
    for name, each, least in (("copies", copies, 2), ("outliers", outliers, 1)):
        check_range(0, **{f"{name}[{times}]": count for times, count in each.items()})
        check_range(least, **{f"a key of {name}": min(each, default=least)})
    sides = images.images.shape[2:]
    if any(outliers.values()) and any(side < LEAST or side % BLOCK for side in sides):
        raise ValueError(
            f"images are {sides[0]} x {sides[1]} pixels; allowed: no outliers, or sides that are multiples "
            f"of {BLOCK}, {LEAST} or more"
        )
    needed = ordinary + sum(copies.values()) + near + sum(outliers.values()) + noise
    if needed > len(images):
        raise ValueError(f"{needed} originals are asked for; allowed: at most the {len(images)} images given")
    rng = np.random.default_rng(seed)
    originals = ((images.images[i], i) for i in rng.permutation(len(images)))
    take = functools.partial(itertools.islice, originals)  # the next so many
    parts = [(x, i, "ordinary", 1) for x, i in take(ordinary)]  # image, original, kind, copies
    for times, count in copies.items():
        parts += [(x, i, "copy", times) for x, i in take(count) for _ in range(times)]
    for x, i in take(near):
        versions = [x, *(np.roll(x, shift, axis=(1, 2)) for shift in SHIFTS)]
        parts += [(version, i, "near-duplicate", 1) for version in versions]
    for times, count in outliers.items():
        kind = "outlier" if times == 1 else "copied outlier"
        for x, i in take(count):
            parts += [(_shuffled(x, rng), i, kind, times)] * times
    parts += [(rng.permutation(x.ravel()).reshape(x.shape), i, "noise", 1) for x, i in take(noise)]

    pixels, original, kind, times = (np.array(column) for column in zip(*parts, strict=True))
    label = images.labels[original]
    drawn = kind == "noise"
    label[drawn] = rng.integers(len(images.classes), size=drawn.sum())
    order = np.argsort(label, kind="stable")
    index = np.arange(len(order))
    planted = ImageSet(pixels[order], label[order], images.classes, "planted", images.split, index)
    return Planted(planted, kind[order], times[order], original[order])


def _shuffled(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The squares of an image (C, H, W) in random order."""
    C, rows, columns = len(image), image.shape[1] // BLOCK, image.shape[2] // BLOCK
    squares = image.reshape(C, rows, BLOCK, columns, BLOCK).transpose(1, 3, 0, 2, 4)
    mixed = rng.permutation(squares.reshape(rows * columns, C, BLOCK, BLOCK)).reshape(squares.shape)
    return mixed.transpose(2, 0, 3, 1, 4).reshape(image.shape)


def cheat(kind: str, images: NDArray[np.uint8], count: int, seed: int = 0) -> NDArray[np.uint8]:
    """Make "samples" of training images, as a generator would that has learned nothing but to copy.

    Args:
        kind: `copies` of training images, each once as long as there are more; `flipped copies`, mirrored
            left to right; `shifted copies`, by one pixel in one of four directions, around the edges; `noisy
            copies`, with normal noise of standard deviation 25 on the levels 0 to 255, clipped to them; `few
            copies`, of 20 of the images, in turn.
        images: the training images, uint8 (n, C, H, W), C = 1 or 3.
        count: of the samples, at least 1.
        seed: of all choices, 0 or more.

    Returns:
        uint8 (count, C, H, W).
    """
    check_known("cheat", kind, CHEATS)
    images = ImageSet.of(images).images
    check_range(1, count=count)
    check_range(0, seed=seed)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(images))[: FEW if kind == "few copies" else None]
    samples = images[np.resize(order, count)]
    match kind:
        case "flipped copies":
            samples = samples[..., ::-1]
        case "shifted copies":
            which = rng.integers(len(SHIFTS), size=count)
            samples = np.stack([np.roll(x, SHIFTS[k], (1, 2)) for x, k in zip(samples, which, strict=True)])
        case "noisy copies":
            noisy = samples + rng.normal(0, NOISE, samples.shape)
            samples = noisy.round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(samples)


def mixture(
    copies: NDArray[np.uint8], samples: NDArray[np.uint8], share: float, seed: int = 0
) -> NDArray[np.uint8]:
    """Put copies in the places of some samples, drawn at random.

    Args:
        copies, samples: uint8 of one shape (m, C, H, W), C = 1 or 3.
        share: of the places, 0 to 1, rounded to whole images.
        seed: 0 or more.

    Returns:
        uint8 (m, C, H, W); with the same seed a larger share keeps the copies of a smaller one.
    """
    copies, samples = (ImageSet.of(x).images for x in (copies, samples))
    if copies.shape != samples.shape:
        raise ValueError(f"copies are {copies.shape}, samples {samples.shape}; allowed: the same shape")
    check_range(0, 1, share=share)
    check_range(0, seed=seed)
    places = np.random.default_rng(seed).permutation(len(samples))[: round(share * len(samples))]
    mixed = samples.copy()
    mixed[places] = copies[places]
    return mixed
