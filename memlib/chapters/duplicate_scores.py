"""Chapters 15 and 16: scores of kinds of images, above all of images that occur more than once.

Every function raises ValueError, naming the argument, for what its docstring does not allow.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from memlib.chapters.planted import Planted
from memlib.checks import Bools, Floats, Ints, as_array, check_range, check_unmasked
from memlib.data import ImageSet
from memlib.memorization import memorization

DRAWS = 2000  # of the bootstrap
ENDS = 0.025, 0.975  # quantiles at which its intervals end


def with_ordinary(images: ImageSet, found: Sequence[Ints], most: int, seed: int = 0) -> Planted:
    """Images that occur more than once, and as many of each class that do not, for a run of both.

    Args:
        images: the set in which the groups were found.
        found: one or more, as from `groups`, taken whole and in this order until the next is too many.
        most: images of groups, at least those of the first one.
        seed: of the choice of ordinary ones, among enough images in none of the groups; 0 or more.

    Returns:
        The set: `kind` is "near-duplicate" or "ordinary", `copies` the size of an image's group, or 1,
        `original` the first image of its group, or itself, by its position in `images`.
    """
    check_range(1, groups=len(found))
    check_range(len(found[0]), most=most)
    check_range(0, seed=seed)
    taken = found[: int(np.searchsorted(np.cumsum([len(g) for g in found]), most, side="right"))]
    chosen = np.concatenate(taken)
    original, size = (np.repeat([f(g) for g in taken], [len(g) for g in taken]) for f in (np.min, len))
    rng, parts = np.random.default_rng(seed), []
    alone = np.setdiff1d(np.arange(len(images)), np.concatenate(found))
    for label, count in zip(*np.unique(images.labels[chosen], return_counts=True), strict=True):
        there = alone[images.labels[alone] == label]
        check_range(count, **{f"the number of ordinary images of class {images.classes[label]}": len(there)})
        parts.append(rng.choice(there, count, replace=False))
    single = np.concatenate(parts)
    every = np.concatenate([chosen, single])
    order = np.argsort(images.labels[every], kind="stable")
    kind = np.repeat(["near-duplicate", "ordinary"], [len(chosen), len(single)])
    copies, original = np.append(size, np.ones_like(single)), np.append(original, single)
    return Planted(images.subset(every[order]), kind[order], copies[order], original[order])


def compare(result: xr.Dataset, original: Ints, rows: Mapping[str, Bools], seed: int = 0) -> pd.DataFrame:
    """Mean gaps of several kinds of images at the last epoch, with 95 % intervals over groups and repeats.

    Images of a group are no independent cases, and all images of a repeat share its models. So a kind's mean
    is that of its groups' means, and every draw of the bootstrap takes groups and repeats with replacement;
    where there is one of either, its part of the uncertainty is missing. Where repeats make the most of it,
    and they are five, intervals hold the truth in about 90 %.

    Args:
        result: as for `memlib.memorization`.
        original: of the images, (n,), the same for those of a group; see `with_ordinary`.
        rows: name -> the images meant, (n,) bool, at least one; others are compared with the
            first kind.
        seed: of the bootstrap's draws, 0 or more.

    Returns:
        A row of every kind, with its `groups` and `images`; its `gap` with the ends of the interval, `low`
        and `high`; and how much more it is than in the first row, `more`, `more low`, `more high`. Nats.

    Source: Owen (2007), the pigeonhole bootstrap; McCullagh (2000).
    """
    gap = memorization(result.isel(epoch=[-1])).gap_by_repeat.values[0]  # (L, n)
    (L, n), original = gap.shape, as_array("original", original)
    if original.shape != (n,):
        raise ValueError(f"original is {original.shape}; allowed: ({n},)")
    check_range(1, rows=len(rows))
    for name, chosen in rows.items():
        check_unmasked(**{f"rows[{name!r}]": chosen})
        if np.shape(chosen) != (n,) or np.asarray(chosen).dtype != bool or not np.any(chosen):
            raise ValueError(f"rows[{name!r}] must be bool ({n},), with at least one image")
    check_range(0, seed=seed)
    rng, columns = np.random.default_rng(seed), {"groups": [], "images": []}
    repeats, means, drawn = rng.multinomial(L, np.full(L, 1 / L), DRAWS) / L, [], []  # (DRAWS, L)
    for chosen in rows.values():
        _, group_of, size = np.unique(original[chosen], return_inverse=True, return_counts=True)
        of_groups = np.stack([np.bincount(group_of, own) / size for own in gap[:, chosen]])  # (L, g)
        g = len(size)
        groups = rng.multinomial(g, np.full(g, 1 / g), DRAWS) / g  # (DRAWS, g)
        columns["groups"].append(g)
        columns["images"].append(size.sum())
        means.append(of_groups.mean())
        drawn.append(((repeats @ of_groups) * groups).sum(1))
    at, sample = np.array(means), np.array(drawn)  # (rows,), (rows, DRAWS)
    for name, estimate, draws in (("gap", at, sample), ("more", at - at[0], sample - sample[0])):
        low, high = np.quantile(draws, ENDS, axis=1)
        prefix = "more " if name == "more" else ""
        columns |= {name: estimate, f"{prefix}low": low, f"{prefix}high": high}
    return pd.DataFrame(columns, index=list(rows))


def by_kind(planted: Planted, result: xr.Dataset, seed: int = 0) -> pd.DataFrame:
    """Mean gaps of what was planted, copies by their number, as from `compare`.

    Args:
        planted: the set.
        result: of a run of its images, as for `memlib.memorization`.
        seed: of the bootstrap, 0 or more.

    Returns:
        The table of `compare`, groups being originals, with a row for each of "ordinary", "copy, 2 times",
        ..., "near-duplicate", "outlier", "noise" that is there, and its `kind` and `times` in the set.
    """
    table = compare(result, planted.original, planted.kinds, seed)
    first = [int(np.argmax(chosen)) for chosen in planted.kinds.values()]
    return table.assign(kind=planted.kind[first], times=planted.copies[first])


def unseen_group(gap: Floats, fold_of: Ints, original: Ints) -> Floats:
    """How much more training on an image is worth where its duplicates are left out together with it.

    Folds are drawn at random: in some repeats all images of a group are in one fold, and the model which did
    not see an image saw none of the others. These are compared with other repeats, after the mean gap of
    images without duplicates is subtracted in each. A part of the difference is due to the models that saw
    the image: where duplicates are in other folds, some of these have not seen them.

    Args:
        gap: `gap_by_repeat` of `memlib.memorization` at one epoch, (L, n), nats.
        fold_of: the fold of every image in every repeat, (L, n).
        original: (n,), the same for the images of a group; at least one image is in none.

    Returns:
        Of every group of which both was drawn, in ascending order of `original`, the mean gap where it was
        left out together minus the mean gap where none of its other images was left out with the image; (g,),
        and g may be 0.
    """
    gap, fold_of, original = (
        as_array("gap", gap, np.float64),
        as_array("fold_of", fold_of),
        as_array("original", original),
    )
    if gap.ndim != 2 or gap.shape != fold_of.shape or original.shape != gap.shape[1:]:
        raise ValueError(
            f"gap is {gap.shape}, fold_of {fold_of.shape} and original {original.shape}; "
            "allowed: (L, n), (L, n) and (n,)"
        )
    names, group_of, size = np.unique(original, return_inverse=True, return_counts=True)
    check_range(1, **{"images without duplicates": np.count_nonzero(size == 1)})
    gap = gap - gap[:, size[group_of] == 1].mean(1, keepdims=True)
    differences = []
    for g in np.flatnonzero(size > 1):
        own = group_of == g
        folds, gaps = fold_of[:, own], gap[:, own]
        mates = (folds[:, :, None] == folds[:, None, :]).sum(2) - 1  # (L, size): left out with each image
        together, apart = mates == size[g] - 1, mates == 0
        if together.any() and apart.any():
            differences.append(gaps[together].mean() - gaps[apart].mean())
    return np.array(differences)
